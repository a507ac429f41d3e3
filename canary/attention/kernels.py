"""Kernels that execute attention patterns: one call, and evidence of what ran.

A kernel is a function of (q, k, v, mask, weighing) with q (B, H, Tq, D), k and v (B,
Hkv, Tkv, D) and query i at absolute position Tkv - Tq + i; it computes that exactly or
refuses. Nothing here falls back: what was asked for runs, or an error says why not.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch

from canary.attention.blocked import blocked
from canary.attention.dense import NAMES, Call, Phase, causal, cuda_kernel
from canary.attention.evidence import (
    KernelEvidence,
    block_tokens,
    compiles,
    version,
)
from canary.attention.flex import compiles as flex_compiles
from canary.attention.flex import flex
from canary.attention.fused import fused, fused_refuses
from canary.attention.heads import HeadMix
from canary.attention.masks import Mask, empty_like
from canary.attention.memory import Memory
from canary.attention.rules import Dense, Look, Pattern, Rule
from canary.attention.weights import weights_of
from canary.attention.xformers import xformers, xformers_refuses
from canary.errors import AttentionError

Kernel = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, Mask, Rule | None], torch.Tensor
]
"""(q, k, v, mask, weighing) -> output of q's shape; shapes are checked already."""


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pattern: Pattern,
    *,
    layer: int = 0,
    backend: str = "auto",
    memory: Memory | None = None,
) -> tuple[torch.Tensor, KernelEvidence]:
    """Attend causally from q to what `pattern` lets it see in k and v.

    Scores are scaled by D**-0.5 and softmaxed over the visible keys, or weighed as the
    pattern says. The same call serves prefill (Tq = Tkv), chunked prefill and decode
    (Tq = 1). H is a multiple of Hkv: query heads share key heads in consecutive groups.

    Backends: ``reference`` (explicit mask and weights; the oracle), ``sdpa`` (torch's
    own; dense rules only), ``blocked`` (anything; computes only blocks of keys that are
    seen), ``flex`` (anything; torch's compiled kernel on CUDA, slow elsewhere),
    ``fused`` (anything; our own Triton kernel, CUDA only), ``xformers`` (windows,
    globals and lists of blocks, CUDA only), ``auto`` (`choice` says which and why).

    The evidence tells apart what torch itself would choose among on CUDA: ``sdpa(cudnn)
    [dense]`` in prefill, ``sdpa(flash)[dense]`` in decode, where both can be used.

    Args:
        q: Queries, (B, H, Tq, D).
        k: Keys, (B, Hkv, Tkv, D), of q's dtype and on its device.
        v: Values, as k.
        pattern: What may be seen.
        layer: The layer, from 0, for patterns that differ by layer.
        backend: The kernel to run.
        memory: What is remembered of this request between calls; see `Memory`.

    Returns:
        The output, (B, H, Tq, D), and evidence of the kernel that made it.

    Raises:
        AttentionError: Shapes don't fit, the backend is unknown or can't execute this
            pattern exactly, or the pattern says nothing about the layer.
    """
    _check(q, k, v)
    rule = pattern.at(layer)
    q_len, kv_len = q.shape[2], k.shape[2]
    prompt = kv_len if memory is None else memory.prompt_tokens or kv_len
    start = kv_len - q_len
    if start < prompt < kv_len and (rule.chooses or rule.mixes):
        # Nothing may be chosen by what only fills the prompt up.
        out = torch.zeros_like(q)
        real = (q[:, :, : prompt - start], k[:, :, :prompt], v[:, :, :prompt])
        out[:, :, : prompt - start], evidence = attend(
            *real, rule, layer=layer, backend=backend, memory=memory
        )
        return out, evidence
    look = Look(q_len, kv_len, layer, q.shape[1], q.device, q, k, memory)
    rule = rule.in_call(look)
    if isinstance(rule, HeadMix):
        return _mixed(q, k, v, rule, look, backend)
    return _uniform(q, k, v, rule, look, backend)


