"""Simulated traffic whose truth is known: what two arms did with the same requests.

A stream is seeded. Its latencies are lognormal around a scale that grows with the
prompt, its arms share most of their noise, and its requests depend on each other in one
of three ways: not at all, as a slow drift of each arm, or within sessions. What the
candidate does differently (`Truth`) is exact: a candidate "at 1.05" has a quantile of
just 1.05 times the baseline's, so that simulations can stand right on a limit.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.stats import norm

from canary.evidence.observation import SCHEMA

HOUR_S = 3600.0
WEEK_S = 168 * HOUR_S

KINDS = ("independent", "ar", "sessions")
"""How requests depend on each other: see `_Source`."""

REGIMES = (
    (256, 8 * 1024, 0.64),
    (8 * 1024, 32 * 1024, 0.26),
    (32 * 1024, 128 * 1024, 0.08),
    (128 * 1024, 200_000, 0.02),
)
"""Prompt lengths in tokens, from and to, and the share of requests; log-uniform."""
LONG_TOKENS = 32 * 1024
QUALITY_SHARE = 0.2  # of the requests, or of the sessions

NOISE = 0.4  # of the log latency, around its scale
SHARED = 0.9  # correlation of the two arms' noise
AR = 0.9  # from one request to the next
ICC = 0.7  # correlation of two requests of one session
SESSION_REQUESTS = 10
SESSION_GAP_S = 30.0
SLOWED = 3.0

RIGHT = 0.92  # of the questions that both arms answer alike
FLIPPED = 0.02  # only the candidate is right; as many questions the other way round
FAILED = 0.001  # of other requests: the baseline only, the candidate only, both

BODY_S, TAIL_S = 2.0, 4.0
"""Where bands part: between the median (1.2 s) and the p99 (6 s) of the baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """How the candidate differs from the baseline.

    `body`, `middle` and `tail` multiply latencies below `BODY_S`, up to `TAIL_S` and
    beyond. As no band is moved past the median or the p99, `body` is the exact ratio of
    the medians and `tail` that of the p99s. On top, `slow_share` of the requests take
    `SLOWED` times as long. `loss` is the loss of accuracy, a share; `long_loss` is
    further loss on prompts of 32k tokens and more. All of it begins at `from_s`;
    before, the two arms are alike.
    """

    body: float = 1.0
    middle: float = 1.0
    tail: float = 1.0
    slow_share: float = 0.0
    loss: float = 0.0
    long_loss: float = 0.0
    from_s: float = 0.0


def scaled(ratio, **other):
    """Return a truth whose latencies are all `ratio` times the baseline's."""
    return Truth(body=ratio, middle=ratio, tail=ratio, **other)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """Requests in order of arrival, shape (n,) each; index 0 is the baseline.

    Questions (`quality`) have scores and no latency, others the reverse, unless they
    `failed`; questions never fail, which keeps the loss of accuracy exact. `session` is
    -1 where a request stands alone.
    """

    arrived_s: np.ndarray
    tokens: np.ndarray
    quality: np.ndarray
    session: np.ndarray
    latency_s: np.ndarray
    score: np.ndarray
    failed: np.ndarray

    def __len__(self):
        """Return the number of requests."""
        return len(self.arrived_s)


