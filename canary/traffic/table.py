"""The rows of a trace in columns: a few dozen bytes a row, its text on disk.

A row of lengths and times takes 32 bytes, 8 more for each of its blocks; sessions,
turns, think times, limits, weights and text cost only traces that have them.
"""

import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import starmap
from operator import eq
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from canary.errors import TrafficError
from canary.traffic.rows import RawRow, RowError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_NS = 10**9
_NONE = -1
_TEXT, _MESSAGES = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRow:
    """One recorded request.

    `index` counts the trace's rows from 0 in the order of the file, broken ones
    included, so that it names the same row whatever is filtered. `arrival_s` counts
    from the first arrival. `block_ids` name the blocks of the prompt, the last of which
    may be partial; equal ids stand for an equal prefix.

    `output_tokens` is None where only the request was recorded. `turn` counts from 0
    within the session; `think_s` is the recorded time from the end of the answer before
    to this request, where the trace tells it. A turn that its trace doesn't time has
    the arrival of the turn before it. `text` or `messages` (a chat's messages, as JSON
    text) is the prompt itself, where it was recorded. `max_tokens` is the limit that
    the client set. `weight` is how many requests the row stands for in a sample.
    """

    index: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int | None
    session_id: str | None = None
    turn: int = 0
    think_s: float = 0.0
    block_ids: tuple[str, ...] = ()
    text: str | None = None
    messages: str | None = None
    max_tokens: int | None = None
    weight: float = 1.0


class _Column:
    """Numbers that cost nothing as long as all of them are the usual one."""

    __slots__ = ("_kind", "_size", "_usual", "_values")

    def __init__(self, kind: Literal["b", "i", "q", "d"], usual: float) -> None:
        self._kind = kind
        self._usual = usual
        self._size = 0
        self._values: array[Any] | None = None

    def append(self, value: float) -> None:
        if self._values is not None:
            self._values.append(value)
        elif value == self._usual:
            self._size += 1
        else:
            self._values = array(self._kind, [self._usual]) * self._size
            self._values.append(value)

    def values(self) -> npt.NDArray[Any] | None:
        """Return the numbers, None where all are the usual one."""
        if self._values is None:
            return None
        return np.frombuffer(self._values, np.dtype(self._kind))

    def sorted(self, order: Ints) -> npt.NDArray[Any] | None:
        """Return the numbers in that order, None where all are the usual one."""
        values = self.values()
        return None if values is None else values[order]