def _uniform(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rule: Rule,
    look: Look,
    backend: str,
) -> tuple[torch.Tensor, KernelEvidence]:
    """Run one kernel for a rule that all heads share."""
    return _run(q, k, v, rule, _mask(rule, look), backend)


def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rule: Rule,
    mask: Mask,
    backend: str,
) -> tuple[torch.Tensor, KernelEvidence]:
    name, reason = choice(rule, mask, q, backend)
    out = KERNELS[name](q, k, v, mask, rule.weighs)
    ran = name + _inner(name, q, k)
    return out, KernelEvidence(
        name=ran,
        version=version(ran),
        pattern=str(rule),
        reason=reason,
        device=str(q.device),
        dtype=str(q.dtype).removeprefix("torch."),
        block_tokens=block_tokens(name, mask),
        compiles=compiles(),
        masks=((q.shape[1], mask),),
    )


def _mixed(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rule: HeadMix,
    look: Look,
    backend: str,
) -> tuple[torch.Tensor, KernelEvidence]:
    """Run dense heads and sparse ones each by the kernel that is best for them."""
    sparse = rule.sparse_heads(look)
    out = empty_like(q)
    parts: list[KernelEvidence] = []
    # Entries of a batch can differ: then each is a call of its own.
    size = q.shape[0] // sparse.shape[0]
    for b, row in enumerate(sparse):
        entry = slice(b * size, (b + 1) * size)
        for heads, own in ((~row, Dense()), (row, rule.sparse)):
            at = heads.nonzero()[:, 0].to(q.device)
            if len(at):
                qkv = q[entry], k[entry], v[entry]
                each = look._replace(q=qkv[0], k=qkv[1])
                out[entry, at], ran = _some_heads(*qkv, own, each, at, backend)
                parts.append(ran)
    names = dict.fromkeys(part.name for part in parts)
    reasons = dict.fromkeys(part.reason for part in parts)
    evidence = replace(
        parts[-1],
        name="+".join(names),
        version=", ".join(dict.fromkeys(part.version for part in parts)),
        pattern=str(rule),
        reason="; ".join(reasons),
        masks=tuple(each for part in parts for each in part.masks),
    )
    return out, evidence


def _some_heads(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rule: Rule,
    look: Look,
    at: torch.Tensor,
    backend: str,
) -> tuple[torch.Tensor, KernelEvidence]:
    """Run the query heads `at` alone, with the key heads that they share."""
    rule = rule.in_call(look)
    mask = _mask(rule, look)
    if len(at) == q.shape[1]:
        return _run(q, k, v, rule, mask, backend)
    groups = q.shape[1] // k.shape[1]
    kept = at // groups
    if groups > 1 and len(at) == groups * len(kept.unique()):
        kept = kept.unique()  # whole groups: they go on sharing
    parts = q[:, at], k[:, kept], v[:, kept]
    return _run(*parts, rule, mask.of_heads(at), backend)


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


def _mask(rule: Rule, look: Look) -> Mask:
    """Return what is seen; kept, where it is the same for all prompts of a length."""
    if rule.chooses or look.decodes:
        return rule.mask(look)
    # By position alone all layers and heads are alike.
    layer, heads = (0, 1) if rule.table_free else (look.layer, look.heads)
    return _kept_mask(
        rule,
        layer,
        heads,
        look.q_len,
        look.kv_len,
        look.prompt_tokens,
        look.device,
    )


# With the lists of tiles that kernels walk: up to some megabytes each.
@lru_cache(maxsize=128)
def _kept_mask(
    rule: Rule,
    layer: int,
    heads: int,
    q_len: int,
    kv_len: int,
    prompt_tokens: int,
    device: torch.device,
) -> Mask:
    memory = Memory(prompt_tokens=prompt_tokens)
    return rule.mask(Look(q_len, kv_len, layer, heads, device, memory=memory))


