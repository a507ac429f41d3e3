"""What the run's record says, as labelled facts; what it lacks is "not recorded"."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from canary.decision import Decision
from canary.policy.model import Policy
from canary.report.data import NOT_RECORDED, ReportData, recorded
from canary.wording import ABOUT_THIS_SET, control_in_words, seconds, value_in_words

Facts = tuple[tuple[str, str], ...]
"""Pairs of label and text."""


def count(value: Any) -> str:  # noqa: ANN401 - a recorded number or None
    """Return a recorded number with separators."""
    return f"{value:,}" if isinstance(value, int | float) else NOT_RECORDED


def moment(value: Any) -> str:  # noqa: ANN401 - a recorded ISO time or None
    """Return a recorded moment as people write it: ``23 November 2026, 20:51 UTC``."""
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError:
        return NOT_RECORDED if value is None else str(value)
    zone = f" {time.tzname()}" if time.tzname() else ""
    return f"{time.day} {time:%B %Y, %H:%M}{zone}"


def _text(value: Any) -> str:  # noqa: ANN401 - any recorded scalar or None
    return NOT_RECORDED if value is None else str(value)


def _seconds(value: Any) -> str:  # noqa: ANN401 - a recorded number or None
    return NOT_RECORDED if value is None else seconds(value)


def _bytes(value: Any) -> str:  # noqa: ANN401 - a recorded number or None
    return NOT_RECORDED if value is None else value_in_words(value, "bytes")


def _listed(values: Mapping[str, Any] | None) -> str:
    if not values:
        return NOT_RECORDED
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _plan_facts(run: dict[str, Any]) -> Facts:
    speed = recorded(run, "speed")
    return (
        ("Requests planned", count(recorded(run, "plan", "requests"))),
        ("of them timed", count(recorded(run, "plan", "latency_requests"))),
        ("of them scored", count(recorded(run, "plan", "quality_requests"))),
        ("Speed", NOT_RECORDED if speed is None else f"{speed:.3g}x as recorded"),
    )


def _live_facts(run: dict[str, Any]) -> Facts:
    return (
        ("Traffic", "live, as it came"),
        ("Questions", count(recorded(run, "plan", "quality_requests"))),
        ("Requests that came in pauses", count(recorded(run, "live", "skipped"))),
        ("Lines that are no request", count(recorded(run, "live", "bad_lines"))),
        ("Requests mirrored twice", count(recorded(run, "live", "repeated"))),
    )


def _pace(run: dict[str, Any]) -> str:
    answered, wall_s = recorded(run, "answered"), recorded(run, "wall_s")
    if not answered or not wall_s:
        return count(answered)
    return f"{count(answered)} requests at {answered / wall_s:.3g} a second"


def run_facts(data: ReportData) -> Facts:
    """Return what was run, on what, and how it ended."""
    run = data.run
    cores = recorded(run, "machine", "cores")
    return (
        ("Run", _text(recorded(run, "run"))),
        ("Started", moment(recorded(run, "created"))),
        ("Ended", _text(recorded(run, "ended"))),
        ("Span of the traffic", _seconds(recorded(run, "elapsed_s"))),
        ("Wall time", _seconds(recorded(run, "wall_s"))),
        ("Answered", _pace(run)),
        ("Later than planned at p99", _seconds(recorded(run, "late_p99_s"))),
        *(_live_facts(run) if "live" in run else _plan_facts(run)),
        ("Arms ran", _text(recorded(run, "where"))),
        ("Processor", _text(recorded(run, "machine", "cpu"))),
        ("Cores", NOT_RECORDED if cores is None else str(cores)),
        ("Memory", _bytes(recorded(run, "machine", "memory_bytes"))),
        ("System", _text(recorded(run, "machine", "os"))),
        ("Peak memory of the run", _bytes(recorded(run, "peak_memory_bytes"))),
    )


def repeat_facts(data: ReportData) -> Facts:
    """Return what is needed to run it again and to know that it is the same."""
    run = data.run
    source = recorded(run, "source") or {}
    validation = recorded(run, "validation") or []
    policies = recorded(run, "policies") or {
        decision.policy: decision.policy_sha256 for decision in data.decisions
    }
    traffic = _listed({k: source[k] for k in ("path", "format") if k in source})
    return (
        ("Seed", _text(recorded(run, "seed"))),
        ("Versions", _listed(recorded(run, "versions"))),
        ("Traffic", traffic.removeprefix("path ")),
        ("Traffic rows", _rows(source)),
        ("Traffic sha256", _text(source.get("sha256"))),
        *(
            (f"Validation set {item.get('path', '')}", _validation(item))
            for item in validation
        ),
        ("Plan sha256", _text(recorded(run, "plan", "sha256"))),
        *((f"Policy {name} sha256", _text(sha)) for name, sha in policies.items()),
    )


def _rows(source: Mapping[str, Any]) -> str:
    if source.get("rows") is None:
        return NOT_RECORDED
    return f"{count(source['rows'])}, and {count(source.get('bad_rows', 0))} unreadable"


def _validation(item: Mapping[str, Any]) -> str:
    return (
        f"{count(item.get('items'))} items in {count(item.get('groups'))} groups, "
        f"sha256 {_text(item.get('sha256'))}"
    )


def arm_facts(data: ReportData) -> tuple[tuple[str, Facts], ...]:
    """Return each arm with what it said about itself."""
    arms: Mapping[str, Any] = recorded(data.run, "arms") or {}
    return tuple((name, _arm(arm, _rows_of(name, data))) for name, arm in arms.items())


def _rows_of(arm: str, data: ReportData) -> pa.Table:
    return data.observations.filter(pc.equal(data.observations["arm"], arm))


def _arm(arm: Mapping[str, Any], rows: pa.Table) -> Facts:
    kernels = sorted(pc.unique(rows["kernel"].drop_null()).to_pylist())
    warm = pc.sum(rows["warm"]).as_py()
    return (
        ("Device", _text(arm.get("device"))),
        ("Number type", _text(arm.get("dtype"))),
        ("torch", _text(arm.get("torch"))),
        ("Threads", _text(arm.get("threads"))),
        ("Kernels", ", ".join(kernels) or NOT_RECORDED),
        ("Peak memory", _bytes(arm.get("peak_memory_bytes"))),
        ("Warm-up requests", count(warm)),
        ("Weights sha256", _text(arm.get("weights_sha256"))),
    )


def validity_facts(decision: Decision) -> Facts:
    """Return what the trust in this decision's evidence rests on."""
    validity = decision.validity
    load = validity.baseline_load
    return (
        (
            "Evidence",
            "can be trusted as far as it was checked"
            if validity.valid
            else "can't be trusted",
        ),
        ("Load of the baseline", NOT_RECORDED if load is None else f"{load:.0%} busy"),
        ("Void or shed requests", f"{validity.void_share:.2%}"),
        *_late_fact(validity.late_share),
        ("A/A control", control_in_words(decision)),
        ("Answers missing, baseline", count(validity.missing_baseline)),
        ("Answers missing, candidate", count(validity.missing_candidate)),
        *(("Kernels of " + arm, _seen(seen)) for arm, seen in validity.kernels.items()),
        *(("Device of " + arm, _seen(seen)) for arm, seen in validity.devices.items()),
    )