def make_stream(seed, *, kind, truth, per_hour, duration_s=WEEK_S, shared=SHARED):
    """Return a seeded stream of about `per_hour` requests an hour.

    Args:
        seed: Of everything random; streams of one seed and kind share their baseline.
        kind: One of `KINDS`.
        truth: How the candidate differs.
        per_hour: The rate of requests.
        duration_s: How long they come for.
        shared: The correlation of the two arms' noise.
    """
    if kind not in KINDS:
        raise ValueError(f"expected one of {', '.join(KINDS)}, got {kind!r}")
    rng = np.random.default_rng(seed)
    count = round(per_hour * duration_s / HOUR_S)
    arrived_s, session = _arrivals(rng, kind, count, duration_s)
    # What is shared is drawn once per session, and requests alone are sessions of one.
    owner = np.unique(session, return_inverse=True)[1]
    if kind != "sessions":
        owner = np.arange(len(arrived_s))
    owners = int(owner.max()) + 1
    tokens = _lengths(rng, owners)[owner]
    quality = (rng.random(owners) < QUALITY_SHARE)[owner]
    begun = arrived_s >= truth.from_s
    source = _Source(rng=rng, kind=kind, owner=owner)
    failed = _failures(source.uniform()) & ~quality
    latency_s = _latencies(source, tokens, shared, truth, begun)
    score = _scores(source, tokens, truth, begun)
    latency_s[failed | quality] = np.nan
    score[:, ~quality] = np.nan
    return Stream(
        arrived_s=arrived_s,
        tokens=tokens,
        quality=quality,
        session=session,
        latency_s=latency_s,
        score=score,
        failed=failed,
    )


def _arrivals(rng, kind, count, duration_s):
    """Uniform moments in order; sessions begin so and go on every half minute or so."""
    if kind != "sessions":
        return np.sort(rng.random(count) * duration_s), np.full(count, -1)
    sessions = count // SESSION_REQUESTS
    gaps = rng.exponential(SESSION_GAP_S, (sessions, SESSION_REQUESTS))
    gaps[:, 0] = rng.random(sessions) * duration_s
    moments = np.cumsum(gaps, axis=1).ravel()
    owner = np.repeat(np.arange(sessions), SESSION_REQUESTS)
    order = np.argsort(moments, kind="stable")
    order = order[moments[order] < duration_s]
    return moments[order], owner[order]


def _lengths(rng, count):
    lows, highs, shares = (np.array(column) for column in zip(*REGIMES, strict=True))
    regime = rng.choice(len(REGIMES), count, p=shares)
    low, high = lows[regime], highs[regime]
    return (low * (high / low) ** rng.random(count)).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Source:
    """Random numbers, one per request, that depend on each other as `kind` says.

    `owner` is the number of each request's session.
    """

    rng: np.random.Generator
    kind: str
    owner: np.ndarray

    def uniform(self):
        """In sessions, two requests have the same number in 70 % of cases.

        Each request takes its session's number with probability sqrt(ICC), so that
        whatever is decided by the number has that correlation within a session.
        """
        own = self.rng.random(len(self.owner))
        if self.kind != "sessions":
            return own
        of_session = self.rng.random(self.owner.max() + 1)[self.owner]
        takes = self.rng.random(len(self.owner)) < np.sqrt(ICC)
        return np.where(takes, of_session, own)

    def normal(self):
        """In sessions with a part that is shared; else afresh, or from the last one."""
        fresh = self.rng.standard_normal(len(self.owner))
        if self.kind == "ar":
            # The first one is drawn from what the series keeps to: it has no warm-up.
            step = np.sqrt(1 - AR**2)
            series = lfilter([step], [1, -AR], fresh[1:], zi=[AR * fresh[0]])[0]
            return np.concatenate((fresh[:1], series))
        if self.kind == "sessions":
            of_session = self.rng.standard_normal(self.owner.max() + 1)[self.owner]
            return np.sqrt(ICC) * of_session + np.sqrt(1 - ICC) * fresh
        return fresh


def _scale_s(tokens):
    """A second, and one more for each 40,000 tokens."""
    return 1 + tokens / 40_000


def _latencies(source, tokens, shared, truth, begun):
    """Both arms' latencies: a shared noise, each arm's own, and then the truth."""
    common = np.sqrt(shared) * source.normal()
    own = [np.sqrt(1 - shared) * source.normal() for _ in range(2)]
    a, b = (_scale_s(tokens) * np.exp(NOISE * (common + noise)) for noise in own)
    ratio = np.where(b < BODY_S, truth.body, truth.middle)
    ratio = np.where(b > TAIL_S, truth.tail, ratio)
    slow = source.rng.random(len(tokens)) < truth.slow_share
    ratio = ratio * np.where(slow, SLOWED, 1.0)
    return np.stack((a, b * np.where(begun, ratio, 1.0)))


