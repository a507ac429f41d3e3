"""How many times faster than dense sparse patterns are here. For `canary doctor`."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

import torch

from canary.attention.check import Tensors, first_line, one_thread
from canary.attention.chosen import ChosenBlocks
from canary.attention.kernels import attend
from canary.attention.rules import Dense, LocalGlobal, Rule, SlidingWindow, TriShape
from canary.attention.scores import Hyperbolic, Relu
from canary.attention.tables import RandomBlocks
from canary.clock import Clock

PAYS = 1.05
"""How many times faster a pattern is at the least that pays: less is noise."""

_WINDOW = SlidingWindow(window=1024)
PATTERNS: dict[str, dict[str, Rule]] = {
    "cpu": {
        "sliding_window 256": SlidingWindow(window=256),
        "local_global 256 + 64": LocalGlobal(window=256, global_tokens=64),
        "tri_shape 256 + 64": TriShape(window=256, global_tokens=64),
        "random_blocks 8 of 64": RandomBlocks(blocks=8, block=64),
        "block_sparse bounds 8 of 64": ChosenBlocks(
            choose="bounds", blocks=8, block=64
        ),
    },
    "cuda": {
        "sliding_window 1024": _WINDOW,
        "local_global 1024 + 64": LocalGlobal(window=1024, global_tokens=64),
        "random_blocks 16 of 128": RandomBlocks(blocks=16, block=128),
        "relu within 1024": Relu(within=_WINDOW),
        "hyperbolic within 1024": Hyperbolic(model="lorentz", within=_WINDOW),
    },
}
LENGTHS_TOKENS = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 32768)}
_SHAPES = {"cpu": (4, 64, torch.float32), "cuda": (32, 128, torch.bfloat16)}
"""Heads, their width, and the dtype."""

_DENSE = "dense"
_FEW_ROUNDS, _MOST_ROUNDS = 3, 15
_ENOUGH_S, _TOO_LONG_S = 0.5, 2.0
"""How long a length is measured; and when even few rounds aren't waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One pattern's prefill at one length, and dense beside it: medians of few calls.

    `pattern` is the key in `PATTERNS`, `rule` the rule's own name, `ran` the kernel
    that auto took. Where it couldn't run, `problem` says why and `sparse_ms` is None;
    where dense couldn't, both times are.
    """

    device: str
    dtype: str
    pattern: str
    rule: str
    tokens: int
    ran: str
    dense_ms: float | None
    sparse_ms: float | None
    problem: str | None

    @property
    def times_faster(self) -> float | None:
        """How many times faster than dense; below 1 it is slower."""
        if self.dense_ms is None or self.sparse_ms is None:
            return None
        return self.dense_ms / self.sparse_ms

    @property
    def pays(self) -> bool:
        """Whether it is faster by more than the noise of a few calls."""
        return self.times_faster is not None and self.times_faster >= PAYS


def pays_from(rows: Iterable[Speed]) -> int | None:
    """Return the shortest length from which on a pattern pays at all that are longer.

    Args:
        rows: One pattern's, in any order.

    Returns:
        The length in tokens, or None if it doesn't pay at the longest.
    """
    shortest = None
    for row in sorted(rows, key=lambda row: row.tokens, reverse=True):
        if not row.pays:
            break
        shortest = row.tokens
    return shortest


def speed(device: str, *, clock: Clock = time.perf_counter) -> tuple[Speed, ...]:
    """Time the patterns of a kind of device at its lengths, through ``auto``.

    Each length is measured for half a second, in rounds that call dense and every
    pattern once, so that whatever slows the machine down meets all of them: quick calls
    get up to 15 rounds, slow ones three, or fewer if two seconds are over. The call
    before the first round compiles. A CPU computes on one thread, so that other work on
    it isn't taken for a pattern's; reading prompts on more, a run gains somewhat less.
    """
    found: list[Speed] = []
    kind = torch.device(device).type
    for tokens in LENGTHS_TOKENS[kind]:
        try:
            with torch.inference_mode(), one_thread():
                found += _at_length(device, tokens, clock)
        except torch.OutOfMemoryError:
            break  # nor is there room for longer ones
    return tuple(found)


def _at_length(device: str, tokens: int, clock: Clock) -> list[Speed]:
    tensors = _tensors(device, tokens)
    patterns = PATTERNS[torch.device(device).type]
    ran, problems = _warm(tensors, {_DENSE: Dense(), **patterns})
    runnable = {name: rule for name, rule in patterns.items() if name in ran}
    times: dict[str, float] = {}
    if _DENSE in ran:
        times = _times(tensors, {_DENSE: Dense(), **runnable}, clock)
    return [
        Speed(
            device=device,
            dtype=str(tensors[0].dtype).removeprefix("torch."),
            pattern=name,
            rule=str(rule),
            tokens=tokens,
            ran=ran.get(name, ""),
            dense_ms=times.get(_DENSE),
            sparse_ms=times.get(name),
            problem=problems.get(name, problems.get(_DENSE)),
        )
        for name, rule in patterns.items()
    ]


def _tensors(device: str, tokens: int) -> Tensors:
    """Draw q, k and v in the memory order of a model."""
    heads, width, dtype = _SHAPES[torch.device(device).type]
    chance = torch.Generator(device).manual_seed(tokens)
    q, k, v = (
        torch.randn(
            1, tokens, heads, width, generator=chance, device=device, dtype=dtype
        ).transpose(1, 2)
        for _ in range(3)
    )
    return q, k, v


def _warm(
    tensors: Tensors, rules: dict[str, Rule]
) -> tuple[dict[str, str], dict[str, str]]:
    """Call each rule once; return which kernel ran, or what kept it from running."""
    ran: dict[str, str] = {}
    problems: dict[str, str] = {}
    for name, rule in rules.items():
        try:
            ran[name] = attend(*tensors, rule)[1].name
        except Exception as failure:  # noqa: BLE001 - compilers and loaders raise anything
            problems[name] = first_line(failure)
    return ran, problems


def _times(tensors: Tensors, rules: dict[str, Rule], clock: Clock) -> dict[str, float]:
    """Return the median milliseconds of a call, by rule."""
    device = tensors[0].device

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    times: dict[str, list[float]] = {name: [] for name in rules}
    began = now()
    for n in range(1, _MOST_ROUNDS + 1):
        for name, rule in rules.items():
            before = now()
            attend(*tensors, rule)
            times[name].append(now() - before)
        if now() - began >= (_ENOUGH_S if n >= _FEW_ROUNDS else _TOO_LONG_S):
            break
    return {name: median(each) * 1e3 for name, each in times.items()}
