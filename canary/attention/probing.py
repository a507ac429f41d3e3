"""How concentrated a head's attention is: what `adaptive` decides by."""

import torch

from canary.attention.rules import Look, Rule
from canary.attention.weights import weights_of


def concentrated(rule: Rule, look: Look, mass: float, probe: int) -> torch.Tensor:
    """Tell which heads keep `mass` of each probe's attention on what a rule shows.

    Returns:
        bool, (B, H), on the CPU.
    """
    assert look.q is not None  # noqa: S101 - whoever decides by a call has one
    assert look.k is not None  # noqa: S101 - as above
    n = min(probe, look.q_len)
    mask = rule.mask(look._replace(q_len=n, memory=None))
    seen = mask.visible(look.device)
    causal = torch.ones(n, look.kv_len, dtype=torch.bool, device=look.device)
    causal = causal.tril(look.kv_len - n)
    shares = weights_of(None, look.q[:, :, -n:], look.k, causal[None, None])
    kept = (shares * seen).sum(3)
    return (kept.amin(2) >= mass).cpu()
