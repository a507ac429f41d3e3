"""The sign test by betting: are wins more likely than losses?"""

import math

import numpy as np
from scipy.special import betainc, betaln

from canary.stats.betting import Floats

_TAIL_IS_EXACT = 1e-290  # below, betainc nears the smallest double


def sign_log_e(wins: Floats, losses: Floats) -> Floats:
    """Return the log e-values against "wins are no likelier than losses", shape (n,).

    The bettor's wealth averaged over every share u of it that may be staked,

        integral over u in (0, 1) of (1 + u)^wins (1 - u)^losses
          = 2^(wins + losses + 1) B(1 + wins, 1 + losses) P(Beta > 1/2),

    which is McNemar's test as an e-process, and the limit of
    `canary.stats.paired_log_e` at a null mean of 0 for ever finer shares. Robbins,
    "Statistical methods related to the law of the iterated logarithm", Annals of
    Mathematical Statistics 1970. Finite for all counts, which may be fractions.
    """
    units = wins + losses
    tail = betainc(1 + losses, 1 + wins, 0.5)
    exact = tail > _TAIL_IS_EXACT
    log_tail = np.log(np.where(exact, tail, 1.0))
    log_e = (units + 1) * math.log(2) + betaln(1 + wins, 1 + losses) + log_tail
    return np.asarray(np.where(exact, log_e, _log_e_when_lost(wins, losses)))


def _log_e_when_lost(wins: Floats, losses: Floats) -> Floats:
    """Return a lower bound that is within 1e-5 where losses prevail by far.

    With d = losses - wins the integrand is (1 - u^2)^wins (1 - u)^d; by Jensen's
    inequality the mean of the first factor, under a density in proportion to the
    second, is at least its value at the mean of u^2, which is 2 / ((d + 2)(d + 3)).
    """
    d = np.maximum(losses - wins, 0)
    return np.asarray(wins * np.log1p(-2 / ((d + 2) * (d + 3))) - np.log1p(d))