def _scores(source, tokens, truth, begun):
    """Both arms' scores, 0 or 1: mostly alike, and else right in one of them only."""
    alike = (source.uniform() < RIGHT).astype(np.float64)
    draw = source.uniform()
    loss = truth.loss + np.where(tokens >= LONG_TOKENS, truth.long_loss, 0.0)
    lost = draw < FLIPPED + np.where(begun, loss, 0.0)
    won = draw >= 1 - FLIPPED
    a = np.where(lost, 1.0, np.where(won, 0.0, alike))
    b = np.where(lost, 0.0, np.where(won, 1.0, alike))
    return np.stack((a, b))


def _failures(draw):
    both = draw < FAILED
    only_a = (draw >= FAILED) & (draw < 2 * FAILED)
    only_b = (draw >= 2 * FAILED) & (draw < 3 * FAILED)
    return np.stack((both | only_a, both | only_b))


def share_over(threshold_s):
    """Return the exact share of the baseline's latencies above a threshold."""
    share = 0.0
    for low, high, weight in REGIMES:
        # The middles of 2,000 slices of equal probability.
        tokens = low * (high / low) ** ((np.arange(2000) + 0.5) / 2000)
        z = np.log(threshold_s / _scale_s(tokens)) / NOISE
        share += weight * float(norm.sf(z).mean())
    return share


def ratio_that_adds(share, threshold_s):
    """Return by which ratio to multiply latencies for a greater share over a threshold.

    All latencies just below the threshold must be multiplied: the ratio of that band.
    """
    wanted = share_over(threshold_s) + share
    crossing = brentq(lambda s: share_over(s) - wanted, threshold_s / 2, threshold_s)
    return threshold_s / crossing


def to_table(stream):
    """Return the stream as observations in the public schema, one row per arm."""
    count = len(stream)
    known = {
        "request_id": _twice(_names("r", count)),
        "arm": pa.concat_arrays(
            [pa.repeat(pa.scalar(arm), count) for arm in ("baseline", "candidate")]
        ),
        "arrived_s": pa.array(np.tile(stream.arrived_s, 2)),
        "status": _words(stream.failed.ravel(), "ok", "error"),
        "prompt_tokens": pa.array(np.tile(stream.tokens, 2)),
        "kind": _words(np.tile(stream.quality, 2), "latency", "quality"),
        "score": _floats(stream.score),
        "latency_s": _floats(stream.latency_s),
        **_grouping(stream),
    }
    columns = [
        known.get(field.name, pa.nulls(2 * count, field.type)) for field in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA)


def _grouping(stream):
    """A session of questions is a group of as many items as arrived in time."""
    if (stream.session < 0).all():
        return {}
    names = _names("s", int(stream.session.max()) + 1).take(pa.array(stream.session))
    items = np.bincount(stream.session)[stream.session]
    alone = pa.array(~stream.quality)  # where this is true, the value is left out
    groups = pa.compute.if_else(alone, pa.scalar(None, pa.string()), names)
    return {
        "session_id": _twice(names),
        "group": _twice(groups),
        "group_items": _twice(pa.array(items, mask=~stream.quality)),
    }


def _twice(column):
    return pa.concat_arrays([column, column])


def _words(chosen, otherwise, word):
    codes = pa.array(chosen.astype(np.int8))
    return pa.DictionaryArray.from_arrays(codes, [otherwise, word]).cast(pa.string())


def _floats(values):
    values = values.ravel()
    return pa.array(values, mask=np.isnan(values))


def _names(prefix, count):
    return _all_names(prefix, 1 << count.bit_length()).slice(0, count)


@lru_cache
def _all_names(prefix, count):
    """Names that sort as they are numbered; made once for all streams."""
    return pa.array([f"{prefix}{index:07d}" for index in range(count)])