def choice(rule: Rule, mask: Mask, q: torch.Tensor, backend: str) -> tuple[str, str]:
    """Return the kernel that runs a rule, and why that one.

    ``auto`` takes sdpa for dense rules and, on CUDA, where a rule hides nothing; for
    others blocked on the CPU and where decode slices the cache, and else on CUDA the
    first of fused, flex and blocked that can.

    Raises:
        AttentionError: The backend is unknown, or can't execute this exactly.
    """
    if backend == "auto":
        return _best(rule, mask, q)
    if backend not in KERNELS:
        known = ", ".join(["auto", *sorted(KERNELS)])
        raise AttentionError(f"unknown attention backend {backend!r}; known: {known}")
    if backend == "sdpa" and not isinstance(rule, Dense):
        raise AttentionError(
            f"backend sdpa computes all pairs and can't gain from {rule}; use blocked, "
            "auto, or reference"
        )
    refused = None
    if backend == "xformers":
        refused = xformers_refuses(q, mask, rule.weighs)
    if backend == "fused":
        refused = fused_refuses(q)
    if refused is not None:
        raise AttentionError(
            f"backend {backend} can't run {rule} here: {refused}; use blocked or auto"
        )
    single = q.shape[2] == 1 and rule.weighs is None
    if single and (backend == "flex" or (backend == "fused" and mask.table is None)):
        return "blocked", (
            f"{backend} was asked for; one query slices the cache as blocked does"
        )
    return backend, "asked for by name"


def _best(rule: Rule, mask: Mask, q: torch.Tensor) -> tuple[str, str]:
    """Return the fastest exact kernel and why it is that one."""
    if isinstance(rule, Dense):
        return "sdpa", "auto: the rule is dense"
    if q.device.type != "cuda":
        # `blocked` is one dense call itself as long as the rule hides nothing, so there
        # is no length at which a sparse rule gains from being sent to sdpa.
        return "blocked", "auto: the kernel here that skips what the rule hides"
    if q.shape[2] == 1 and mask.table is None:
        return "blocked", "auto: one query slices the cache"
    plain = mask.table is None and rule.weighs is None
    if plain and not mask.band.hides(mask.start, mask.kv_len):
        return "sdpa", "auto: at this length the rule hides nothing"
    return _best_skipping(q)


def _best_skipping(q: torch.Tensor) -> tuple[str, str]:
    """Return the fastest kernel on CUDA that skips what is hidden."""
    refused = fused_refuses(q)
    if refused is None:
        return "fused", "auto: the fastest kernel on CUDA that skips what is hidden"
    if q.shape[2] == 1:
        return "blocked", f"auto: {refused}; one query gathers its blocks"
    if flex_compiles(q.device):
        return "flex", f"auto: {refused}"
    return "blocked", f"auto: {refused}, and flex needs Triton"


def _inner(name: str, q: torch.Tensor, k: torch.Tensor) -> str:
    """Name what a kernel is made of, where that isn't always the same."""
    if name == "flex" and not flex_compiles(q.device):
        return "(eager)"
    phase = Phase.of(q.shape[2], k.shape[2])
    single = name == "blocked" and phase is Phase.DECODE
    if q.device.type == "cuda" and (name == "sdpa" or single):
        return f"({NAMES[cuda_kernel(Call.of(q, k), phase)]})"
    return ""


def _reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    weighing: Rule | None,
) -> torch.Tensor:
    """Explicit mask and weights, in float32 at least; Tq x Tkv of them per head."""
    shares = weights_of(weighing, q, k, mask.visible(q.device))
    values = v.to(shares.dtype).repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    return (shares @ values).to(q.dtype)


def _sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: Mask,
    weighing: Rule | None,
) -> torch.Tensor:
    del mask, weighing  # nothing is hidden here: `choice` lets nothing else through
    return causal(q, k, v)


KERNELS: dict[str, Kernel] = {
    "blocked": blocked,
    "flex": flex,
    "fused": fused,
    "reference": _reference,
    "sdpa": _sdpa,
    "xformers": xformers,
}
"""By name, as `attend` takes it; each is checked by `canary doctor`."""
