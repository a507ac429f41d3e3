"""Paired binary outcomes at one planned look: what a single test run can say.

`b` counts the items that only the candidate got right, `c` those that only the
baseline got right. Not valid when looked at repeatedly.
"""

import math

from scipy.stats import binomtest, norm

from canary.stats.betting import checked_alpha

_HALVINGS = 60


def tango_interval(b: int, c: int, n: int, *, alpha: float) -> tuple[float, float]:
    """Return the score interval for the difference of two paired shares, (b - c) / n.

    Two-sided, with coverage of about 1 - alpha; each end also ends a one-sided test at
    alpha/2. (-1, 1) without items. Tango, "Equivalence test and confidence interval
    for the difference in proportions for the paired-sample design", Statistics in
    Medicine 1998, eq. 6 to 8. Assumes independent items.

    Raises:
        ValueError: a count below 0, b + c above n, or alpha outside (0, 1).
    """
    if not (b >= 0 and c >= 0 and b + c <= n):
        raise ValueError(f"need b, c >= 0 and b + c <= n: {b=}, {c=}, {n=}")
    if n == 0:
        return -1.0, 1.0
    z = float(norm.isf(checked_alpha(alpha) / 2))
    return _tango_lower(b, c, n, z), -_tango_lower(c, b, n, z)


def _tango_lower(b: int, c: int, n: int, z: float) -> float:
    """Return the largest difference that the score test rejects from below."""

    def rejected(delta: float) -> bool:
        linear = -b - c + (2 * n - b + c) * delta
        constant = -c * delta * (1 - delta)
        root = math.sqrt(max(linear**2 - 8 * n * constant, 0.0))
        only_baseline = (root - linear) / (4 * n)
        variance = n * (2 * only_baseline + delta * (1 - delta))
        return b - c - n * delta > z * math.sqrt(max(variance, 0.0))

    lower, upper = -1.0, (b - c) / n
    for _ in range(_HALVINGS):
        middle = (lower + upper) / 2
        if rejected(middle):
            lower = middle
        else:
            upper = middle
    return lower


def mcnemar_exact(b: int, c: int) -> float:
    """Return the two-sided exact p-value against equal shares of two paired outcomes.

    1.0 without discordant items. McNemar, Psychometrika 1947; the exact form is a
    binomial test of b of b + c at one half. Assumes independent items.

    Raises:
        ValueError: a count below 0.
    """
    if not (b >= 0 and c >= 0):
        raise ValueError(f"need b, c >= 0: {b=}, {c=}")
    if b + c == 0:
        return 1.0
    return float(binomtest(b, b + c, 0.5).pvalue)
