"""Evidence as integers: rows per base block, which add up in any order.

Folding observations makes such rows; merging puts those of several machines together;
weighing takes them block by block, in one canonical order. Floats appear only there.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.int64] | npt.NDArray[np.int32] | npt.NDArray[np.object_]
Rows = dict[str, Column]

BLOCK = "block"


class Strand:
    """The rows of one question, each with its base block.

    What has been taken stays, so that estimates and bounds can be worked out later.
    """

    def __init__(self) -> None:
        self._fresh: list[Rows] = []
        self._sorted = True
        self._taken: list[Rows] = []

    def __len__(self) -> int:
        """Return how many rows there are, taken or not."""
        return sum(len(rows[BLOCK]) for rows in (*self._taken, *self._fresh))

    def add(self, rows: Mapping[str, Column]) -> None:
        """Take rows; `block` is one of their columns."""
        if len(rows[BLOCK]):
            self._fresh.append(dict(rows))
            self._sorted = False

    def extend(self, other: "Strand") -> None:
        """Take all rows of another strand, also those already taken from it."""
        whole = other.canonical()
        if whole is not None:
            self.add(whole)

    def take(self, before: int | None) -> Rows | None:
        """Return, and count as taken, the rows of blocks before one (all: None).

        In the order of their blocks; None if there are no such rows.
        """
        if not self._fresh:
            return None
        rows = self._in_order()
        count = len(rows[BLOCK])
        if before is not None:
            count = int(np.searchsorted(rows[BLOCK], before))
        if not count:
            return None
        head = {name: column[:count] for name, column in rows.items()}
        left = {name: column[count:] for name, column in rows.items()}
        self._fresh = [left] if len(left[BLOCK]) else []
        self._taken.append(head)
        return head

    def waiting(self) -> Column:
        """Return the blocks of the rows that haven't been taken, in order."""
        return self._in_order()[BLOCK] if self._fresh else np.empty(0, np.int64)

    def taken(self) -> Rows | None:
        """Return all rows that have been taken; None if none has."""
        if len(self._taken) > 1:
            self._taken = [_joined(self._taken)]
        return self._taken[0] if self._taken else None

    def everything(self) -> Rows:
        """Return every row, taken or not, in no order; empty if there is none."""
        parts = [*self._taken, *self._fresh]
        return _joined(parts) if parts else {}

    def canonical(self) -> Rows | None:
        """Return every row in an order that depends on the rows alone."""
        if not (self._taken or self._fresh):
            return None
        rows = _joined([*self._taken, *self._fresh])
        others = sorted(name for name in rows if name != BLOCK)
        keys = [key for name in others[::-1] for key in _keys(rows[name])]
        return _picked(rows, np.lexsort([*keys, rows[BLOCK]]))

    def _in_order(self) -> Rows:
        if not self._sorted:
            rows = _joined(self._fresh)
            block = rows[BLOCK]
            if np.any(np.diff(block) < 0):
                rows = _picked(rows, np.argsort(block, kind="stable"))
            self._fresh, self._sorted = [rows], True
        return self._fresh[0]


def _keys(column: Column) -> list[Column]:
    """What rows are put in order by: a column, or each of those side by side in it."""
    if column.dtype == object:
        return [column.astype(str)]
    return list(column.reshape(len(column), -1).T)


def _joined(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _picked(rows: Rows, order: npt.NDArray[np.intp]) -> Rows:
    return {name: column[order] for name, column in rows.items()}
