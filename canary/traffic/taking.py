"""Rows as they come out of a trace's files: kept, counted as broken, or left out."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from canary.errors import TrafficError
from canary.traffic.detection import shown
from canary.traffic.rows import LeftOutError, RawRow, RowError
from canary.traffic.table import RowsBuilder, TraceRows

BAD_ROWS_KEPT = 20

_SHOWN = 5
_UNUSED_KEPT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A line that is no usable row, and why."""

    line: int
    reason: str
    path: str = ""

    def __str__(self) -> str:
        """Return ``path:line: reason``, as editors link it."""
        return f"{self.path}:{self.line}: {self.reason}"


class Taking:
    """Takes the lines of one trace, file after file.

    `left_out` counts sound rows that are not replayed, by the reason. A broken row is
    quoted unless it may hold somebody's text, which belongs in no message.
    """

    def __init__(self) -> None:
        self._builder = RowsBuilder()
        self._taken = 0
        self._unused: set[str] = set()
        self.bad: list[BadRow] = []
        self.bad_count = 0
        self.left_out: Counter[str] = Counter()
        self.quotes = True

    def take(
        self,
        path: str,
        number: int,
        record: object,
        read: Callable[[], RawRow],
    ) -> None:
        """Take the row at this line, or its reason for being none."""
        try:
            row = read()
            self._builder.add(row, self._taken)
            if row.unused and len(self._unused) < _UNUSED_KEPT:
                self._unused.update(row.unused)
        except RowError as error:
            self.bad_count += 1
            if len(self.bad) < BAD_ROWS_KEPT:
                reason = str(error)
                if self.quotes:
                    reason += f" in {shown(record)}"
                self.bad.append(BadRow(line=number, reason=reason, path=path))
        except LeftOutError as error:
            self.left_out[str(error)] += 1
        self._taken += 1

    def finish(self, source: str, max_bad_share: float, *, header: bool) -> TraceRows:
        """Return the rows by arrival; `header` says that the files begin with one.

        Raises:
            TrafficError: There is none, or too many are broken.
        """
        good = len(self._builder)
        total = good + self.bad_count
        if total and not (good and self.bad_count <= max_bad_share * total):
            quoted = "".join(f"\n  {row}" for row in self.bad[:_SHOWN])
            raise TrafficError(
                f"{source}: {self.bad_count:,} of {total:,} rows are broken "
                f"({self.bad_count / total:.1%}; {max_bad_share:.0%} is allowed), the "
                f"first:{quoted}"
            )
        if not total and self.left_out:
            raise TrafficError(f"{source} holds nothing to replay: {self._gone()}")
        if not total:
            what = "a header but no rows" if header else "no line that is finished"
            raise TrafficError(f"{source} holds {what}")
        return self._builder.finish()

    def warnings(self, rows: TraceRows, *, files: int) -> tuple[str, ...]:
        """Say what was left out, sorted or not used."""
        total = len(rows) + self.bad_count
        said = []
        if self.bad:
            first = self.bad[0]
            place = f"line {first.line}" if files == 1 else f"{first.path}:{first.line}"
            said.append(
                f"{self.bad_count:,} of {total:,} rows are broken and left out, the "
                f"first at {place}: {first.reason}"
            )
        if self.left_out:
            said.append(f"{self._gone()}: left out")
        if rows.late:
            said.append(
                f"rows were not in order of arrival ({rows.late:,} earlier than the "
                "row before them): sorted"
            )
        if rows.misnumbered:
            said.append(
                f"{rows.misnumbered:,} turns arrive before one with a smaller number: "
                "numbered by arrival"
            )
        if self._unused:
            names = ", ".join(repr(name[:40]) for name in sorted(self._unused)[:10])
            said.append(f"fields that are not used: {names}")
        return tuple(said)

    def _gone(self) -> str:
        return ", ".join(f"{n:,} {reason}" for reason, n in self.left_out.items())
