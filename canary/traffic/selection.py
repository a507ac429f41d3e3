"""Which rows of a trace a run uses, when, and with which weight.

All but the limits on single rows keeps sessions whole: a session that is cropped,
sampled or thinned away is gone with all of its turns.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from canary.errors import TrafficError
from canary.traffic.formats import Trace, TraceRow
from canary.traffic.seeds import stable_uniform

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_LEAST_TICK_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What of a trace is sent. The defaults use every row as it was recorded.

    Attributes:
        prompt_tokens: The longest prompt that is used.
        output_tokens: The longest output that is used.
        requests: How many rows are used at most, from the beginning.
        max_output_tokens: Longer or unknown outputs are cut to this many tokens.
        crop_from_s: Sessions that begin earlier are left out.
        crop_for_s: Sessions that begin this long after `crop_from_s` are left out.
        regimes: Boundaries of prompt length that `shares` are for.
        shares: The share of sessions that is kept, per regime; a session counts in the
            one of its requests with the greatest share. None keeps all.
        rate_rps: Sessions are thinned to this mean rate of requests as they are sent.
        tick_spread_s: Arrivals are spread over the step of the trace's clock, of so
            many seconds, or of what the stamps show (``auto``). 0 leaves them.
        loop_for_s: The trace begins again until the run is so long. None: it ends.
        items_for_s: Where it loops, questions are mixed into so much of the run.
    """

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    requests: int | None = None
    max_output_tokens: int | None = None
    crop_from_s: float = 0.0
    crop_for_s: float | None = None
    regimes: tuple[int, ...] = ()
    shares: tuple[float, ...] | None = None
    rate_rps: float | None = None
    tick_spread_s: float | str = 0.0
    loop_for_s: float | None = None
    items_for_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selected:
    """Rows in order of arrival, the first at 0 s: as positions in `trace.rows`, and by
    the number that each has in its file."""

    rows: Ints
    index: Ints
    at_s: Floats
    weight: Floats
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Row:
    """What selecting needs to know of a row."""

    position: int
    index: int
    at_s: float
    prompt_tokens: int
    output_tokens: int | None
    session: str
    weight: float = 1.0


def select(trace: Trace, chosen: Selection, *, speed: float, seed: int) -> Selected:
    """Return the rows that are used and, in words, what is left out and why.

    Raises:
        TrafficError: No row is left, or a rate is asked for that the trace lacks.
    """
    cut = _Cut(trace, chosen)
    cut.limits()
    cut.crop()
    cut.sample(seed)
    if chosen.rate_rps is not None:
        cut.thin(chosen.rate_rps / speed, speed, seed)
    cut.first()
    rows = cut.rows
    notes = [*cut.notes(), *_spread(rows, chosen.tick_spread_s, seed)]
    rows.sort(key=lambda row: (row.at_s, row.position))
    zero_s = rows[0].at_s
    return Selected(
        rows=np.array([row.position for row in rows], np.int64),
        index=np.array([row.index for row in rows], np.int64),
        at_s=np.array([row.at_s - zero_s for row in rows], np.float64),
        weight=np.array([row.weight for row in rows], np.float64),
        notes=tuple(notes),
    )


