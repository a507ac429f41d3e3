"""Which arm is on which card when: planned at random before anything is measured.

Cards of one host differ by some percent on the same work, which would be taken for a
difference of the variants. So the arms change places. Time goes in rounds: in each, all
arrangements last equally long, in random order, so that every arm spends the same time
on every card; and how long that is, is random too, so that no rhythm of the traffic
keeps step. Places change where a base block of the statistics ends.
"""

import random
from bisect import bisect_right

from canary.policy.units import BASE_BLOCK_S

_SPREAD = (0.5, 1.5)


class Swaps:
    """The plan of arrangements, numbered from 0, over the time of the traffic.

    Args:
        arrangements: How many there are.
        every_s: How long one lasts on average.
        seed: What the plan is drawn from.
    """

    def __init__(self, arrangements: int, *, every_s: float, seed: int) -> None:
        self._count = arrangements
        self._every_s = every_s
        self._random = random.Random(f"swaps {seed}")  # noqa: S311 - repeatable
        self._until_s: list[float] = []
        self._numbers: list[int] = []

    def at(self, at_s: float) -> int:
        """Return which arrangement holds at a time."""
        while not self._until_s or self._until_s[-1] <= at_s:
            self._plan_round()
        return self._numbers[bisect_right(self._until_s, at_s)]

    def _plan_round(self) -> None:
        blocks = self._every_s * self._random.uniform(*_SPREAD) / BASE_BLOCK_S
        lasts_s = BASE_BLOCK_S * max(1, round(blocks))
        order = list(range(self._count))
        self._random.shuffle(order)
        if not self._numbers:  # as they were placed: nothing has to move
            order.sort()
        for number in order:
            before_s = self._until_s[-1] if self._until_s else 0.0
            self._until_s.append(before_s + lasts_s)
            self._numbers.append(number)
