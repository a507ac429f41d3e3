"""What a running comparison shows: a bar on a terminal, a line a minute elsewhere."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from canary.clock import Clock
from canary.decision import Look, Verdict
from canary.policy.model import Policy

_LINE_EVERY_S = 60.0


class Progress:
    """A listener for `canary.runner.Runner`; use it as a context manager."""

    def __init__(
        self, console: Console, policies: Sequence[Policy], *, clock: Clock
    ) -> None:
        self._console = console
        self._clock = clock
        self._verdicts = {policy.name: Verdict.CONTINUE for policy in policies}
        self._last_line_s = clock()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("requests,"),
            TimeRemainingColumn(),
            TextColumn("left at most"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("warming up", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def answered(self, done: int, planned: int) -> None:
        """Move the bar; without a terminal, print a line when a minute has passed."""
        self._bar.update(
            self._task, completed=done, total=planned, description="shadow traffic"
        )
        now_s = self._clock()
        if not self._console.is_terminal and now_s - self._last_line_s >= _LINE_EVERY_S:
            self._last_line_s = now_s
            self._console.print(
                f"{done:,} of {planned:,} requests; {self._states()}",
                soft_wrap=True,
                highlight=False,
            )

    def looked(self, policy: str, found: Look) -> None:
        """Say so when a policy's verdict is final."""
        self._verdicts[policy] = found.verdict
        if found.verdict.final:
            self._console.print(
                f"{policy}: {found.verdict.value} after {found.pairs:,} pairs",
                soft_wrap=True,
                highlight=False,
            )

    def _states(self) -> str:
        decided = sum(verdict.final for verdict in self._verdicts.values())
        return f"{decided} of {len(self._verdicts)} policies decided"
