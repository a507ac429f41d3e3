"""How much faster sparse attention is than dense, as ratios within one run.

Run it: ``python tests/benchmarks/bench_attention.py``. One layer, batch 1, 4 heads of
64, float32, all threads that torch takes. Dense and sparse calls alternate, so that
other work on the machine meets both; the best of the rounds counts.
"""

from time import perf_counter

import torch

from canary.attention import (
    ChosenBlocks,
    Dense,
    LocalGlobal,
    Pattern,
    RandomBlocks,
    SlidingWindow,
    TriShape,
    attend,
)

ROUNDS = 9
LENGTHS_TOKENS = (1024, 2048, 4096, 8192)
PATTERNS: tuple[Pattern, ...] = (
    SlidingWindow(window=64),
    SlidingWindow(window=256),
    SlidingWindow(window=1024),
    LocalGlobal(window=256, global_tokens=64),
    LocalGlobal(window=1024, global_tokens=256),
    TriShape(window=256, global_tokens=64),
    RandomBlocks(blocks=8, block=64),
    ChosenBlocks(choose="bounds", blocks=8, block=64),
)


def best_s(q_len: int, kv_len: int, calls: int) -> dict[Pattern, float]:
    """Return the best seconds a call, per pattern, for one pair of lengths."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 4, q_len, 64, generator=generator)
    k, v = (torch.randn(1, 4, kv_len, 64, generator=generator) for _ in range(2))
    best: dict[Pattern, float] = {}
    for lap in range(ROUNDS + 1):
        for pattern in (Dense(), *PATTERNS):
            start = perf_counter()
            for _ in range(calls):
                attend(q, k, v, pattern)
            took_s = (perf_counter() - start) / calls
            if lap:  # the first one fills the caches
                best[pattern] = min(took_s, best.get(pattern, took_s))
    return best


def main() -> None:
    """Print a table for prefill and one for decode: dense in ms, then dense/sparse."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")  # noqa: T201 - a script's output
    for phase, calls in (("prefill", 1), ("decode", 100)):
        print(f"\n{phase:42}" + "".join(f"{n:>9}" for n in LENGTHS_TOKENS))  # noqa: T201 - a script's output
        columns = [
            best_s(n if phase == "prefill" else 1, n, calls) for n in LENGTHS_TOKENS
        ]
        dense_ms = [column[Dense()] * 1e3 for column in columns]
        print(f"{'dense, ms':42}" + "".join(f"{ms:9.3f}" for ms in dense_ms))  # noqa: T201 - a script's output
        for pattern in PATTERNS:
            ratios = [column[Dense()] / column[pattern] for column in columns]
            print(f"{pattern!s:42}" + "".join(f"{r:8.2f}x" for r in ratios))  # noqa: T201 - a script's output


if __name__ == "__main__":
    with torch.inference_mode():
        main()
