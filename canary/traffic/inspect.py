"""What a trace holds, and what about it would mislead: `canary replay inspect`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from canary.policy.model import regime_names
from canary.traffic.formats import Trace

_COARSE_SHARE = 0.5
_IDLE_S = 10.0
_IDLE_MEAN_GAPS = 20
_HEAD_SHARE = 0.1

Floats = npt.NDArray[np.float64]


def inspect_trace(trace: Trace, regimes: tuple[int, ...]) -> dict[str, Any]:
    """Return counts, lengths, timing and warnings, ready for JSON.

    Args:
        trace: What `read_trace` gave.
        regimes: Boundaries of the regimes in tokens, ascending.

    Returns:
        The public keys `rows`, `bad_rows`, `duration_s`, `prompt_tokens` and
        `output_tokens` (p50, p90, p99, max; interpolated, to whole tokens), `regimes`
        (name to rows, in order), `sessions`, `warnings`; also `path`, `format`,
        `sha256`, `rate_rps` (rows over duration), `gap_cv` (standard deviation over
        mean of the gaps; 1 for Poisson arrivals) and `prefix_reuse` (share of blocks
        seen in an earlier row or block). None where the trace can't tell; where it
        names no sessions, each row is one.
    """
    arrival_s = np.array([row.arrival_s for row in trace.rows])
    gaps_s = np.diff(arrival_s)
    duration_s = float(arrival_s[-1])
    prompts = np.array([row.prompt_tokens for row in trace.rows])
    outputs = np.array([row.output_tokens for row in trace.rows])
    regime = np.searchsorted(np.array(regimes), prompts, side="right")
    counts = np.bincount(regime, minlength=len(regimes) + 1)
    reuse = _prefix_reuse(trace)
    return {
        "path": trace.path,
        "format": trace.format,
        "sha256": trace.sha256,
        "rows": len(trace.rows),
        "bad_rows": trace.bad_row_count,
        "duration_s": duration_s,
        "rate_rps": len(trace.rows) / duration_s if duration_s else None,
        "gap_cv": float(gaps_s.std() / gaps_s.mean()) if duration_s else None,
        "prompt_tokens": _spread(prompts),
        "output_tokens": _spread(outputs),
        "regimes": dict(zip(regime_names(regimes), counts.tolist(), strict=True)),
        "sessions": len({row.session_id or row.index for row in trace.rows}),
        "prefix_reuse": reuse,
        "warnings": [*trace.warnings, *_timing_warnings(arrival_s), *_notices(reuse)],
    }


def render_inspection(found: dict[str, Any]) -> str:
    """Return what `inspect_trace` found as lines to read."""
    rate, cv, reuse = found["rate_rps"], found["gap_cv"], found["prefix_reuse"]
    alone = " (one per request)" if found["sessions"] == found["rows"] else ""
    lines = [
        f"{found['path']} ({found['format']}, sha256 {found['sha256'][:12]})",
        f"rows      {found['rows']:,} ({found['bad_rows']:,} broken left out)",
        f"sessions  {found['sessions']:,}{alone}",
        f"duration  {found['duration_s']:,.1f} s",
        f"rate      {_or_unknown(rate, '{:.2f} requests/s')}",
        f"gap CV    {_or_unknown(cv, '{:.1f} (1 = Poisson)')}",
        f"reuse     {_or_unknown(reuse, '{:.1%} of prompt blocks')}",
        f"{'tokens':10}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}",
    ]
    for name in ("prompt", "output"):
        spread = found[f"{name}_tokens"].values()
        lines.append(f"  {name:8}" + "".join(f"{value:>9,}" for value in spread))
    lines.append("regimes (prompt tokens)")
    for name, rows in found["regimes"].items():
        lines.append(f"  {name:10}{rows:>9,}  {rows / found['rows']:6.1%}")
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)


def _or_unknown(value: float | None, form: str) -> str:
    return "not known" if value is None else form.format(value)


def _spread(tokens: npt.NDArray[np.int64]) -> dict[str, int]:
    p50, p90, p99 = np.percentile(tokens, [50, 90, 99]).round().astype(int).tolist()
    return {"p50": p50, "p90": p90, "p99": p99, "max": int(tokens.max())}


def _prefix_reuse(trace: Trace) -> float | None:
    """Share of blocks that an infinite cache would hold, rows taken in order."""
    if trace.block_tokens is None:
        return None
    blocks = [block for row in trace.rows for block in row.block_ids]
    return 1 - len(set(blocks)) / len(blocks)


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


def _notices(reuse: float | None) -> list[str]:
    if not reuse:
        return []
    share = f"{reuse:.1%} of prompt blocks repeat an earlier one"
    return [f"{share}: a prefix cache has to be off, or equal in both arms"]