def _late_fact(late_share: float | None) -> Facts:
    if late_share is None:  # arms take turns, and nothing is sent at its moment
        return ()
    return (("Requests sent too late", f"{late_share:.2%}"),)


def _seen(values: list[str]) -> str:
    return ", ".join(values) or NOT_RECORDED


def rules_in_words(policy: Policy, decision: Decision) -> tuple[str, ...]:
    """Return how sure the policy wants to be, and what else it asks for."""
    rules = policy.decision
    looks = f"{len(decision.looks):,} look{'' if len(decision.looks) == 1 else 's'}"
    often = f"It looks every {seconds(rules.look_every_s)} ({looks} so far)."
    however = ", however often one looks"
    if rules.mode == "fixed":
        often, however = "It looks once, at the end.", ", at its one look"
    errors = (
        "If any of these limits is in truth broken, the chance that this policy "
        "promotes the candidate all the same is at most "
        f"{rules.alpha * 100:g}%{however}. If all of them hold, the "
        f"chance that it rolls back is at most {rules.harm_alpha * 100:g}%."
    )
    demands = (
        f"To promote it asks for at least {rules.min_pairs:,} pairs and "
        f"{seconds(rules.min_duration_s)} of traffic; it ends after "
        f"{seconds(rules.max_duration_s)}. {often}"
    )
    about = (ABOUT_THIS_SET,) if rules.inference == "set" else ()
    return (errors, demands, *about)


def shares_device(decision: Decision) -> bool | None:
    """Return whether both arms ran on one device; None if it was not recorded."""
    devices = decision.validity.devices
    baseline = set(devices.get(decision.baseline, ()))
    candidate = set(devices.get(decision.candidate, ()))
    if not baseline or not candidate:
        return None
    return bool(baseline & candidate)
