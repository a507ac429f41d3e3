"""What a run has lost, by cause, and how much more of it it bears."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from canary.arms.base import ArmsLostError
from canary.arms.causes import Cause
from canary.errors import ArmError


class Losses:
    """Counts restarts and void requests; ends a run whose arms don't come back."""

    def __init__(self) -> None:
        self.restarts: dict[str, Counter[str]] = {}
        self.voids: Counter[str] = Counter()
        self._in_a_row: Counter[Cause] = Counter()

    @classmethod
    def of_all(cls, many: "Iterable[Losses]") -> "Losses":
        """Return what several have counted, together."""
        whole = cls()
        for one in many:
            whole.voids += one.voids
            for arm, causes in one.restarts.items():
                whole.restarts.setdefault(arm, Counter()).update(causes)
        return whole

    def restarted(self, arm: str, cause: Cause) -> None:
        """Count that an arm was started anew."""
        self.restarts.setdefault(arm, Counter())[cause.value] += 1

    def void(self, cause: Cause) -> None:
        """Count a request that counts for no arm."""
        self.voids[cause.value] += 1

    def answered(self) -> None:
        """Take it that all arms are well: none was lost over the last request."""
        self._in_a_row.clear()

    def spend(self, lost: ArmsLostError) -> None:
        """Allow for one more loss.

        Raises:
            ArmError: There were too many of its cause in a row.
        """
        self._in_a_row[lost.cause] += 1
        most = lost.cause.ruling.most_in_a_row
        if most is not None and self._in_a_row[lost.cause] > most:
            raise ArmError(
                f"the arms were lost {most + 1} times in a row, the last time by "
                f"{lost}; see what ails the cluster (ray status), then go on with "
                "`canary resume`"
            ) from lost


def outlast(
    losses: Losses, lost: ArmsLostError, bring_back: Callable[[ArmsLostError], None]
) -> ArmsLostError:
    """Bring arms back after what they ran on was lost, if need be repeatedly.

    Returns the last of these losses.

    Raises:
        ArmError: There were too many in a row, or the arms can't be brought back.
    """
    while True:
        losses.spend(lost)
        try:
            bring_back(lost)
        except ArmsLostError as again:
            lost = again
        else:
            return lost


def losses_so_far(record: Mapping[str, Any], now: Losses) -> dict[str, Any]:
    """Return what run.json says of losses, with those that it has had before."""
    earlier: Mapping[str, Mapping[str, int]] = record.get("restarts", {})
    return {
        "restarts": {
            arm: now.restarts.get(arm, Counter()) + Counter(earlier.get(arm, {}))
            for arm in dict.fromkeys((*earlier, *now.restarts))
        },
        "voids": now.voids + Counter(record.get("voids", {})),
    }
