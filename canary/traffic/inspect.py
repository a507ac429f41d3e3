"""What a trace holds, and what about it would mislead: `canary replay inspect`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from canary.policy.model import regime_names
from canary.traffic.formats import Trace
from canary.traffic.rows import RawRow
from canary.traffic.table import Floats, RowsBuilder, TraceRow, TraceRows

_COARSE_SHARE = 0.5
_IDLE_S = 10.0
_IDLE_MEAN_GAPS = 20
_HEAD_SHARE = 0.1


def inspect_trace(trace: Trace, regimes: tuple[int, ...]) -> dict[str, Any]:
    """Return counts, lengths, timing and warnings, ready for JSON.

    Args:
        trace: What `read_trace` gave.
        regimes: Boundaries of the regimes in tokens, ascending.

    Returns:
        The public keys `rows`, `bad_rows`, `duration_s`, `prompt_tokens` and
        `output_tokens` (p50, p90, p99, max; interpolated, to whole tokens), `regimes`
        (name to rows, in order), `sessions`, `warnings`; also `path`, `format`,
        `sha256`, `left_out` (sound rows that are not replayed, such as failed
        requests), `rate_rps` (arrivals over duration), `gap_cv` (standard deviation
        over mean of the gaps; 1 for Poisson arrivals), `prefix_reuse` (share of blocks
        seen in an earlier row or block), `turns_per_session` (mean) and
        `estimated_lengths` (whether prompt lengths were counted from characters). None
        where the trace can't tell; where it names no sessions, each row is one. Turns
        that are due by the answer before them alone have no arrival of their own:
        duration, rate and gaps leave them out.
    """
    rows = columns(trace.rows)
    arrival_s = rows.arrival_s[timed(rows)]
    gaps_s = np.diff(arrival_s)
    duration_s = float(arrival_s[-1])
    regime = np.searchsorted(np.array(regimes), rows.prompt_tokens, side="right")
    counts = np.bincount(regime, minlength=len(regimes) + 1)
    reuse = _prefix_reuse(trace, rows)
    sessions = _sessions(rows)
    return {
        "path": trace.path,
        "format": trace.format,
        "sha256": trace.sha256,
        "rows": len(rows),
        "bad_rows": trace.bad_row_count,
        "left_out": trace.left_out_count,
        "duration_s": duration_s,
        "rate_rps": len(arrival_s) / duration_s if duration_s else None,
        "gap_cv": float(gaps_s.std() / gaps_s.mean()) if duration_s else None,
        "prompt_tokens": _spread(rows.prompt_tokens),
        "output_tokens": _spread(rows.output_tokens[rows.output_tokens >= 0]),
        "estimated_lengths": trace.estimated_lengths,
        "regimes": dict(zip(regime_names(regimes), counts.tolist(), strict=True)),
        "sessions": sessions,
        "turns_per_session": len(rows) / sessions,
        "prefix_reuse": reuse,
        "warnings": [
            *trace.warnings,
            *_timing_warnings(arrival_s),
            *_notices(trace, rows, len(arrival_s), reuse),
        ],
    }


def columns(rows: Sequence[TraceRow]) -> TraceRows:
    """Return the rows as columns of numbers, which those of `read_trace` are."""
    if isinstance(rows, TraceRows):
        return rows
    building = RowsBuilder()
    blocks: dict[str, int] = {}
    for row in rows:
        raw = RawRow(
            round(row.arrival_s * 1e9),
            row.prompt_tokens,
            row.output_tokens,
            session=row.session_id,
            block_ids=tuple(blocks.setdefault(b, len(blocks)) for b in row.block_ids),
            weight=row.weight,
        )
        building.add(raw, row.index)
    return building.finish()


def timed(rows: TraceRows) -> npt.NDArray[np.bool_]:
    """Return which rows have an arrival of their own.

    The others are later turns with the arrival of the turn before them: they come when
    that one is answered.
    """
    by_session = np.lexsort((rows.turn, rows.session))
    same = np.diff(rows.arrival_s[by_session], prepend=-1.0) == 0
    own: npt.NDArray[np.bool_] = rows.turn == 0
    own[by_session] |= ~same
    return own


def render_inspection(found: dict[str, Any]) -> str:
    """Return what `inspect_trace` found as lines to read."""
    rate, cv, reuse = found["rate_rps"], found["gap_cv"], found["prefix_reuse"]
    form = "{:.3g} requests/s" if rate and rate < 1 else "{:,.2f} requests/s"
    alone = found["sessions"] == found["rows"]
    turns = "one per request" if alone else f"{found['turns_per_session']:.1f} turns"
    gone = f", {found['left_out']:,} not replayed" if found["left_out"] else ""
    lines = [
        f"{found['path']} ({found['format']}, sha256 {found['sha256'][:12]})",
        f"rows      {found['rows']:,} ({found['bad_rows']:,} broken left out{gone})",
        f"sessions  {found['sessions']:,} ({turns}{'' if alone else ' on average'})",
        f"duration  {found['duration_s']:,.1f} s",
        f"rate      {_or_unknown(rate, form)}",
        f"gap CV    {_or_unknown(cv, '{:.1f} (1 = Poisson)')}",
        f"reuse     {_or_unknown(reuse, '{:.1%} of prompt blocks')}",
        f"{'tokens':10}{'p50':>9} {'p90':>9} {'p99':>9} {'max':>9}",
    ]
    for name in ("prompt", "output"):
        spread = found[f"{name}_tokens"]
        told = " ".join(f"{value:>9,}" for value in spread.values()) if spread else ""
        about = (
            " (estimated)" if name == "prompt" and found["estimated_lengths"] else ""
        )
        lines.append(f"  {name:8}{told or ' not known'}{about}")
    lines.append("regimes (prompt tokens)")
    for name, rows in found["regimes"].items():
        lines.append(f"  {name:10}{rows:>9,}  {rows / found['rows']:6.1%}")
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)


def _or_unknown(value: float | None, form: str) -> str:
    return "not known" if value is None else form.format(value)


def _spread(tokens: npt.NDArray[np.int32]) -> dict[str, int] | None:
    if not len(tokens):
        return None
    p50, p90, p99 = np.percentile(tokens, [50, 90, 99]).round().astype(int).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": int(tokens.max())}


def _sessions(rows: TraceRows) -> int:
    """Count sessions; a row without one is its own."""
    return int(np.sum(rows.turn == 0))


def _prefix_reuse(trace: Trace, rows: TraceRows) -> float | None:
    """Share of blocks that an infinite cache would hold, rows taken in order."""
    if trace.block_tokens is None:
        return None
    return 1 - len(np.unique(rows.blocks)) / len(rows.blocks)


def _timing_warnings(arrival_s: Floats) -> list[str]:
    gaps_s = np.diff(arrival_s)
    if not len(gaps_s) or not arrival_s[-1]:
        return ["all rows arrive at the same instant: there is no timing to replay"]
    found = (_coarse(gaps_s), _idle(arrival_s, gaps_s), _ramp_up(arrival_s))
    return [warning for warning in found if warning]


def _coarse(gaps_s: Floats) -> str | None:
    together = float(np.mean(gaps_s == 0))
    if together <= _COARSE_SHARE:
        return None
    moments = np.concatenate([[True], gaps_s > 0]).nonzero()[0]
    most = int(np.diff([*moments, len(gaps_s) + 1]).max())
    return (
        f"time stamps are coarse: {together:.0%} of rows arrive with the row before "
        f"them (steps of about {np.median(gaps_s[gaps_s > 0]):.3g} s, up to {most} at "
        "once): bursts that the recorded service may never have seen"
    )


def _idle(arrival_s: Floats, gaps_s: Floats) -> str | None:
    """Gaps far beyond the usual: one Poisson gap in 500 million is 20 means long."""
    at = np.flatnonzero(gaps_s >= max(_IDLE_S, _IDLE_MEAN_GAPS * gaps_s.mean()))
    if not len(at):
        return None
    longest = at[np.argmax(gaps_s[at])]
    share = gaps_s[at].sum() / arrival_s[-1]
    gaps = "1 idle gap makes" if len(at) == 1 else f"{len(at)} idle gaps make"
    return (
        f"{gaps} up {share:.0%} of the duration, the longest of "
        f"{gaps_s[longest]:,.1f} s after {arrival_s[longest]:,.1f} s: the mean rate "
        "says little about the load between them"
    )


def _ramp_up(arrival_s: Floats) -> str | None:
    """A nearly empty head: the first tenth has under a tenth of the rest's rate."""
    head_s = _HEAD_SHARE * arrival_s[-1]
    head = float(np.sum(arrival_s < head_s)) / _HEAD_SHARE
    rest = float(np.sum(arrival_s >= head_s)) / (1 - _HEAD_SHARE)
    if head >= _HEAD_SHARE * rest:
        return None
    return (
        f"the first {head_s:,.1f} s have under a tenth of the rate of the rest (a "
        "ramp-up?): a run that starts there measures hardly any load"
    )


def _notices(trace: Trace, rows: TraceRows, own: int, reuse: float | None) -> list[str]:
    said = []
    later = len(rows) - own
    if later:
        said.append(
            f"{later:,} rows are later turns, due by the answer before them and not by "
            f"the clock: duration, rate and gaps are those of the other {own:,}"
        )
    unknown = int(np.sum(rows.output_tokens < 0))
    if unknown == len(rows):
        said.append("the trace doesn't tell how long the answers were")
    elif unknown:
        said.append(
            f"{unknown:,} rows don't tell how long the answer was: output lengths are "
            "those of the others"
        )
    if trace.estimated_lengths:
        said.append(
            "prompt lengths are estimated from characters, 4 to a token: regimes are "
            "only roughly right"
        )
    if rows.weight is not None:
        said.append(
            f"a sample: its rows stand for {rows.weight.sum():,.0f} requests, lengths "
            "and regimes are those of the rows"
        )
    if reuse:
        said.append(
            f"{reuse:.1%} of prompt blocks repeat an earlier one: a prefix cache has "
            "to be off, or equal in both arms"
        )
    return said
