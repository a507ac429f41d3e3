"""What `canary doctor` prints for people."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from canary.doctor import Examination, place

if TYPE_CHECKING:
    from canary.attention.check import Check
    from canary.attention.speed import Speed

_COLUMN = 11
"""Places that a kernel's errors take, with what is between columns."""


def render(found: Examination, console: Console) -> None:
    """Print it; signs and words carry what matters, colour only helps."""
    for name, value in found.versions.items():
        console.print(f"{name:13} {value or 'not installed'}", highlight=False)
    for device in found.devices:
        size = device.memory_bytes
        memory = "" if size is None else f", {size / 2**30:.0f} GiB"
        console.print(f"{device.device:13} {device.name}{memory}", highlight=False)
    for _, checks in groupby(found.checks, lambda check: check.device):
        ours = list(checks)
        for table in _errors(ours, console.width):
            console.print(table)
        console.print(_picks(_served(ours)))
    for _, rows in groupby(found.speed, lambda row: row.device):
        console.print(_speeds(list(rows)))
    for sentence in (*found.limits, *_wrong(found.checks)):
        console.print(sentence, highlight=False, soft_wrap=True)
    wrong = sum(check.disagrees for check in found.checks)
    console.print(
        "Every kernel that runs here agrees with the reference."
        if found.agrees
        else f"{wrong} checks disagree with the reference: don't trust runs from here."
    )


def _table(title: str, *columns: str) -> Table:
    """Return an empty table whose first column is words, and the others are not."""
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        title=title,
        title_justify="left",
    )
    for n, column in enumerate(columns):
        table.add_column(
            column, justify="right" if n else "left", overflow="fold", no_wrap=n > 0
        )
    return table


def _errors(checks: "list[Check]", width: int) -> Iterator[Table]:
    """Show the largest error of each kernel and pattern; ``!`` where it is too large.

    One device; as many of its dtypes side by side as the console has room for.
    """
    columns = list(
        dict.fromkeys(
            (check.dtype, check.kernel) for check in checks if check.kernel != "auto"
        )
    )
    room = max(1, (width - max(len(check.pattern) for check in checks)) // _COLUMN)
    part: list[tuple[str, str]] = []
    for _, group in groupby(columns, lambda column: column[0]):
        more = list(group)
        if part and len(part) + len(more) > room:
            yield _errors_in(checks, part)
            part = []
        part += more
    if part:
        yield _errors_in(checks, part)


def _errors_in(checks: "list[Check]", columns: list[tuple[str, str]]) -> Table:
    title = f"{checks[0].device}: largest difference from the reference in float64"
    heads = [f"{kernel}\n{dtype}" for dtype, kernel in columns]
    table = _table(title, "pattern", *heads)
    for pattern in dict.fromkeys(check.pattern for check in checks):
        ours = [check for check in checks if check.pattern == pattern]
        cells = [
            _largest([c for c in ours if (c.dtype, c.kernel) == column])
            for column in columns
        ]
        table.add_row(pattern, *cells)
    bars = {check.dtype: f"{check.bar:.0e}" for check in checks}
    table.add_section()
    table.add_row("may be up to", *(bars[dtype] for dtype, _ in columns))
    return table


def _largest(checks: "Sequence[Check]") -> Text:
    """Show the largest error over the phases; ``fails`` where one couldn't run."""
    errors = [check.error for check in checks if check.error is not None]
    if any(check.problem for check in checks):
        return Text("fails", style="red")
    if not errors:
        return Text("-")
    if any(check.disagrees for check in checks):
        return Text(f"! {max(errors):.1e}", style="bold red")
    return Text(f"{max(errors):.1e}")


def _picks(served: "list[Check]") -> Table:
    """Show what auto picks, patterns with the same picks in one row, and why."""
    phases = list(dict.fromkeys(check.phase for check in served))
    rows: dict[tuple[str, ...], list[str]] = {}
    for pattern in dict.fromkeys(check.pattern for check in served):
        ran = {check.phase: check.ran for check in served if check.pattern == pattern}
        rows.setdefault(tuple(ran[phase] for phase in phases), []).append(pattern)
    table = _table(f"{served[0].device}: what auto picks", "pattern", *phases)
    for picks, patterns in rows.items():
        table.add_row(", ".join(patterns), *picks)
    reasons = dict.fromkeys(
        f"{check.ran}: {check.reason.replace('auto: ', '')}"
        for check in served
        if "+" not in check.ran and check.reason
    )
    table.caption, table.caption_justify = "\n".join(reasons), "left"
    return table


def _served(checks: "Iterable[Check]") -> "list[Check]":
    """Return what auto picked in the dtype that a device serves in: its first."""
    picks = [check for check in checks if check.kernel == "auto"]
    return [check for check in picks if check.dtype == picks[0].dtype]


def _speeds(rows: "list[Speed]") -> Table:
    """Show how many times faster than dense each pattern is, and from where it pays."""
    from canary.attention.speed import PAYS, pays_from  # noqa: PLC0415 - torch

    lengths = list(dict.fromkeys(row.tokens for row in rows))
    device, dtype = rows[0].device, rows[0].dtype
    threads = ", one thread" if device == "cpu" else ""
    table = _table(
        f"{device}: how many times faster than dense, prefill in {dtype}{threads}",
        "pattern",
        *map(_length, lengths),
        f"pays ({PAYS:g} or more)",
    )
    for pattern in dict.fromkeys(row.pattern for row in rows):
        ours = {row.tokens: row for row in rows if row.pattern == pattern}
        cells = [_times(ours.get(tokens)) for tokens in lengths]
        start = pays_from(ours.values())
        pays = (
            f"doesn't pay up to {_length(lengths[-1])}"
            if start is None
            else f"pays from {_length(start)}"
        )
        table.add_row(pattern, *cells, pays)
    dense = {
        row.tokens: "-" if row.dense_ms is None else f"{row.dense_ms:.3g}"
        for row in rows
    }
    table.add_section()
    table.add_row("dense, ms", *(dense[tokens] for tokens in lengths), "")
    return table


def _times(row: "Speed | None") -> str:
    times = None if row is None else row.times_faster
    return "-" if times is None else f"{times:.2f}"


def _length(tokens: int) -> str:
    """Return 4k for 4096."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


def _wrong(checks: "Iterable[Check]") -> Iterator[str]:
    """Name what disagrees, in a sentence for each kernel, device and dtype."""
    disagreeing = sorted((check for check in checks if check.disagrees), key=place)
    for (kernel, device, dtype), group in groupby(disagreeing, place):
        patterns = dict.fromkeys(check.pattern for check in group)
        yield f"{kernel} disagrees on {device} in {dtype}: {', '.join(patterns)}."