class _Cut:
    """Rows that are left while one rule after another takes its part."""

    def __init__(self, trace: Trace, chosen: Selection) -> None:
        self._trace = trace
        self._chosen = chosen
        self._left_out: list[str] = []
        self._said: list[str] = []
        self.rows = [_row(position, row) for position, row in enumerate(trace.rows)]

    def limits(self) -> None:
        """Leave out rows that are too long."""

        def limit(most: int | None, what: str, size: Callable[[_Row], int]) -> None:
            if most is not None:
                told = f"with {what} over {most:,} tokens"
                self._keep(lambda row: size(row) <= most, told)

        limit(self._chosen.prompt_tokens, "prompts", lambda row: row.prompt_tokens)
        limit(self._chosen.output_tokens, "outputs", lambda row: row.output_tokens or 0)

    def crop(self) -> None:
        """Leave out sessions that begin outside of the stretch asked for."""
        from_s, for_s = self._chosen.crop_from_s, self._chosen.crop_for_s
        if not from_s and for_s is None:
            return
        end_s = from_s + (float("inf") if for_s is None else for_s)
        begin: dict[str, float] = {}
        for row in self.rows:
            begin.setdefault(row.session, row.at_s)
        until = "" if for_s is None else f" to {end_s:,.10g}"
        told = f"of sessions that begin outside of {from_s:,.10g}{until} s"
        self._keep(lambda row: from_s <= begin[row.session] < end_s, told)

    def sample(self, seed: int) -> None:
        """Keep a share of the sessions; each stands for 1/share of them."""
        shares = self._chosen.shares
        if shares is None:
            return
        kept: dict[str, float] = {}
        sizes = np.array([row.prompt_tokens for row in self.rows])
        regimes = np.searchsorted(np.array(self._chosen.regimes), sizes, side="right")
        for row, regime in zip(self.rows, regimes.tolist(), strict=True):
            kept[row.session] = max(kept.get(row.session, 0.0), shares[regime])
        self._keep(
            lambda row: stable_uniform("sample", seed, row.session) < kept[row.session],
            "not sampled",
        )
        for row in self.rows:
            row.weight /= kept[row.session]

    def thin(self, rate_rps: float, speed: float, seed: int) -> None:
        """Keep as many sessions as make `rate_rps` on the trace's own clock."""
        span_s = self.rows[-1].at_s - self.rows[0].at_s
        recorded_rps = len(self.rows) / span_s if span_s else float("inf")
        share = rate_rps / recorded_rps
        if share > 1:
            raise TrafficError(
                f"{self._trace.path}: has {recorded_rps * speed:.3g} requests/s at "
                f"{speed:.3g}x, less than the {rate_rps * speed:.3g} of traffic.rate; "
                f"write speed: {np.ceil(speed * share * 10) / 10:g}x or more"
            )
        self._keep(
            lambda row: stable_uniform("rate", seed, row.session) < share,
            f"to come to {rate_rps * speed:.3g} requests/s",
        )

    def first(self) -> None:
        """Leave out what comes after the first so many rows."""
        most = self._chosen.requests
        if most is not None and len(self.rows) > most:
            self._tell(len(self.rows) - most, f"after the first {most:,}")
            del self.rows[most:]

    def notes(self) -> Iterator[str]:
        """Yield what was left out and why, with shares of the whole trace."""
        total, path = len(self._trace.rows), self._trace.path
        used = f"uses {len(self.rows):,} of {total:,} rows of {path}"
        left_out = ", ".join(self._left_out)
        yield f"{used}: left out {left_out}" if left_out else used
        if self._trace.bad_row_count:
            broken = f"{self._trace.bad_row_count:,} further rows are broken"
            yield f"{broken} and left out"
        start_s = self.rows[0].at_s
        if start_s > 0:
            yield f"starts with the row at {start_s:.1f} s, the first that is used"

    def _keep(self, which: Callable[[_Row], bool], why: str) -> None:
        before = len(self.rows)
        self.rows = [row for row in self.rows if which(row)]
        if before > len(self.rows):
            self._tell(before - len(self.rows), why)
        if not self.rows:
            raise TrafficError(
                f"{self._trace.path}: none of {len(self._trace.rows):,} rows is used: "
                f"left out {', '.join(self._left_out)}; ask for more in traffic"
            )

    def _tell(self, gone: int, why: str) -> None:
        share = gone / len(self._trace.rows)
        self._left_out.append(f"{gone:,} {why} ({share:.1%})")


def _row(position: int, row: TraceRow) -> _Row:
    return _Row(
        position=position,
        index=row.index,
        at_s=row.arrival_s,
        prompt_tokens=row.prompt_tokens,
        output_tokens=row.output_tokens,
        session=row.session_id or f"#{row.index}",
        weight=row.weight,
    )


def _spread(rows: list[_Row], tick: float | str, seed: int) -> list[str]:
    """Move arrivals to random moments of their tick: what a coarse clock has hidden.

    All turns of a session move alike, so that their order stays.
    """
    stamps = sorted({row.at_s for row in rows})
    if tick == "auto":
        together = 1 - len(stamps) / len(rows)
        if together <= _LEAST_TICK_SHARE or len(stamps) < 2:
            return []
        tick_s = float(np.median([after - at for at, after in pairwise(stamps)]))
    else:
        tick_s = float(tick)
    if not tick_s:
        return []
    for row in rows:
        row.at_s += tick_s * stable_uniform("tick", seed, row.session)
    return [f"arrivals are spread at random over ticks of {tick_s:.3g} s"]
