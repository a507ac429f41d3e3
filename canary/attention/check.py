"""Does each kernel do here what the reference does? What `canary doctor` runs."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch

from canary.attention.chosen import AntidiagonalBlocks, ChosenBlocks
from canary.attention.flex import compiles
from canary.attention.fused import fused_refuses
from canary.attention.heads import Adaptive, HeadMix
from canary.attention.kernels import KERNELS, attend
from canary.attention.memory import Memory
from canary.attention.rules import (
    Dense,
    LocalGlobal,
    Look,
    Rule,
    SlidingWindow,
    Strided,
    TriShape,
)
from canary.attention.scores import Hyperbolic, Relu, SoftThreshold
from canary.attention.tables import RandomBlocks
from canary.attention.xformers import xformers_refuses

BARS = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 3e-2}
"""Largest absolute error by dtype: a few roundings of outputs of up to about 4."""

_DTYPES = {"cpu": ("float32", "bfloat16"), "cuda": ("bfloat16", "float16", "float32")}
"""By device, the one first that models are served in."""

_WINDOW = SlidingWindow(window=100)
_GLOBALS = LocalGlobal(window=100, global_tokens=50)
RULES: dict[str, Rule] = {
    "dense": Dense(),
    "sliding_window": _WINDOW,
    "local_global": _GLOBALS,
    "tri_shape": TriShape(window=100, global_tokens=50, last_queries=40),
    "strided": Strided(window=50, stride=3, block=32),
    "random_blocks": RandomBlocks(blocks=2, block=32),
    "block_sparse mean": ChosenBlocks(choose="mean", blocks=5, block=32),
    "block_sparse bounds": ChosenBlocks(choose="bounds", blocks=5, block=32),
    "block_sparse antidiagonal": AntidiagonalBlocks(
        choose="antidiagonal", mass=0.6, block=32, stride=8
    ),
    "relu": Relu(within=_WINDOW),
    "soft_threshold": SoftThreshold(threshold=0.005, within=_WINDOW),
    "hyperbolic lorentz": Hyperbolic(model="lorentz", within=_WINDOW),
    "hyperbolic poincare": Hyperbolic(model="poincare", within=_WINDOW),
    "adaptive": Adaptive(sparse=_GLOBALS, mass=0.42),
}
"""An example of each pattern; head tables and block tables from files run as adaptive
and random_blocks do.

Rules that choose by content do so from scores in float32 at least, and the reference
from the same inputs in float64: only a tie nearer than float32 tells apart could make
them choose differently. There is none at these sizes and seeds, in any dtype (a test
moves the inputs by 1e-4 of themselves, and nothing is chosen otherwise), so these rules
are held to the same bars as all others.
"""

_LENGTHS = {"prefill": (300, 300), "chunk": (150, 318), "decode": (1, 333)}
"""Queries and keys; at these `adaptive` makes some heads sparse, and others not."""
_HEADS, _KV_HEADS, _WIDTH = 4, 2, 64
_DECIDED = ((True, True, False, True),)
"""Which heads decode as sparse ones, as a prompt of `adaptive` might have decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One kernel on one rule, device, dtype and phase, against float64.

    `pattern` is the key in `RULES`, `rule` the rule's own name; `ran` is what the
    evidence names; `error` the largest absolute difference, `bar` what it may be. Where
    the kernel couldn't run, `problem` says why and `error` is None.
    """

    kernel: str
    pattern: str
    rule: str
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
class Refusal:
    """What a kernel isn't made for; None: for any pattern, in any phase."""

    kernel: str
    device: str
    dtype: str
    pattern: str | None
    phase: str | None
    reason: str


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


def cudnn_version() -> str | None:
    """Return the version of cuDNN that torch would use; None: it has none."""
    number = torch.backends.cudnn.version()
    return None if number is None else str(number)


