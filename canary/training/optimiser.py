"""Muon for the stacked matrices, Adam for everything else.

Muon: Jordan et al., 2024, https://kellerjordan.github.io/posts/muon: momentum, then the
update is replaced by the nearest orthogonal matrix, found by Newton-Schulz iteration.
Adam: Kingma and Ba, arXiv 1412.6980.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Step sizes at full speed, and Muon's weight decay."""

    muon: float = 0.02
    adam: float = 4e-3
    weight_decay: float = 0.01


class MuonAdam:
    """One step for all parameters; gradients are taken and cleared.

    Args:
        matrices: Parameters whose last two dimensions are matrices: Muon.
        others: Parameters for Adam (0.9, 0.98).
        rates: Step sizes.
        dtype: What the Newton-Schulz iteration computes in.
    """

    def __init__(
        self,
        *,
        matrices: Sequence[Parameter],
        others: Sequence[Parameter],
        rates: Rates,
        dtype: torch.dtype,
    ) -> None:
        self._matrices = [(p, torch.zeros_like(p)) for p in matrices]
        self._others = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in others]
        self._rates = rates
        self._dtype = dtype
        self._steps = 0

    @torch.no_grad()
    def step(self, speed: float) -> None:
        """Move each parameter by its gradient; `speed` scales all rates."""
        self._steps += 1
        for matrix, momentum in self._matrices:
            matrix.mul_(1 - self._rates.muon * speed * self._rates.weight_decay)
            self._muon(matrix, momentum, self._rates.muon * speed)
        for parameter, mean, square in self._others:
            self._adam(parameter, mean, square, self._rates.adam * speed)

    def _muon(self, matrix: Parameter, momentum: Tensor, rate: float) -> None:
        # Nesterov momentum, warmed up over 300 steps from 0.85 to 0.95.
        inertia = min(0.95, 0.85 + 0.1 * self._steps / 300)
        gradient = _taken(matrix)
        momentum.lerp_(gradient, 1 - inertia)
        update = gradient.lerp(momentum, inertia).flatten(0, 1)
        update = orthogonal(update.to(self._dtype)).view_as(matrix).to(matrix.dtype)
        # Tall matrices take longer steps, so that outputs change equally.
        rate *= max(1.0, matrix.shape[-2] / matrix.shape[-1]) ** 0.5
        matrix.sub_(update, alpha=rate)

    def _adam(
        self, parameter: Parameter, mean: Tensor, square: Tensor, rate: float
    ) -> None:
        gradient = _taken(parameter)
        mean.lerp_(gradient, 1 - 0.9)
        square.lerp_(gradient.square(), 1 - 0.98)
        unbiased_mean = mean / (1 - 0.9**self._steps)
        unbiased_square = square / (1 - 0.98**self._steps)
        parameter.sub_(rate * unbiased_mean / (unbiased_square.sqrt() + 1e-9))


def orthogonal(matrices: Tensor) -> Tensor:
    """Return roughly the nearest (semi-)orthogonal matrices, (..., rows, columns).

    Five steps of the quintic Newton-Schulz iteration with the coefficients of Jordan et
    al.: singular values end between about 0.7 and 1.2, which is near enough.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    found: Tensor = x.mT if tall else x
    return found


def _taken(parameter: Parameter) -> Tensor:
    """Return a parameter's gradient and clear it."""
    gradient = parameter.grad
    if gradient is None:
        raise ValueError("a parameter has no gradient: step after backward")
    parameter.grad = None
    return gradient
