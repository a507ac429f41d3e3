"""What each key weighs, written out: the formulas that all kernels compute.

In float32, or float64 if that is what comes in. Small inputs only: Tq x Tkv numbers a
head.
"""

import torch

from canary.attention.rules import Rule
from canary.attention.scores import Hyperbolic, Relu, SoftThreshold

FARTHEST = 6.0
"""How far from the origin a point of the Poincare ball may lie, at curvature 1."""


def weights_of(
    weighing: Rule | None, q: torch.Tensor, k: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """Return the weights of keys, (B, H, Tq, Tkv); rows sum to one, or to zero.

    Args:
        weighing: How to weigh; None is softmax.
        q: Queries, (B, H, Tq, D).
        k: Keys, (B, Hkv, Tkv, D).
        seen: What is seen, broadcast to the weights' shape.
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    groups = q.shape[1] // k.shape[1]
    q, k = q.to(exact), k.to(exact).repeat_interleave(groups, dim=1)
    scores: torch.Tensor
    if isinstance(weighing, Hyperbolic):
        (q, q_time), (k, k_time) = lifted(weighing, q), lifted(weighing, k)
        inner = q_time[..., None] * k_time[..., None, :] - q @ k.mT
        scores = -exponent(weighing) * torch.acosh(inner.clamp(min=1))
        return scores.masked_fill(~seen, -torch.inf).softmax(-1)
    scores = (q @ k.mT) * q.shape[3] ** -0.5
    if isinstance(weighing, Relu):
        parts = (scores - weighing.threshold).clamp(min=0) * seen
        return _normalised(parts)
    shares = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    if isinstance(weighing, SoftThreshold):
        return _normalised((shares - weighing.threshold).clamp(min=0))
    return shares


def exponent(weighing: Hyperbolic) -> float:
    """Return what acosh is multiplied with: distance is acosh over sqrt(curvature)."""
    return float(weighing.scale * weighing.curvature**-0.5)


def lifted(weighing: Hyperbolic, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points on the unit hyperboloid: (..., D) of space and (...) of time.

    In the precision of x. Both models end there, which is isometric to the ball.
    """
    x = x * (x.shape[-1] ** -0.25 * weighing.curvature**0.5)
    if weighing.model == "poincare":
        norm = x.norm(dim=-1, keepdim=True)
        near = norm.clamp(max=FARTHEST)
        x = x * (torch.sinh(near) / norm.clamp(min=torch.finfo(x.dtype).tiny))
    return x, (1 + x.square().sum(-1)).sqrt()


def _normalised(parts: torch.Tensor) -> torch.Tensor:
    total = parts.sum(-1, keepdim=True)
    return parts / total.where(total > 0, 1)