def check_kernels(device: str) -> tuple[Check | Refusal, ...]:
    """Run every kernel, and what ``auto`` picks, on small random tensors."""
    dtypes = _DTYPES[torch.device(device).type]
    found: list[Check | Refusal] = []
    with torch.inference_mode(), one_thread():
        for dtype in dtypes:
            kernels: list[str] = []
            for kernel in _kernels(served=dtype == dtypes[0]):
                tensors = _tensors(2, 2, device, dtype)
                reason = _refuses(kernel, Dense(), _look(tensors))
                if reason is None:
                    kernels.append(kernel)
                else:
                    found.append(_refusal(kernel, None, None, tensors, reason))
            for phase, pattern in product(_LENGTHS, RULES):
                found += _check_all(kernels, pattern, phase, device, dtype)
    return tuple(found)


Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _kernels(*, served: bool) -> tuple[str, ...]:
    """Return what is checked in a dtype, which may be the one that is served in.

    Flex is traced or compiled anew for each weighing, kind of mask and dtype, a second
    a time on a CPU and several on CUDA, where all else is done in less: one dtype.
    """
    others = {"reference"} if served else {"reference", "flex"}
    return ("auto", *(name for name in sorted(KERNELS) if name not in others))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of the CPU.

    Threads that share small tensors wait for each other, for milliseconds a call where
    other work has one of the cores: that would be most of what is waited for and timed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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


def _look(tensors: Tensors) -> Look:
    q, k, _ = tensors
    return Look(q.shape[2], k.shape[2], 0, q.shape[1], q.device, q, k, _memory())


def _memory() -> Memory:
    """Return a new one for each call: bounds of blocks are kept in a call's dtype."""
    return Memory(sparse_heads={0: torch.tensor(_DECIDED)})


def _check_all(
    kernels: list[str], pattern: str, phase: str, device: str, dtype: str
) -> Iterator[Check | Refusal]:
    """Run the kernels on one pattern in one phase."""
    rule = RULES[pattern]
    tensors = _tensors(*_LENGTHS[phase], device, dtype)
    q, k, v = (x.double() for x in tensors)
    exact, _ = attend(q, k, v, rule, backend="reference", memory=_memory())
    for kernel in kernels:
        reason = _refuses(kernel, rule, _look(tensors))
        if reason is not None:
            yield _refusal(kernel, pattern, phase, tensors, reason)
        elif not (phase == "decode" and _leaves_decode(kernel, rule)):
            yield _check(kernel, pattern, phase, tensors, exact)


def _refuses(kernel: str, rule: Rule, look: Look) -> str | None:
    """Say why a kernel isn't made for a rule, as its own module does; None: it is."""
    assert look.q is not None  # noqa: S101 - `_look` puts it there
    if kernel == "sdpa" and not isinstance(rule, Dense):
        return "sdpa computes all pairs"
    if kernel == "fused":
        return fused_refuses(look.q)
    if kernel == "xformers":
        rule = rule.in_call(look)
        parts = (rule.sparse, Dense()) if isinstance(rule, HeadMix) else (rule,)
        reasons = (xformers_refuses(look.q, x.mask(look), x.weighs) for x in parts)
        return next((reason for reason in reasons if reason), None)
    return None


def _leaves_decode(kernel: str, rule: Rule) -> bool:
    """Whether `attend` lets blocked run one query where this kernel was asked for."""
    return kernel in {"flex", "fused"} and rule.weighs is None


def _refusal(
    kernel: str, pattern: str | None, phase: str | None, tensors: Tensors, reason: str
) -> Refusal:
    q = tensors[0]
    return Refusal(
        kernel=kernel,
        device=str(q.device),
        dtype=str(q.dtype).removeprefix("torch."),
        pattern=pattern,
        phase=phase,
        reason=reason,
    )


def _check(
    kernel: str, pattern: str, phase: str, tensors: Tensors, exact: torch.Tensor
) -> Check:
    q = tensors[0]
    dtype = str(q.dtype).removeprefix("torch.")
    ran, reason, error, problem = "", "", None, None
    try:
        out, evidence = attend(
            *tensors, RULES[pattern], backend=kernel, memory=_memory()
        )
        ran, reason = evidence.name, evidence.reason
        error = (out.double() - exact).abs().max().item()
    except Exception as failure:  # noqa: BLE001 - compilers and loaders raise anything
        problem = first_line(failure)
    return Check(
        kernel=kernel,
        pattern=pattern,
        rule=str(RULES[pattern]),
        device=str(q.device),
        dtype=dtype,
        phase=phase,
        ran=ran,
        reason=reason,
        error=math.inf if error is not None and math.isnan(error) else error,
        bar=BARS[dtype],
        problem=problem,
    )


def first_line(failure: Exception) -> str:
    """Say in a line what failed."""
    return (str(failure).strip() or type(failure).__name__).splitlines()[0]