class _Spill:
    """Texts in a file without a name, which goes when nobody refers to it."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the rows
        self._lock = threading.Lock()
        self._size_bytes = 0
        weakref.finalize(self, self._file.close)

    def write(self, text: str) -> tuple[int, int]:
        """Return where the text begins, and its size in bytes."""
        data = text.encode()
        try:
            self._file.write(data)
        except OSError as error:
            raise TrafficError(
                f"recorded text can't be kept in {tempfile.gettempdir()} "
                f"({error.strerror}); point TMPDIR at a folder with room for it"
            ) from error
        begin = self._size_bytes
        self._size_bytes += len(data)
        return begin, len(data)

    def read(self, begin: int, size_bytes: int) -> str:
        with self._lock:
            self._file.seek(begin)
            return self._file.read(size_bytes).decode()


class TraceRows(Sequence[TraceRow]):
    """Rows in order of arrival, made when one asks for them.

    Attributes:
        arrival_s: Of each row.
        prompt_tokens: Of each row.
        output_tokens: Of each row, -1 where unknown.
        session: A number for each row's session, -1 where it has none.
        turn: Within the session.
        weight: How many requests each row stands for, None where all stand for one.
        blocks: The block ids of all rows, in no particular order.
        estimated: Whether a prompt's length was counted from characters.
        late: How many rows stood later in the file than their arrival says.
        misnumbered: How many turns were numbered against the order of arrival.
    """

    def __init__(self, building: "RowsBuilder") -> None:
        ns = np.frombuffer(building.ns, np.int64)
        recorded = building.turn.values()
        self.late = int(np.sum(np.diff(ns) < 0))
        # Stable: rows of one instant stay as in the file, but for turns out of order.
        keys = (ns,) if recorded is None else (recorded, ns)
        order = np.lexsort(keys)
        self._zero_ns = int(ns[order[0]])
        self._ns = ns[order]
        self.arrival_s: Floats = (self._ns - self._zero_ns) / _NS
        self.prompt_tokens = np.frombuffer(building.prompt, np.int32)[order]
        self.output_tokens = np.frombuffer(building.output, np.int32)[order]
        self._index = np.frombuffer(building.index, np.int64)[order]
        self.session = _filled(building.session, order)
        self._names = tuple(building.sessions)
        self.turn = _turns(self.session)
        self.misnumbered = (
            0 if recorded is None else _against(recorded[order], self.session)
        )
        self._think_ns = building.think_ns.sorted(order)
        self._max_tokens = building.max_tokens.sorted(order)
        self.weight: Floats | None = building.weight.sorted(order)
        self.estimated = building.estimated
        self.blocks: Ints = np.frombuffer(building.blocks, np.int64)
        ends = building.block_end.values()
        self._block_end = None if ends is None else np.concatenate([[0], ends])
        self._order = order
        self._text_kind = building.text_kind.sorted(order)
        self._text_begin = building.text_begin.sorted(order)
        self._text_bytes = building.text_bytes.sorted(order)
        self._spill = building.spill

    def __len__(self) -> int:
        return len(self._ns)

    @overload
    def __getitem__(self, at: int) -> TraceRow: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[TraceRow, ...]: ...
    def __getitem__(self, at: int | slice) -> TraceRow | tuple[TraceRow, ...]:
        if isinstance(at, slice):
            return tuple(self._row(i) for i in range(*at.indices(len(self))))
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        return self._row(at % len(self))

    def __iter__(self) -> Iterator[TraceRow]:
        return map(self._row, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        same_size = len(self) == len(other)
        return same_size and all(starmap(eq, zip(self, other, strict=True)))

    __hash__ = None  # type: ignore[assignment]

    def _row(self, i: int) -> TraceRow:
        output, session = int(self.output_tokens[i]), int(self.session[i])
        limit = _NONE if self._max_tokens is None else int(self._max_tokens[i])
        turn = int(self.turn[i])
        text, messages = self._said(i)
        return TraceRow(
            index=int(self._index[i]),
            # Whole nanoseconds are subtracted before the one rounding to a float.
            arrival_s=(int(self._ns[i]) - self._zero_ns) / _NS,
            prompt_tokens=int(self.prompt_tokens[i]),
            output_tokens=None if output == _NONE else output,
            session_id=None if session == _NONE else self._names[session],
            turn=turn,
            think_s=self._think_s(i) if turn else 0.0,
            block_ids=self._block_ids(i),
            text=text,
            messages=messages,
            max_tokens=None if limit == _NONE else limit,
            weight=1.0 if self.weight is None else float(self.weight[i]),
        )

    def _think_s(self, i: int) -> float:
        return 0.0 if self._think_ns is None else int(self._think_ns[i]) / _NS

    def _block_ids(self, i: int) -> tuple[str, ...]:
        if self._block_end is None:
            return ()
        at = int(self._order[i])
        begin, end = self._block_end[at : at + 2].tolist()
        return tuple(map(str, self.blocks[begin:end].tolist()))

    def _said(self, i: int) -> tuple[str | None, str | None]:
        if self._spill is None or self._text_kind is None or not self._text_kind[i]:
            return None, None
        begin = 0 if self._text_begin is None else int(self._text_begin[i])
        size_bytes = 0 if self._text_bytes is None else int(self._text_bytes[i])
        said = self._spill.read(begin, size_bytes)
        return (said, None) if self._text_kind[i] == _TEXT else (None, said)


class RowsBuilder:
    """Takes raw rows one by one, in the order of the file."""

    def __init__(self) -> None:
        self.ns = array("q")
        self.index = array("q")
        self.prompt = array("i")
        self.output = array("i")
        self.session = _Column("i", _NONE)
        self.sessions: dict[str, int] = {}
        self.turn = _Column("i", _NONE)
        self.think_ns = _Column("q", 0)
        self.max_tokens = _Column("i", _NONE)
        self.weight = _Column("d", 1.0)
        self.blocks = array("q")
        self.block_end = _Column("q", 0)
        self.text_kind = _Column("b", 0)
        self.text_begin = _Column("q", 0)
        self.text_bytes = _Column("q", 0)
        self.spill: _Spill | None = None
        self.estimated = False
        self._last_ns = array("q")

    def __len__(self) -> int:
        return len(self.ns)

    def add(self, row: RawRow, index: int) -> None:
        """Take a row.

        Raises:
            RowError: It is due by a session whose first turn isn't there.
        """
        code = self._session_code(row)
        ns = self._last_ns[code] if row.ns is None else row.ns
        if code != _NONE:
            self._last_ns[code] = ns
        self.ns.append(ns)
        self.index.append(index)
        self.prompt.append(row.prompt_tokens)
        self.output.append(_NONE if row.output_tokens is None else row.output_tokens)
        self.session.append(code)
        self.turn.append(_NONE if row.turn is None else row.turn)
        self.think_ns.append(row.think_ns)
        self.max_tokens.append(_NONE if row.max_tokens is None else row.max_tokens)
        self.weight.append(row.weight)
        self.blocks.extend(row.block_ids)
        self.block_end.append(len(self.blocks))
        self.estimated |= row.estimated
        self._keep_text(row)

    def finish(self) -> TraceRows:
        """Return the rows by arrival; nothing can be added afterwards.

        At least one row is needed, for the first arrival is the zero of all.
        """
        return TraceRows(self)

    def _session_code(self, row: RawRow) -> int:
        if row.session is None:
            return _NONE
        code = self.sessions.get(row.session)
        if code is None:
            if row.ns is None:
                raise RowError("the first turn of its session is broken or missing")
            code = self.sessions[row.session] = len(self.sessions)
            self._last_ns.append(row.ns)
        return code

    def _keep_text(self, row: RawRow) -> None:
        said = row.text if row.messages is None else row.messages
        if said is None:
            begin, size_bytes = 0, 0
        else:
            self.spill = self.spill or _Spill()
            begin, size_bytes = self.spill.write(said)
        kind = 0 if said is None else _TEXT if row.messages is None else _MESSAGES
        self.text_kind.append(kind)
        self.text_begin.append(begin)
        self.text_bytes.append(size_bytes)


def _filled(column: _Column, order: Ints) -> npt.NDArray[np.int32]:
    values = column.sorted(order)
    return np.full(len(order), _NONE, np.int32) if values is None else values


def _turns(session: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Number each session's rows from 0 in the order they stand in."""
    turn = np.zeros(len(session), np.int32)
    by_session = np.argsort(session, kind="stable")
    by_session = by_session[session[by_session] != _NONE]
    codes = session[by_session]
    begins = np.flatnonzero(np.diff(codes, prepend=_NONE))
    counts = np.diff([*begins, len(codes)])
    turn[by_session] = np.arange(len(codes)) - np.repeat(begins, counts)
    return turn


def _against(recorded: Ints, session: npt.NDArray[np.int32]) -> int:
    """How many recorded turns have a smaller number than the one before them."""
    by_session = np.argsort(session, kind="stable")
    codes, turns = session[by_session], recorded[by_session]
    same = (codes[1:] == codes[:-1]) & (codes[1:] != _NONE)
    return int(np.sum(same & (np.diff(turns) < 0)))
