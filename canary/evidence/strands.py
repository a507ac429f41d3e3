"""Evidence as integers: rows per base block, which add up in any order.

Folding observations makes such rows; merging puts those of several machines together;
weighing takes them block by block, in one canonical order. Floats appear only there.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.int64] | npt.NDArray[np.int32] | npt.NDArray[np.object_]
Rows = dict[str, Column]

BLOCK = "block"


class Strand:
    """The rows of one question, each with its base block.

    What has been taken stays, so that estimates and bounds can be worked out later;
    where nobody minds the order of rows in a block, `pack` makes few of many.
    """

    def __init__(self) -> None:
        self._fresh: list[Rows] = []
        self._sorted = True
        self._packed: list[_Packed] = []
        self._taken: list[Rows] = []

    def __len__(self) -> int:
        """Return how many rows there are, taken or not."""
        packed = sum(len(part) for part in self._packed)
        return packed + sum(len(rows[BLOCK]) for rows in (*self._taken, *self._fresh))

    @property
    def kept(self) -> int:
        """How many rows are in memory: of equal ones that are packed, one."""
        parts = (*(part.rows for part in self._packed), *self._taken, *self._fresh)
        return sum(len(rows[BLOCK]) for rows in parts)

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

    def pack(self) -> None:
        """Keep equal rows of a block that have been taken once, with their number.

        From then on the rows of a block come in no order of their own. Texts, and what
        hardly repeats, stay as they are.
        """
        self._packed += [_packed(rows) for rows in self._taken]
        self._taken = []

    def taken(self) -> Rows | None:
        """Return all rows that have been taken; None if none has."""
        parts = self._all_taken()
        return _joined(parts) if parts else None

    def everything(self) -> Rows:
        """Return every row, taken or not, in no order; empty if there is none."""
        parts = [*self._all_taken(), *self._fresh]
        return _joined(parts) if parts else {}

    def canonical(self) -> Rows | None:
        """Return every row in an order that depends on the rows alone."""
        rows = self.everything()
        if not rows:
            return None
        others = sorted(name for name in rows if name != BLOCK)
        keys = [key for name in others[::-1] for key in _keys(rows[name])]
        return _picked(rows, np.lexsort([*keys, rows[BLOCK]]))

    def _all_taken(self) -> list[Rows]:
        return [*(part.unpacked() for part in self._packed), *self._taken]

    def _in_order(self) -> Rows:
        if not self._sorted:
            rows = _joined(self._fresh)
            block = rows[BLOCK]
            if np.any(np.diff(block) < 0):
                rows = _picked(rows, np.argsort(block, kind="stable"))
            self._fresh, self._sorted = [rows], True
        return self._fresh[0]


@dataclass(frozen=True, slots=True)
class _Packed:
    """Rows, and how often each is there; None: once."""

    rows: Rows
    often: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows[BLOCK]) if self.often is None else int(self.often.sum())

    def unpacked(self) -> Rows:
        if self.often is None:
            return self.rows
        return _picked(self.rows, np.repeat(np.arange(len(self.often)), self.often))


def _packed(rows: Rows) -> _Packed:
    if any(column.dtype == object for column in rows.values()):
        return _Packed(rows)
    others = [key for name in rows if name != BLOCK for key in _keys(rows[name])]
    keys = [*others, rows[BLOCK]]
    order = np.lexsort(keys)
    new = np.ones(len(order), bool)
    new[1:] = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    if 2 * new.sum() > len(new):
        return _Packed(rows)
    begins = np.flatnonzero(new)
    return _Packed(_picked(rows, order[begins]), np.diff([*begins, len(order)]))


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
