"""Each kernel on one CUDA device, in milliseconds, and what the model makes of them.

Run it: ``python tests/benchmarks/bench_attention_cuda.py``. Batch 1, bfloat16, causal,
in the memory order of a model; prefill by device events, the median of the calls. The
reference model is timed as an arm serves it, by the clock of the CPU.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from canary.attention import Dense, LocalGlobal, Rule, SlidingWindow, attend
from canary.policy.model import VariantSpec
from canary.traffic.request import Request, TokenBlocks
from canary.variants import build

# ruff: noqa: T201 - a script's output
CALLS = 15
SHAPES = {
    (4, 64): (128, 256, 512, 1024, 2048, 4096, 8192),
    (32, 128): (1024, 4096, 8192, 16384, 32768),
}
"""Heads and their width to lengths in tokens."""
WINDOW = SlidingWindow(window=256)
WIDE_WINDOW = SlidingWindow(window=1024)
GLOBALS = LocalGlobal(window=1024, global_tokens=256)
COLUMNS: tuple[tuple[Rule, str], ...] = (
    (Dense(), "auto"),
    *(
        (rule, kernel)
        for rule in (WINDOW, WIDE_WINDOW, GLOBALS)
        for kernel in ("flex",)
    ),
    (WINDOW, "blocked"),
    (GLOBALS, "blocked"),
)
ATTENTIONS = (
    "dense",
    {"pattern": "sliding_window", "window": 256},
    {"pattern": "local_global", "window": 1024, "global_tokens": 256},
)


def call_ms(call: Callable[[], object]) -> float:
    """Return the median milliseconds of a call, by the device's clock."""
    times = []
    for lap in range(CALLS + 2):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        call()
        ended.record()
        torch.cuda.synchronize()
        if lap > 1:  # the first ones compile and plan
            times.append(began.elapsed_time(ended))
    return median(times)


def print_kernels(heads: int, width: int, lengths: tuple[int, ...]) -> None:
    """Print a line for each rule and kernel, prefill by length."""
    print(
        f"\n{f'prefill, {heads} heads of {width}, ms':48}",
        *(f"{n:>8}" for n in lengths),
    )
    for rule, kernel in COLUMNS:
        cells = []
        for length in lengths:
            q, k, v = (
                torch.randn(
                    1, length, heads, width, device="cuda", dtype=torch.bfloat16
                ).transpose(1, 2)
                for _ in range(3)
            )
            name = attend(q, k, v, rule, backend=kernel)[1].name
            cells.append(call_ms(lambda: attend(q, k, v, rule, backend=kernel)))  # noqa: B023 - called at once
        print(f"{f'{name}[{rule}]':48}", *(f"{ms:8.3f}" for ms in cells))


def print_model() -> None:
    """Print how long the reference model takes: to load, to read, and for a token."""
    lengths = (1000, 1024, 4000, 4096, 8000, 8192)
    print(
        f"\n{'reference model, prefill ms, then ms a token':48}",
        *(f"{n:>14}" for n in lengths),
    )
    for attention in ATTENTIONS:
        began = perf_counter()
        variant = build(VariantSpec(model="reference", attention=attention))
        load_s = perf_counter() - began
        cells = []
        for length in lengths:
            request = Request(
                request_id="bench",
                kind="latency",
                arrival_s=0.0,
                max_output_tokens=65,
                blocks=TokenBlocks(length_tokens=length, seed=1),
            )
            made = [variant.generate(request) for _ in range(7)]
            first = made[0].first_token_s * 1e3
            ttft = median(one.first_token_s for one in made[1:]) * 1e3
            token = median(one.end_s - one.first_token_s for one in made[1:]) / 64 * 1e3
            cells.append(f"{first:4.1f} {ttft:4.1f} {token:4.2f}")
        print(
            f"{variant.describe()['attention']:48}",
            *(f"{cell:>14}" for cell in cells),
            f" loaded in {load_s:.1f} s; {', '.join(made[0].kernels)}",
        )


if __name__ == "__main__":
    if torch.cuda.is_available():
        print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
        with torch.inference_mode():
            for (heads, width), lengths in SHAPES.items():
                print_kernels(heads, width, lengths)
        print_model()
    else:
        print("no CUDA device: nothing to measure")
