"""Kernels that execute attention patterns: one call, and evidence of what ran.

A kernel is a function of (q, k, v, rule) with q (B, H, Tq, D), k and v (B, Hkv, Tkv,
D) and query i at absolute position Tkv - Tq + i; it computes that rule exactly, on any
device, or is not in the table. Nothing here falls back: what was asked for runs, or an
error says why not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from canary.attention.blocked import blocked
from canary.attention.dense import NAMES, Call, Phase, causal, cuda_kernel
from canary.attention.flex import compiles, flex
from canary.attention.rules import Dense, Pattern, Rule
from canary.errors import AttentionError

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Rule], torch.Tensor]
"""(q, k, v, rule) -> output of q's shape and dtype; shapes are checked already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelEvidence:
    """Which kernel ran for one layer's rule, where, and why that one.

    `str` of it is what observations record: ``blocked[sliding_window(window=256)]``, on
    CUDA with what the kernel is made of: ``sdpa(cudnn)[dense]``.
    """

    name: str
    pattern: str
    reason: str
    device: str
    dtype: str
    torch_version: str
    rule: Rule = field(repr=False)

    def density(self, q_len: int, kv_len: int) -> float:
        """Return the visible share of causal pairs for these lengths, on request."""
        return self.rule.density(q_len, kv_len)

    def __str__(self) -> str:
        """Return ``kernel[pattern]``."""
        return f"{self.name}[{self.pattern}]"


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pattern: Pattern,
    *,
    layer: int = 0,
    backend: str = "auto",
) -> tuple[torch.Tensor, KernelEvidence]:
    """Attend causally from q to what `pattern` lets it see in k and v.

    Scores are scaled by D**-0.5 and softmaxed over the visible keys. The same call
    serves prefill (Tq = Tkv), chunked prefill and decode (Tq = 1). H is a multiple of
    Hkv: query heads share key heads in consecutive groups.

    Backends: ``reference`` (explicit mask and softmax; the oracle), ``sdpa`` (torch's
    own; dense rules only), ``blocked`` (any rule; computes only blocks of keys that are
    seen), ``flex`` (any rule; one compiled kernel on CUDA, slow elsewhere),
    ``auto`` (sdpa for dense rules and, on CUDA, where a rule hides nothing; for others
    blocked on the CPU and in decode, flex in prefill on CUDA).

    The evidence tells apart what torch itself would choose among on CUDA: ``sdpa(cudnn)
    [dense]`` in prefill, ``sdpa(flash)[dense]`` in decode, where both can be used.

    Args:
        q: Queries, (B, H, Tq, D).
        k: Keys, (B, Hkv, Tkv, D), of q's dtype and on its device.
        v: Values, as k.
        pattern: What may be seen.
        layer: The layer, from 0, for patterns that differ by layer.
        backend: The kernel to run.

    Returns:
        The output, (B, H, Tq, D), and evidence of the kernel that made it.

    Raises:
        AttentionError: Shapes don't fit, the backend is unknown or can't execute this
            pattern exactly, or the pattern says nothing about the layer.
    """
    _check(q, k, v)
    rule, kv_len = pattern.at(layer), k.shape[2]
    hides = rule.max_keys is not None and rule.max_keys < kv_len
    phase = Phase.of(q.shape[2], kv_len)
    name, evidence = _select(rule, backend, Call.of(q, k), phase, hides)
    return KERNELS[name](q, k, v, rule), evidence


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    if q.dim() == k.dim() == 4 and k.shape == v.shape:
        batch, heads, q_len, width = q.shape
        kv_batch, kv_heads, kv_len, kv_width = k.shape
        if (
            (batch, width) == (kv_batch, kv_width)
            and kv_heads
            and heads % kv_heads == 0
            and 1 <= q_len <= kv_len
            and q.is_floating_point()
            and q.dtype == k.dtype == v.dtype
            and q.device == k.device == v.device
        ):
            return
    got = ", ".join(
        f"{name} {tuple(x.shape)} {x.dtype} on {x.device}"
        for name, x in (("q", q), ("k", k), ("v", v))
    )
    raise AttentionError(
        "expected q (B, H, Tq, D), k and v (B, Hkv, Tkv, D) with H a multiple of Hkv "
        f"and 1 <= Tq <= Tkv, of one floating dtype on one device; got {got}"
    )


@lru_cache(maxsize=256)
def _select(
    rule: Rule, backend: str, call: Call, phase: Phase, hides: bool
) -> tuple[str, KernelEvidence]:
    name, reason = backend, "asked for by name"
    if backend == "auto":
        name, reason = _best(rule, call.device, phase, hides=hides)
    elif backend == "sdpa" and not isinstance(rule, Dense):
        raise AttentionError(
            f"backend sdpa computes all pairs and can't gain from {rule}; use blocked, "
            "auto, or reference"
        )
    elif backend == "flex" and phase is Phase.DECODE:
        name = "blocked"
        reason = "flex was asked for; one query slices the cache as blocked does"
    if name not in KERNELS:
        known = ", ".join(["auto", *sorted(KERNELS)])
        raise AttentionError(f"unknown attention backend {backend!r}; known: {known}")
    return name, KernelEvidence(
        name=name + _inner(name, call, phase),
        pattern=str(rule),
        reason=reason,
        device=str(call.device),
        dtype=str(call.dtype).removeprefix("torch."),
        torch_version=torch.__version__,
        rule=rule,
    )


def _best(
    rule: Rule, device: torch.device, phase: Phase, *, hides: bool
) -> tuple[str, str]:
    """Return the fastest exact kernel and why it is that one."""
    if isinstance(rule, Dense):
        return "sdpa", "auto: the rule is dense"
    if device.type != "cuda":
        # `blocked` is one dense call itself as long as the rule hides nothing, so there
        # is no length at which a sparse rule gains from being sent to sdpa.
        return "blocked", "auto: the kernel here that skips what the rule hides"
    if phase is Phase.DECODE:
        return "blocked", "auto: one query slices the cache"
    if not hides:
        return "sdpa", "auto: at this length the rule hides nothing"
    if compiles(device):
        return "flex", "auto: the fastest kernel on CUDA that skips what the rule hides"
    return "blocked", "auto: flex needs Triton, which isn't here"


def _inner(name: str, call: Call, phase: Phase) -> str:
    """Name what a kernel is made of, where that isn't always the same."""
    if name == "flex" and not compiles(call.device):
        return "(eager)"
    single = name == "blocked" and phase is Phase.DECODE
    if call.device.type == "cuda" and (name == "sdpa" or single):
        return f"({NAMES[cuda_kernel(call, phase)]})"
    return ""


def _reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rule: Rule
) -> torch.Tensor:
    """Explicit mask and softmax, in float32 at least; Tq x Tkv scores per head."""
    groups = q.shape[1] // k.shape[1]
    exact = torch.promote_types(q.dtype, torch.float32)
    keys = k.to(exact).repeat_interleave(groups, dim=1)
    values = v.to(exact).repeat_interleave(groups, dim=1)
    hidden = ~rule.visible(q.shape[2], k.shape[2]).to(q.device)
    scores = q.to(exact) @ keys.mT * q.shape[3] ** -0.5
    shares = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    out: torch.Tensor = shares @ values
    return out.to(q.dtype)


def _sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rule: Rule
) -> torch.Tensor:
    del rule  # it hides nothing here: `_select` lets nothing else through
    return causal(q, k, v)


KERNELS: dict[str, Kernel] = {
    "blocked": blocked,
    "flex": flex,
    "reference": _reference,
    "sdpa": _sdpa,
}
"""By name, as `attend` takes it; each is checked by `canary doctor`."""
