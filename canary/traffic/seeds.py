"""Numbers derived from names: equal on every machine and every version of numpy."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from canary.traffic.request import TokenBlocks


def stable_seed(*names: int | str) -> int:
    """Return a 63-bit number that depends on the names and their order alone."""
    return int.from_bytes(_digest(*names)[:8]) >> 1


def stable_uniform(*names: int | str) -> float:
    """Return a number in [0, 1) that depends on the names and their order alone."""
    return (stable_seed(*names) >> 10) / 2**53


def permuted(names: Sequence[str], seed: int) -> list[str]:
    """Return the names in an order that depends on the seed alone.

    Each order is the answer to as many seeds; a large one is as good as drawing anew.
    """
    left, order = list(names), []
    while left:
        seed, at = divmod(seed, len(left))
        order.append(left.pop(at))
    return order


def stable_uniforms(size: int, *names: int | str) -> npt.NDArray[np.float64]:
    """Return numbers in (0, 1), as many as asked for, that depend on the names alone.

    More of them begin with the same ones.
    """
    key = int.from_bytes(_digest("uniforms", *names))
    raw = np.asarray(np.random.Philox(key=key).random_raw(size), np.uint64)
    return ((raw >> np.uint64(12)).astype(np.float64) + 0.5) / 2**52


def token_blocks(
    blocks: TokenBlocks, *, request_id: str, low: int, high: int
) -> npt.NDArray[np.int64]:
    """Return the prompt: exactly `length_tokens` token ids in [low, high).

    A block's ids depend on its block id and `blocks.seed` alone, so prompts that share
    block ids share a real prefix; a partial last block is the beginning of its block.
    What no block id covers depends on `request_id` and `blocks.seed`.
    """
    if not 0 <= low < high < 2**31:
        raise ValueError(f"expected 0 <= low < high < 2**31, got {low} and {high}")
    size = blocks.block_tokens
    if len(blocks.block_ids) * size >= blocks.length_tokens + size:
        raise ValueError(f"{request_id} has more block ids than its prompt has blocks")
    bits_of = np.random.Philox(key=0)
    raw = [
        _stream(bits_of, size, "block", name, blocks.seed) for name in blocks.block_ids
    ]
    rest = blocks.length_tokens - len(raw) * size
    if rest > 0:
        raw.append(_stream(bits_of, rest, "request", request_id, blocks.seed))
    bits = (
        np.concatenate(raw)[: blocks.length_tokens] if raw else np.empty(0, np.uint64)
    )
    # The high 32 bits times the width, shifted back: uniform to width / 2**32.
    scaled = (bits >> np.uint64(32)) * np.uint64(high - low) >> np.uint64(32)
    return scaled.astype(np.int64) + low


def _stream(
    generator: np.random.Philox, size: int, *names: int | str
) -> npt.NDArray[np.uint64]:
    """Raw bits of a bit generator: numpy keeps these stable, unlike its Generator's.

    The generator gets the names' key and starts anew, which takes a tenth of the time
    of making one; a long prompt has hundreds of blocks.
    """
    digest = _digest("tokens", *names)
    state = generator.state
    state["state"]["key"][:] = np.frombuffer(digest, ">u8")[::-1]
    state["state"]["counter"][:] = 0
    state["buffer_pos"] = 4
    generator.state = state
    return np.asarray(generator.random_raw(size), np.uint64)


def _digest(*names: int | str) -> bytes:
    return hashlib.blake2b(json.dumps(names).encode(), digest_size=16).digest()
