"""Two policies on the same evidence: which gates another policy turns, and how.

Each decision is as of the look that ended it, so that a gate may differ because its
limit does or because one policy was decided earlier. `canary judge --against` prints
both looks.
"""

from dataclasses import dataclass
from typing import Any

from canary.decision import Decision, GateResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One gate under the policy before and the one after; None where one lacks it."""

    name: str
    before: GateResult | None
    after: GateResult | None

    @property
    def turned(self) -> bool:
        """Whether the gate's status differs, or only one of the policies has it."""
        if self.before is None or self.after is None:
            return True
        return self.before.status != self.after.status

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        document: dict[str, Any] = {"name": self.name}
        for side, gate in (("before", self.before), ("after", self.after)):
            document[f"status_{side}"] = gate.status.value if gate else None
            document[f"limit_{side}"] = gate.limit if gate else None
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What becomes of one policy's decision under another policy."""

    before: Decision
    after: Decision
    changes: tuple[Change, ...]

    @property
    def turned(self) -> tuple[Change, ...]:
        """The gates whose status differs, or that only one of the policies has."""
        return tuple(change for change in self.changes if change.turned)

    def to_dict(self) -> dict[str, Any]:
        """Return both decision documents and the gates that turned, as JSON values."""
        return {
            "decision": self.after.to_dict(),
            "against": self.before.to_dict(),
            "turned": [change.to_dict() for change in self.turned],
        }


def compare(before: Decision, after: Decision) -> Comparison:
    """Return what differs, gate by gate.

    Gates are the same if they ask about the same thing (metric, scope, quantile, time),
    whatever their limits: those of `after` come first, in its order.
    """
    old = {gate.name: gate for gate in before.gates}
    new = {gate.name: gate for gate in after.gates}
    changes = tuple(
        Change(name=name, before=old.get(name), after=new.get(name))
        for name in dict.fromkeys([*new, *old])
    )
    return Comparison(before=before, after=after, changes=changes)
