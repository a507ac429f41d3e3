"""Batches of different lengths without padding: sequences laid end to end."""

from collections.abc import Sequence

import torch

from canary.attention.evidence import KernelEvidence
from canary.attention.kernels import attend
from canary.attention.masks import empty_like
from canary.attention.memory import Memory
from canary.attention.rules import Pattern
from canary.errors import AttentionError


def attend_packed(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    pattern: Pattern,
    *,
    q_lens: Sequence[int],
    kv_lens: Sequence[int],
    layer: int = 0,
    backend: str = "auto",
    memories: Sequence[Memory | None] | None = None,
) -> tuple[torch.Tensor, tuple[KernelEvidence, ...]]:
    """Attend within each of several sequences that lie end to end.

    No sequence is padded to the length of another, and each is seen as if it were
    alone: prefill, a chunk or one token, whatever its numbers say. Each is a call of
    its own, so that each runs the kernel that is best for it.

    Args:
        q: Queries of all sequences, (1, H, sum of q_lens, D).
        k: Keys, (1, Hkv, sum of kv_lens, D).
        v: Values, as k.
        pattern: What may be seen.
        q_lens: The number of queries of each sequence: its last ones.
        kv_lens: The number of keys of each.
        layer: As in `attend`.
        backend: As in `attend`.
        memories: What is remembered of each sequence.

    Returns:
        The output, in q's shape, and evidence for each sequence.

    Raises:
        AttentionError: The lengths don't add up, or as `attend`.
    """
    sums = q.shape[2], k.shape[2]
    if len(q_lens) != len(kv_lens) or (sum(q_lens), sum(kv_lens)) != sums:
        raise AttentionError(
            f"lengths {list(q_lens)} of queries and {list(kv_lens)} of keys don't add "
            f"up to the {sums[0]} queries and {sums[1]} keys that there are"
        )
    out = empty_like(q)
    kept = memories if memories is not None else [None] * len(q_lens)
    evidence = []
    q_parts, k_parts, v_parts = (
        x.split(list(lens), dim=2)
        for x, lens in ((q, q_lens), (k, kv_lens), (v, kv_lens))
    )
    out_parts = out.split(list(q_lens), dim=2)
    for part, own_q, own_k, own_v, memory in zip(
        out_parts, q_parts, k_parts, v_parts, kept, strict=True
    ):
        result, ran = attend(
            own_q, own_k, own_v, pattern, layer=layer, backend=backend, memory=memory
        )
        part.copy_(result)
        evidence.append(ran)
    return out, tuple(evidence)
