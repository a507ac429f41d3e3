"""What three common ways to judge a canary would have decided on a stream.

They are small, and as fair as we could make them: each is asked about the same limits
as the policy, at the same hourly looks. None of them looks at failures, which no
scenario changes; requests that failed are left out, as such tools do.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu, norm, t

HOUR_S = 3600.0
ALPHA = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What counts as harm, and when a promotion may come; the same for every judge.

    `ratio` is the greatest acceptable ratio of latencies (the median's, and the mean's
    for judges that compare means), `tail_ratio` that of the p99; `loss` is the
    greatest acceptable loss of accuracy, a share.
    """

    ratio: float = 1.05
    tail_ratio: float = 1.05
    loss: float = 0.01
    min_duration_s: float = 24 * HOUR_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A verdict (promote, rollback or undecided) and when it came."""

    verdict: str
    elapsed_s: float


def repeated_t_test(stream, limits, look_times_s):
    """Paired t-tests over all that came so far, at every look, each at p < .05.

    Of ln(candidate / baseline) per request and of the difference in score per question.
    Rollback as soon as one of them is significantly beyond its limit; promote, from
    the minimum duration on, as soon as both are significantly within (one-sided tests
    of non-inferiority). This is what one does who computes a p-value in a notebook or
    a dashboard and looks again an hour later: a test made for a single look.
    """
    latencies, scores = _latencies(stream), _scores(stream)
    looks = np.asarray(look_times_s)
    log_ratio = np.log(latencies.candidate / latencies.baseline)
    loss = scores.baseline - scores.candidate
    signs = np.stack(
        (
            _t_signs(latencies.arrived_s, log_ratio - math.log(limits.ratio), looks),
            _t_signs(scores.arrived_s, loss - limits.loss, looks),
        )
    )
    harm = (signs > 0).any(axis=0)
    within = (signs < 0).all(axis=0) & (looks >= limits.min_duration_s)
    if not (harm | within).any():
        return Outcome(verdict="undecided", elapsed_s=looks[-1])
    first = int(np.argmax(harm | within))
    verdict = "rollback" if harm[first] else "promote"
    return Outcome(verdict=verdict, elapsed_s=looks[first])


def hourly_mann_whitney(stream, limits, look_times_s):
    """Mann-Whitney tests of each hour alone, in the manner of Kayenta's default judge.

    That judge (NetflixACAJudge of Spinnaker's Kayenta) takes an interval of metrics of
    both clusters, classifies each metric as high, low or passing, and scores the share
    that passes; a score under the marginal threshold ends the canary, and it succeeds
    when its last interval passes. A metric is high when the lower end of a 98 %
    interval for the shift is above a quarter of the estimated shift, here by the normal
    approximation, and only the harmful direction counts. Metrics here are the hour's
    latencies and its scores, at equal weight, so that one of them fails the hour. As
    its `effectSize` allows, a shift whose ratio of means is within the limit passes.
    """
    latencies, scores = _latencies(stream), _scores(stream)
    begin_s = 0.0
    for elapsed_s in look_times_s:
        a, b = latencies.between(begin_s, elapsed_s)
        slow = len(a) and b.mean() > limits.ratio * a.mean() and _shifted_up(a, b)
        a, b = scores.between(begin_s, elapsed_s)
        bad = len(a) and b.mean() < a.mean() - limits.loss and _shifted_up(b, a)
        if 100 * (2 - bool(slow) - bool(bad)) / 2 < MARGINAL_SCORE:
            return Outcome(verdict="rollback", elapsed_s=elapsed_s)
        begin_s = elapsed_s
    return Outcome(verdict="promote", elapsed_s=begin_s)


MARGINAL_SCORE = 75.0
"""The value in Kayenta's examples, of 100."""

_SHIFT_P = float(2 * norm.sf(norm.isf(0.01) / (1 - 0.25)))
"""estimate - z se > estimate / 4, z of a two-sided 98 %, as a two-sided p-value."""


def _shifted_up(a, b):
    """Whether `b` is significantly above `a`; ties count as the test corrects them."""
    if a.min() == b.min() == a.max() == b.max():
        return False
    found = mannwhitneyu(b, a, method="asymptotic")
    return found.pvalue < _SHIFT_P and found.statistic > len(a) * len(b) / 2


FAILURE_LIMIT = 1


def threshold(stream, limits, look_times_s):
    """Compare what was measured so far with the limit itself, without any test.

    The check fails at a look where the p99 of the candidate, divided by that of the
    baseline, or the loss of accuracy is over its limit. More than `FAILURE_LIMIT` fails
    in a row are a rollback; whoever gets to the end is promoted. Argo Rollouts
    (`failureCondition`, `failureLimit`) and Flagger (`thresholdRange`, `threshold`)
    work so, on whatever query they are given.
    """
    latencies, scores = _latencies(stream), _scores(stream)
    failures = 0
    for elapsed_s in look_times_s:
        a, b = latencies.between(0.0, elapsed_s)
        slow = len(a) and _p99(b) > limits.tail_ratio * _p99(a)
        a, b = scores.between(0.0, elapsed_s)
        bad = len(a) and a.mean() - b.mean() > limits.loss
        failures = failures + 1 if slow or bad else 0
        if failures > FAILURE_LIMIT:
            return Outcome(verdict="rollback", elapsed_s=elapsed_s)
    return Outcome(verdict="promote", elapsed_s=look_times_s[-1])


JUDGES = {
    "repeated t-test": repeated_t_test,
    "hourly Mann-Whitney": hourly_mann_whitney,
    "plain thresholds": threshold,
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Measured:
    """One column of both arms, where both have it, in order of arrival."""

    arrived_s: np.ndarray
    baseline: np.ndarray
    candidate: np.ndarray

    def between(self, begin_s, end_s):
        """Return both arms' values of requests that arrived in this time."""
        first, last = np.searchsorted(self.arrived_s, (begin_s, end_s))
        return self.baseline[first:last], self.candidate[first:last]


def _latencies(stream):
    return _where_both(stream, stream.latency_s)


def _scores(stream):
    return _where_both(stream, stream.score)


def _where_both(stream, values):
    known = ~np.isnan(values).any(axis=0)
    return _Measured(
        arrived_s=stream.arrived_s[known],
        baseline=values[0, known],
        candidate=values[1, known],
    )


def _t_signs(arrived_s, values, looks):
    """Return at each look the sign of the mean so far where it is significant, or 0."""
    n = np.searchsorted(arrived_s, looks)
    total, square = (
        np.concatenate(([0.0], np.cumsum(column)))[n] for column in (values, values**2)
    )
    spread = np.maximum(n * square - total**2, 0.0)
    testable = (n > 1) & (spread > 0)
    n, spread = np.where(testable, n, 2), np.where(testable, spread, 1.0)
    significant = np.abs(total * np.sqrt((n - 1) / spread)) > t.isf(ALPHA, n - 1)
    return np.where(testable & significant, np.sign(total), 0.0)


def _p99(values):
    rank = math.ceil(0.99 * len(values)) - 1
    return np.partition(values, rank)[rank]
