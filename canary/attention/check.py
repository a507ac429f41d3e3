"""Does each kernel do here what the reference does? What `canary doctor` runs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch

from canary.attention.flex import compiles
from canary.attention.kernels import KERNELS, attend
from canary.attention.rules import Dense, LocalGlobal, Rule, SlidingWindow
from canary.errors import AttentionError

BARS = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 3e-2}
"""Largest absolute error by dtype: a few roundings of outputs of up to about 4."""

_DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("bfloat16", "float16", "float32")}
"""By device, the one first that models are served in."""

_RULES: tuple[Rule, ...] = (
    Dense(),
    SlidingWindow(window=100),
    LocalGlobal(window=100, global_tokens=50),
)
_LENGTHS = {"prefill": (300, 300), "chunk": (150, 401), "decode": (1, 333)}
_HEADS, _KV_HEADS, _WIDTH = 4, 2, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One kernel on one rule, device, dtype and phase, against float64.

    `ran` is what the evidence names; `error` the largest absolute difference, `bar`
    what it may be. Where the kernel couldn't run, `problem` says why and `error` is
    None.
    """

    kernel: str
    pattern: str
    device: str
    dtype: str
    phase: str
    ran: str
    reason: str
    error: float | None
    bar: float
    problem: str | None

    @property
    def disagrees(self) -> bool:
        """Whether it ran and gave something else than the reference."""
        return self.error is not None and not self.error <= self.bar


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where kernels can run: name, memory in bytes (None: the machine's own)."""

    device: str
    name: str
    memory_bytes: int | None
    compiles: bool


def devices() -> tuple[Device, ...]:
    """Return the CPU and each CUDA device."""
    found = [Device(device="cpu", name="CPU", memory_bytes=None, compiles=False)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            Device(
                device=f"cuda:{index}",
                name=properties.name,
                memory_bytes=properties.total_memory,
                compiles=compiles(torch.device("cuda", index)),
            )
        )
    return tuple(found)


@torch.inference_mode()
def check_kernels(device: str) -> Iterator[Check]:
    """Run every kernel, and what ``auto`` picks, on small random tensors."""
    kernels = ("auto", *(name for name in sorted(KERNELS) if name != "reference"))
    dtypes = _DTYPES[torch.device(device).type]
    for dtype, (phase, lengths), rule in product(dtypes, _LENGTHS.items(), _RULES):
        tensors = _tensors(*lengths, device, dtype)
        q, k, v = (x.double() for x in tensors)
        exact, _ = attend(q, k, v, rule, backend="reference")
        for kernel in kernels:
            # Refused by `attend`, wherever it runs; and run by another kernel.
            refused = kernel == "sdpa" and not isinstance(rule, Dense)
            if not refused and (kernel, phase) != ("flex", "decode"):
                yield _check(kernel, rule, phase, tensors, exact)


Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _tensors(q_len: int, kv_len: int, device: str, dtype: str) -> Tensors:
    chance = torch.Generator().manual_seed(q_len + kv_len)
    shapes = ((_HEADS, q_len), (_KV_HEADS, kv_len), (_KV_HEADS, kv_len))
    q, k, v = (
        torch.randn(1, heads, tokens, _WIDTH, generator=chance).to(
            device, getattr(torch, dtype)
        )
        for heads, tokens in shapes
    )
    return q, k, v


def _check(
    kernel: str, rule: Rule, phase: str, tensors: Tensors, exact: torch.Tensor
) -> Check:
    q = tensors[0]
    dtype = str(q.dtype).removeprefix("torch.")
    ran, reason, error, problem = "", "", None, None
    try:
        out, evidence = attend(*tensors, rule, backend=kernel)
        ran, reason = evidence.name, evidence.reason
        error = (out.double() - exact).abs().max().item()
    except (AttentionError, RuntimeError, NotImplementedError) as failure:
        # What torch and its compilers raise where they lack something.
        problem = (str(failure).strip() or type(failure).__name__).splitlines()[0]
    return Check(
        kernel=kernel,
        pattern=rule.name,
        device=str(q.device),
        dtype=dtype,
        phase=phase,
        ran=ran,
        reason=reason,
        error=math.inf if error is not None and math.isnan(error) else error,
        bar=BARS[dtype],
        problem=problem,
    )
