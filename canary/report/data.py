"""What a report is made from: the run's record, its policies and their decisions."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from canary.decision import Decision
from canary.policy.model import Policy

NOT_RECORDED = "not recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything that a report shows; nothing else is read.

    `run` is the content of ``run.json``. What it lacks is shown as "not recorded", so
    that measurements made elsewhere can be reported too. `policies` and `decisions`
    belong together by position; `observations` is a table in the public schema.
    """

    run: dict[str, Any]
    policies: tuple[Policy, ...]
    decisions: tuple[Decision, ...]
    observations: pa.Table

    def cases(self) -> tuple[tuple[Policy, Decision], ...]:
        """Return each policy with its decision."""
        return tuple(zip(self.policies, self.decisions, strict=True))


def recorded(run: dict[str, Any], *path: str) -> Any:  # noqa: ANN401 - any JSON value
    """Return what the run's record holds at `path`, or None where it is silent."""
    value: Any = run
    for key in path:
        if not isinstance(value, dict) or value.get(key) is None:
            return None
        value = value[key]
    return value
