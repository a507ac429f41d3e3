"""How blocks of keys are ranked and chosen: the run-time half of `chosen`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from canary.attention.masks import NO_BLOCK, Table
from canary.attention.rules import Look

if TYPE_CHECKING:
    from canary.attention.chosen import AntidiagonalBlocks, ChosenBlocks

_MOST_SCORE_BYTES = 2**30


@dataclass(slots=True, eq=False)
class KeyBlocks:
    """What is known of the complete blocks of keys of a layer, (B, Hkv, blocks, ...).

    By `choose: mean` the mean key, D numbers, in float32 at least; by `bounds` the
    largest and then the least value by dimension, 2 D numbers.
    """

    choose: str
    block: int
    known: torch.Tensor

    @staticmethod
    def none(choose: str, block: int, k: torch.Tensor) -> "KeyBlocks":
        """Return the knowledge of no block."""
        empty = KeyBlocks(choose, block, k[:, :, :0])
        return KeyBlocks(choose, block, empty.summary(k[:, :, :0]))

    def __len__(self) -> int:
        """Return how many blocks there are."""
        return self.known.shape[2]

    def extended(self, k: torch.Tensor) -> "KeyBlocks":
        """Return this with the blocks of k that have become complete since."""
        size, complete = self.block, k.shape[2] // self.block
        if complete <= len(self):
            return self
        more = self.summary(k[:, :, len(self) * size : complete * size])
        known = torch.cat([self.known, more], 2) if len(self) else more
        return KeyBlocks(self.choose, size, known)

    def summary(self, k: torch.Tensor) -> torch.Tensor:
        """Sum up keys (B, Hkv, T, D), T a multiple of the block."""
        parts = k.unflatten(2, (-1, self.block))
        if self.choose == "mean":
            exact = torch.promote_types(k.dtype, torch.float32)
            mean: torch.Tensor = parts.mean(3, dtype=exact)
            return mean
        return torch.cat([parts.amax(3), parts.amin(3)], -1)


def best_blocks(rule: "ChosenBlocks", look: Look) -> Table:
    """Return the blocks that rank best for each query, or block of queries."""
    assert look.q is not None  # noqa: S101 - `chooses` says that it is there
    known = _key_blocks(rule, look)
    start, block = look.kv_len - look.q_len, rule.block
    alone = rule.per == "query" or look.decodes
    q_block = 1 if alone else block
    first, last = start // q_block, (look.kv_len - 1) // q_block
    lists = []
    batch, heads = look.q.shape[:2]
    scored = 1 if alone or rule.choose == "mean" else block
    row_bytes = 4 * batch * heads * max(1, len(known)) * scored
    step = max(1, _MOST_SCORE_BYTES // row_bytes)
    for low in range(first, last + 1, step):
        high = min(low + step, last + 1)
        begin, end = max(low * q_block, start), min(high * q_block, look.kv_len)
        q = look.q[:, :, begin - start : end - start]
        if rule.per == "block" and not alone:
            scores = _by_row(rule, known, q, begin - low * block)
        else:
            scores = _scores(rule, known, q)
        row = torch.arange(low, high, device=q.device)
        own = row // block if alone else row
        lists.append(_first_own_previous(scores, own, rule.blocks))
    return Table(torch.cat(lists, 2), q_block, block, first)


def _key_blocks(rule: "ChosenBlocks", look: Look) -> KeyBlocks:
    """Return what is known of complete blocks; remembered, if there is a memory."""
    assert look.k is not None  # noqa: S101 - as above
    remembered = {} if look.memory is None else look.memory.blocks
    known = remembered.get(look.layer)
    if known is None:
        known = KeyBlocks.none(rule.choose, rule.block, look.k)
    remembered[look.layer] = known.extended(look.k)
    return remembered[look.layer]


def _scores(rule: "ChosenBlocks", known: KeyBlocks, q: torch.Tensor) -> torch.Tensor:
    """Rank blocks for each query: (B, H, Tq, blocks)."""
    groups = q.shape[1] // known.known.shape[1]
    if rule.choose == "bounds":
        # The larger of q * low and q * high in each dimension: high where q is above
        # zero and low where it is below, in one product.
        q = torch.cat([q.clamp(min=0), q.clamp(max=0)], -1)
    return _shared(q, known.known, groups)


def _shared(q: torch.Tensor, keys: torch.Tensor, groups: int) -> torch.Tensor:
    """Return q @ keys^T in float32 at least, query heads sharing key heads in groups.

    Rounded scores would tie, and other blocks be chosen than in double precision.
    """
    b, h, t, d = q.shape
    grouped = q.reshape(b * h // groups, groups * t, d)
    other = keys.reshape(b * h // groups, -1, d)
    if q.device.type == "cuda" and q.dtype == keys.dtype == torch.bfloat16:
        scores = torch.bmm(grouped, other.mT, out_dtype=torch.float32)
    else:
        exact = torch.promote_types(q.dtype, torch.float32)
        scores = grouped.to(exact) @ other.to(exact).mT
    return scores.view(b, h, t, -1)


def _by_row(
    rule: "ChosenBlocks", known: KeyBlocks, q: torch.Tensor, before: int
) -> torch.Tensor:
    """Rank blocks once for each block of queries; the first lacks `before` of them."""
    size, tokens = rule.block, q.shape[2]
    rows = -(-(before + tokens) // size)
    behind = rows * size - before - tokens
    if rule.choose == "mean":
        count = torch.full((rows, 1), float(size), device=q.device)
        count[0] -= before
        count[-1] -= behind
        parts = _rows_of(q, before, behind, 0.0).unflatten(2, (rows, size))
        mean = parts.sum(3, dtype=known.known.dtype) / count
        return _scores(rule, known, mean)
    scores = _rows_of(_scores(rule, known, q), before, behind, -torch.inf)
    best: torch.Tensor = scores.unflatten(2, (rows, size)).amax(3)
    return best


def _rows_of(x: torch.Tensor, before: int, behind: int, value: float) -> torch.Tensor:
    """Fill (B, H, T, ...) up to whole rows, without a copy where it is one."""
    if not before and not behind:
        return x
    return torch.nn.functional.pad(x, (0, 0, before, behind), value=value)


def _first_own_previous(
    scores: torch.Tensor, own: torch.Tensor, blocks: int
) -> torch.Tensor:
    """Choose the first block, the own one, the one before it and the best others.

    Returns lists, (B, H, rows, up to `blocks`).
    """
    column = torch.arange(scores.shape[3], device=scores.device)
    other = (column >= 1) & (column < own[:, None] - 1)
    ranked = scores.masked_fill(~other, -torch.inf)
    best = ranked.topk(min(blocks - 3, scores.shape[3]), dim=3)
    picks = best.indices.where(best.values > -torch.inf, NO_BLOCK)
    always = torch.stack(
        [
            torch.zeros_like(own),
            (own - 1).where(own > 1, NO_BLOCK),
            own.where(own > 0, NO_BLOCK),
        ],
        dim=1,
    )
    every = always.expand(*picks.shape[:3], 3)
    return compact(torch.cat([every, picks], 3))


def compact(lists: torch.Tensor) -> torch.Tensor:
    """Sort each list, what fills it up last; int32."""
    filler = torch.iinfo(torch.int32).max
    ordered = lists.to(torch.int32).where(lists >= 0, filler).sort(dim=3).values
    return ordered.where(ordered < filler, NO_BLOCK)


def antidiagonal_blocks(rule: "AntidiagonalBlocks", look: Look) -> Table:
    """Return the fewest blocks that reach the mass, for each block of queries."""
    assert look.q is not None  # noqa: S101 - `chooses` says that they are there
    assert look.k is not None  # noqa: S101 - as above
    start, block = look.kv_len - look.q_len, rule.block
    first, last = start // block, (look.kv_len - 1) // block
    before, behind = start - first * block, (last + 1) * block - look.kv_len
    q = _rows_of(look.q, before, behind, 0.0)
    k = _rows_of(look.k, 0, behind, 0.0)
    # Queries in reverse: the dot product of the joined vectors is an antidiagonal.
    joined_q = q.unflatten(2, (-1, rule.stride)).flip(3).flatten(3)
    joined_k = k.unflatten(2, (-1, rule.stride)).flatten(3)
    batch, heads = q.shape[:2]
    groups, parts = heads // k.shape[1], block // rule.stride
    scale = q.shape[3] ** -0.5 / rule.stride
    columns = torch.arange(last + 1, device=q.device)
    tables = []
    step = max(1, _MOST_SCORE_BYTES // (8 * batch * heads * joined_k.shape[2] * parts))
    for low in range(first, last + 1, step):
        high = min(low + step, last + 1)
        part = joined_q[:, :, (low - first) * parts : (high - first) * parts]
        scores = _shared(part, joined_k, groups) * scale
        i = torch.arange(low * parts, high * parts, device=q.device)[:, None]
        j = torch.arange(joined_k.shape[2], device=q.device)
        shares = scores.masked_fill_(j > i, -torch.inf).softmax(3)
        mass = shares.unflatten(3, (-1, parts)).sum(4).unflatten(2, (-1, parts)).sum(3)
        row = torch.arange(low, high, device=q.device)[:, None]
        tables.append(_fewest(mass / parts, rule.mass, columns, row))
    width = max(table.shape[3] for table in tables)
    filled = [
        torch.nn.functional.pad(table, (0, width - table.shape[3]), value=NO_BLOCK)
        for table in tables
    ]
    return Table(compact(torch.cat(filled, 2)), block, block, first)


def _fewest(
    mass: torch.Tensor, least: float, columns: torch.Tensor, row: torch.Tensor
) -> torch.Tensor:
    """Take the first block and the own one, then by mass until `least` is reached."""
    always = (columns == 0) | (columns == row)
    order = mass.masked_fill(always, torch.inf).argsort(dim=3, descending=True)
    sorted_mass = mass.gather(3, order)
    reached = sorted_mass.cumsum(3) - sorted_mass
    taken = (reached < least) | always.expand_as(mass).gather(3, order)
    taken &= order <= row
    width = int(taken.sum(3).max())
    return order.where(taken, NO_BLOCK)[..., :width]
