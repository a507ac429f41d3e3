"""Every pattern by every kernel on one CUDA device, against the dense cuDNN kernel.

Run it: ``python tests/benchmarks/bench_attention_cuda.py [FILE]``; it takes ten
minutes, and writes its table to FILE too. Batch 1, bfloat16, causal prefill in the
memory order of a model, and decode; random inputs; the median of the calls by device
events. Dense is what `auto` takes for it (cuDNN on Hopper).

"x dense" is how many times faster than dense; "ideal" what the pattern's density would
give, and "of it" how much of that was reached.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter

import torch

from canary.attention import (
    Adaptive,
    AntidiagonalBlocks,
    ChosenBlocks,
    Dense,
    Hyperbolic,
    KernelEvidence,
    LocalGlobal,
    Memory,
    RandomBlocks,
    Relu,
    Rule,
    SlidingWindow,
    SoftThreshold,
    Strided,
    TriShape,
    attend,
)
from canary.errors import AttentionError

# ruff: noqa: T201 - a script's output
WINDOW = SlidingWindow(window=1024)
PATTERNS: tuple[Rule, ...] = (
    SlidingWindow(window=256),
    WINDOW,
    SlidingWindow(window=4096),
    LocalGlobal(window=1024, global_tokens=64),
    TriShape(window=1024, global_tokens=64),
    Strided(window=1024, stride=16),
    RandomBlocks(blocks=14, block=128),
    RandomBlocks(blocks=30, block=64),
    RandomBlocks(blocks=62, block=32),
    RandomBlocks(blocks=126, block=16),
    ChosenBlocks(choose="mean", blocks=16, block=128),
    ChosenBlocks(choose="bounds", blocks=16, block=128),
    AntidiagonalBlocks(choose="antidiagonal", mass=0.9),
    Adaptive(sparse=LocalGlobal(window=1024, global_tokens=64)),
    Relu(within=WINDOW),
    SoftThreshold(threshold=0.001, within=WINDOW),
    Hyperbolic(model="lorentz", within=WINDOW),
    Hyperbolic(model="poincare", within=WINDOW),
    Relu(),
    Hyperbolic(model="lorentz"),
)
LENGTHS_TOKENS = (4096, 8192, 16384, 32768, 65536, 131072)
SHAPES = {"32 heads of 128": (32, 32), "32 query heads on 8 key heads of 128": (32, 8)}
WIDTH = 128
_ENOUGH_S = 0.12
"""How long a cell is measured, if three calls don't take longer."""


def call_ms(call: Callable[[], object]) -> float:
    """Return the median milliseconds of a call, by the device's clock.

    Ten calls in a row, or fewer where they are long, as the layers of a model are.
    """
    call()  # compiles and plans
    in_a_row, times = 1, list[float]()
    while len(times) < 3 or (sum(times) * in_a_row < _ENOUGH_S * 1e3):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(in_a_row):
            call()
        ended.record()
        torch.cuda.synchronize()
        times.append(began.elapsed_time(ended) / in_a_row)
        if in_a_row == 1 and times[0] < _ENOUGH_S * 1e2:
            in_a_row, times = 10, []
    return median(times)


