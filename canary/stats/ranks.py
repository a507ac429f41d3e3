"""Bounds for a quantile or a share of one sample, valid at all times at once."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln

from canary.stats.betting import Floats, last_rejected, log_threshold

# The mixture is tuned once, to be tight at this level and at t_opt; any other choice
# is as valid, and it must not depend on the data.
_ALPHA_OPT = 0.05


def quantile_ranks(
    n: int, p: float, *, alpha: float, t_opt: float = 5000
) -> tuple[int, int]:
    """Return the ranks (1-based) of the order statistics that enclose the p quantile.

    With probability 1 - alpha, at all n at once, the whole interval of p quantiles
    lies between the two order statistics, both included. Rank 0 and rank n + 1 mean
    that there is no finite bound on that side: order statistics at minus and plus
    infinity. Ties are allowed. Assumes that each value has, given all earlier ones,
    the same p quantile.

    Howard and Ramdas, "Sequential estimation of quantiles", Bernoulli 2022, Theorem
    1(b): the number of values up to the quantile is bet on with a beta mixture around
    p (Howard et al. 2021, Proposition 7), whose variance parameter fits n = t_opt. A
    rank is in the set while the mixture is below 1/alpha; it is convex in the rank.

    Raises:
        ValueError: n below 0, p or alpha outside (0, 1), or t_opt not above 0.
    """
    if not (n >= 0 and 0 < p < 1 and t_opt > 0):
        raise ValueError(f"need n >= 0, 0 < p < 1, t_opt > 0: {n=}, {p=}, {t_opt=}")
    threshold = log_threshold(alpha)

    def plausible(count: int) -> bool:
        return bool(log_mixture(count, n, p, t_opt=t_opt) < threshold)

    inside = round(p * n)
    fewest = _boundary(plausible, inside, -1)
    most = _boundary(plausible, inside, n + 1)
    return fewest, most + 1


def share_bounds(
    successes: int, n: int, *, alpha: float, t_opt: float = 100
) -> tuple[float, float]:
    """Return a lower and an upper bound for the chance of success, from n trials.

    With probability 1 - alpha, at all n at once, the chance lies between the two:
    together they miss at alpha, not each. (0, 1) when nothing is known. Assumes that
    each trial has, given all earlier ones, the same chance.

    The beta mixture of `quantile_ranks` around every chance p: those are in the set
    for which it is below 1/alpha. It is convex in p, and at most 1 at the observed
    share. Howard et al. 2021, Proposition 7. Tight near n = t_opt, which must not
    depend on the data.

    Raises:
        ValueError: successes not from 0 to n, alpha outside (0, 1), or t_opt not
            above 0.
    """
    if not (0 <= successes <= n and t_opt > 0):
        raise ValueError(
            f"need 0 <= successes <= n, t_opt > 0: {successes=}, {n=}, {t_opt=}"
        )
    threshold = log_threshold(alpha)

    def excess(p: float) -> float:
        return float(log_mixture(successes, n, p, t_opt=t_opt)) - threshold

    share = successes / n if n else 0.5
    return last_rejected(excess, 0.0, share), last_rejected(excess, 1.0, share)


def _boundary(plausible: Callable[[int], bool], inside: int, outside: int) -> int:
    """Return the last plausible count on the way from inside to outside."""
    while abs(outside - inside) > 1:
        middle = (inside + outside) // 2
        if plausible(middle):
            inside = middle
        else:
            outside = middle
    return inside


def _beta_parameters(p: float, t_opt: float) -> tuple[float, float]:
    """Return the beta distribution that is mixed over; its mean is p.

    Howard et al., "Time-uniform, nonparametric, nonasymptotic confidence sequences",
    Annals of Statistics 2021, section 3.5: the best normal mixture's parameter.
    """
    variance = p * (1 - p)
    log_odds = 2 * math.log(1 / _ALPHA_OPT)
    rho = variance * t_opt / (log_odds + math.log1p(log_odds))
    r = max(rho - variance, 1e-3 * variance)
    return r / (1 - p), r / p


def log_mixture(counts: ArrayLike, n: int, p: float, *, t_opt: float = 5000) -> Floats:
    """Return the log e-values against a share p, for counts of n, shape (k,)."""
    counts = np.asarray(counts, dtype=np.float64)
    a, b = _beta_parameters(p, t_opt)
    mixed = betaln(a + counts, b + (n - counts)) - betaln(a, b)
    return np.asarray(mixed - counts * math.log(p) - (n - counts) * math.log1p(-p))
