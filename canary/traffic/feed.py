"""What is due next, one request after the other: of a plan, or of live traffic."""

from dataclasses import dataclass
from typing import Protocol

from canary.traffic.request import Plan, Request


@dataclass(frozen=True, slots=True)
class Due:
    """A request, its number in the run, and what seeds the order of its arms."""

    index: int
    request: Request
    order: int


class Feed(Protocol):
    """Gives each request once, in order of arrival."""

    planned: int | None
    """How many there are in all; None if nobody knows."""

    def next(self, until_s: float) -> Due | None:
        """Return the next request if it is known and arrives up to `until_s`."""
        ...

    def put_back(self, due: Due) -> None:
        """Take back the last one, which wasn't sent, to give it again."""
        ...

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        ...


class PlanFeed:
    """The requests of a plan from `first` on."""

    def __init__(self, plan: Plan, first: int = 0) -> None:
        self._plan = plan
        self._at = first
        self._next: Due | None = None
        self.planned: int | None = len(plan.requests)

    def next(self, until_s: float) -> Due | None:
        """Return the next request if it arrives up to `until_s`."""
        if self._next is None and not self.over:
            at = self._at
            self._next = Due(at, self._plan.requests[at], self._plan.arm_orders[at])
        found = self._next
        if found is None or found.request.arrival_s > until_s:
            return None
        self._at += 1
        self._next = None
        return found

    def put_back(self, due: Due) -> None:
        """Take back the last one, to give it again."""
        self._at = due.index
        self._next = due

    @property
    def over(self) -> bool:
        """Whether all requests have been given."""
        return self._at >= len(self._plan.requests)