def tensors(heads: int, kv_heads: int, q_len: int, kv_len: int) -> list[torch.Tensor]:
    """Draw q, k and v."""
    return [
        torch.randn(1, t, h, WIDTH, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        for h, t in ((heads, q_len), (kv_heads, kv_len), (kv_heads, kv_len))
    ]


def kernels_of(rule: Rule, length: int, *, grouped: bool) -> tuple[str, ...]:
    """Return what is worth a row: not each way to be slow at each length."""
    if isinstance(rule, Adaptive):
        return ("auto",)
    if not rule.table_free and (
        length > 32768 or not isinstance(rule, RandomBlocks) or rule.block < 128
    ):
        return ("auto",)
    if grouped or length > 32768:
        return ("auto", "xformers")
    return ("auto", "flex", "xformers")


def measure(
    rule: Rule, kernel: str, qkv: list[torch.Tensor]
) -> tuple[float, float, KernelEvidence] | None:
    """Return milliseconds, MiB beside in- and outputs, and evidence; None: refused."""
    gc.collect()
    base = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    try:
        out, evidence = attend(*qkv, rule, backend=kernel)
    except AttentionError:
        return None
    out_bytes = out.numel() * out.element_size()
    ms = call_ms(lambda: attend(*qkv, rule, backend=kernel))
    del out
    peak = torch.cuda.max_memory_allocated() - base - 2 * out_bytes
    return ms, max(0.0, peak / 2**20), evidence


def prefill(heads: int, kv_heads: int) -> Iterator[str]:
    """Yield a line for each length, pattern and kernel; then where each pays."""
    pays: dict[Rule, list[int]] = {}
    for length in LENGTHS_TOKENS:
        qkv = tensors(heads, kv_heads, length, length)
        dense = attend(*qkv, Dense())[1]
        dense_ms = call_ms(lambda: attend(*qkv, Dense()))  # noqa: B023 - at once
        yield f"\n{length} tokens; dense by {dense}: {dense_ms:.3f} ms"
        yield (
            f"{'pattern':68} {'kernel':10} {'ms':>8} {'x dense':>8} {'ideal':>7} "
            f"{'of it':>6} {'density (least-most)':>23} {'MiB':>6}"
        )
        for rule in PATTERNS:
            for kernel in kernels_of(rule, length, grouped=heads != kv_heads):
                found = measure(rule, kernel, qkv)
                if found is None:
                    continue
                ms, mib, evidence = found
                overall, least, most = evidence.density()
                times, ideal = dense_ms / ms, 1 / overall
                if kernel == "auto" and times > 1:
                    pays.setdefault(rule, []).append(length)
                density = f"{overall:.4f} ({least:.3f}-{most:.3f})"
                yield (
                    f"{rule!s:68} {evidence.name:10} {ms:8.3f} {times:8.2f} "
                    f"{ideal:7.1f} {times / ideal:6.2f} {density:>23} {mib:6.0f}"
                )
    yield "\nFrom which of these lengths on a pattern is faster than dense:"
    for rule in PATTERNS:
        ends = [n for n in LENGTHS_TOKENS if n not in pays.get(rule, [])]
        first = next((n for n in LENGTHS_TOKENS if n > max(ends, default=0)), None)
        yield f"{rule!s:68} {first or f'none up to {LENGTHS_TOKENS[-1]}'}"


def decode(heads: int, kv_heads: int) -> Iterator[str]:
    """Yield microseconds a token, by pattern and by how many keys there are."""
    lengths = (8192, 32768, 131072)
    yield f"\n{'one token, microseconds, at so many keys':68}" + "".join(
        f"{n:>10}" for n in lengths
    )
    rules = (Dense(), WINDOW, *PATTERNS[3:8], *PATTERNS[10:12])
    for rule in rules:
        cells = []
        for length in lengths:
            qkv = tensors(heads, kv_heads, 1, length)
            memory = Memory(prompt_tokens=length - 1)
            ms = call_ms(lambda: attend(*qkv, rule, memory=memory))  # noqa: B023 - at once
            cells.append(f"{ms * 1e3:10.1f}")
        yield f"{rule!s:68}" + "".join(cells)


def lines() -> Iterator[str]:
    """Yield the whole report."""
    yield f"torch {torch.__version__}, {torch.cuda.get_device_name()}"
    for name, (heads, kv_heads) in SHAPES.items():
        yield f"\n{name}, bfloat16, batch 1"
        yield from prefill(heads, kv_heads)
        yield from decode(heads, kv_heads)


def main() -> None:
    """Print the report as it is made, and keep it."""
    began = perf_counter()
    kept = []
    for line in lines():
        print(line, flush=True)
        kept.append(line)
        if len(sys.argv) > 1:
            with open(sys.argv[1], "w", encoding="utf-8") as file:  # noqa: PTH123 - a path from the command line
                file.write("\n".join(kept) + "\n")
    print(f"\n{perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    if torch.cuda.is_available():
        with torch.inference_mode():
            main()
    else:
        print("no CUDA device: nothing to measure")
