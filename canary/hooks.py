"""Tells a policy's verdict to webhooks and commands: once, and without holding up.

Each is called from a thread of its own, again with longer and longer waits if it fails,
and what came of it is a line in the run's ``hooks.jsonl``. What stands there as
delivered isn't called again, after a crash or a resume either; what failed is, by the
next resume. A crash between a call and its line repeats the call: a webhook tells that
by its ``Idempotency-Key``. No failure changes a verdict or an exit code.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Literal
from urllib.parse import urlsplit

from canary.clock import Clock
from canary.decision import Decision, Verdict
from canary.errors import StorageError, UsageError
from canary.evidence.journal import RunFolder
from canary.evidence.log import Log
from canary.evidence.remote import Location
from canary.policy.model import Policy
from canary.policy.schedule import Hook, Hooks
from canary.record import read_run, repeat_of
from canary.watches import INTERRUPTED

_WAITS_S = (1.0, 4.0, 15.0)
_WEBHOOK_TIMEOUT_S = 10.0
_COMMAND_TIMEOUT_S = 60.0
_SETTLE_S = 60.0
# A run that was told to leave has three seconds under Ray.
_LEAVE_S = 0.5

Target = Literal["webhook", "command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One line of the file: what came of one hook; `when` is an ISO time."""

    policy: str
    verdict: Verdict
    target: Target
    state: Literal["delivered", "failed"]
    tries: int
    when: str
    error: str | None = None
    schema: Literal["canary.hook/1"] = "canary.hook/1"

    @property
    def key(self) -> tuple[str, Verdict, Target]:
        """What is called once."""
        return self.policy, self.verdict, self.target


_LOG = Log(Told, what="line about a hook")


def hooks_file(folder: RunFolder) -> Location:
    """The file that holds what was told to whom."""
    return folder.root / "hooks.jsonl"


def read_told(folder: RunFolder) -> tuple[Told, ...]:
    """Return what came of a run's hooks so far, the oldest first.

    Raises:
        UsageError: A line is damaged.
    """
    return _LOG.read(hooks_file(folder))


def refuse_unready(policies: Sequence[Policy]) -> None:
    """Make sure that hooks can be called before a run of days depends on them.

    Raises:
        UsageError: A token isn't in the environment, or a command isn't there.
    """
    for policy in policies:
        for name, hook in _hooks(policy.hooks):
            where = f"{policy.path}: hooks.{name}"
            if hook.token_env is not None and not os.environ.get(hook.token_env):
                raise UsageError(
                    f"{where}: the environment has no {hook.token_env}; export it"
                )
            if hook.command is not None and shutil.which(hook.command[0]) is None:
                raise UsageError(
                    f"{where}: there is no program {hook.command[0]}, from the current "
                    "folder or on the path, that may be executed; correct it"
                )


def _hooks(hooks: Hooks) -> Iterator[tuple[str, Hook]]:
    for name in Hooks.model_fields:
        hook = getattr(hooks, name)
        if hook is not None:
            yield name, hook


class Messenger:
    """Calls the hooks of a run's policies.

    Args:
        folder: The run folder; it must be one once there is a verdict.
        policies: Whose hooks.
        say: Is given each failure as a sentence, from another thread.
        wall_clock: Seconds since the epoch.
        waits_s: How long to wait after each try that fails but the last.

    Raises:
        UsageError: What was told before can't be read.
    """

    def __init__(
        self,
        folder: RunFolder,
        policies: Sequence[Policy],
        *,
        say: Callable[[str], None],
        wall_clock: Clock = time.time,
        waits_s: Sequence[float] = _WAITS_S,
    ) -> None:
        self._folder = folder
        self._hooks = {policy.name: policy.hooks for policy in policies}
        self._say = say
        self._wall_clock = wall_clock
        self._waits_s = tuple(waits_s)
        self._done = {t.key for t in read_told(folder) if t.state == "delivered"}
        self._lock = threading.Lock()
        self._running: dict[tuple[str, Verdict, Target], threading.Thread] = {}

    def tell(self, decision: Decision) -> None:
        """Call what the policy has for its verdict, unless that was done before; don't
        wait for it."""
        hook = self._hooks[decision.policy].of(decision.verdict)
        if hook is None:
            return
        if not decision.repeat:  # a look's; what it rests on stands in the record
            repeat = repeat_of(read_run(self._folder))
            decision = replace(decision, repeat=repeat)
        for target in _targets(hook):
            key = decision.policy, decision.verdict, target
            if key in self._done or key in self._running:
                continue
            self._running[key] = threading.Thread(
                target=self._deliver, args=(decision, hook, target), daemon=True
            )
            self._running[key].start()

    def settle(self, decisions: Sequence[Decision]) -> None:
        """Tell what wasn't told yet, and wait for a minute at most.

        What is invalid or inconclusive is told once the run has ended: before, it may
        still change.
        """
        ended = read_run(self._folder).get("ended") not in (None, INTERRUPTED)
        for decision in decisions:
            if ended or decision.verdict.final:
                self.tell(decision)
        until_s = time.monotonic() + (_SETTLE_S if ended else _LEAVE_S)
        for (policy, verdict, target), thread in self._running.items():
            thread.join(max(until_s - time.monotonic(), 0.0))
            if thread.is_alive():
                self._say(
                    f"{policy}: the {target} for {verdict} hasn't answered yet, and "
                    f"nobody waits any longer; {self._again()}"
                )

    def _again(self) -> str:
        return f"the verdict stands, and `canary resume {self._folder.root}` tells it"

    def _deliver(self, decision: Decision, hook: Hook, target: Target) -> None:
        call = _post if target == "webhook" else _execute
        tries, error = 0, ""
        for wait_s in (*self._waits_s, None):
            tries += 1
            try:
                call(hook, decision)
            except _FailedError as failed:
                error = str(failed)
            else:
                self._record(decision, target, tries, None)
                return
            if wait_s is not None:
                time.sleep(wait_s)
        self._record(decision, target, tries, error)
        self._say(
            f"{decision.policy}: the {target} for {decision.verdict} failed {tries} "
            f"times, at last with: {error}; {self._again()} again"
        )

    def _record(
        self, decision: Decision, target: Target, tries: int, error: str | None
    ) -> None:
        when = datetime.fromtimestamp(self._wall_clock(), UTC)
        told = Told(
            policy=decision.policy,
            verdict=decision.verdict,
            target=target,
            state="delivered" if error is None else "failed",
            tries=tries,
            when=when.isoformat(timespec="seconds"),
            error=error,
        )
        try:
            with self._lock:
                _LOG.append(hooks_file(self._folder), told)
        except (OSError, StorageError) as failed:
            why = failed.strerror if isinstance(failed, OSError) else failed.reason
            self._say(
                f"{hooks_file(self._folder)}: can't be written ({why}); "
                f"a resume calls the {target} of {told.policy} again"
            )


def _targets(hook: Hook) -> Iterator[Target]:
    if hook.webhook is not None:
        yield "webhook"
    if hook.command is not None:
        yield "command"


class _FailedError(Exception):
    """One try, and why it failed."""


def _opener() -> urllib.request.OpenerDirector:
    """Open addresses without following redirects: a token goes to the address that the
    policy names, and to no other."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _post(hook: Hook, decision: Decision) -> None:
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": f"{decision.run}/{decision.policy}/{decision.verdict}",
    }
    if hook.token_env is not None:
        headers["Authorization"] = f"Bearer {os.environ.get(hook.token_env, '')}"
    address = hook.webhook or ""
    request = urllib.request.Request(  # noqa: S310 - the policy allows http(s) only
        address, decision.to_json().encode(), headers, method="POST"
    )
    server = urlsplit(address).netloc
    try:
        with _opener().open(request, timeout=_WEBHOOK_TIMEOUT_S):
            return
    except urllib.error.HTTPError as error:
        with error:
            raise _FailedError(f"{server} answered {error.code}") from error
    except urllib.error.URLError as error:
        raise _FailedError(f"{server}: {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise _FailedError(f"{server}: {error or type(error).__name__}") from error


def _execute(hook: Hook, decision: Decision) -> None:
    command = hook.command or ()
    about = {
        "CANARY_RUN": decision.run,
        "CANARY_POLICY": decision.policy,
        "CANARY_VERDICT": decision.verdict.value,
    }
    try:
        process = subprocess.Popen(  # noqa: S603 - what the policy says
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | about,
            start_new_session=True,  # Ctrl-C is for the run
        )
    except OSError as error:
        raise _FailedError(f"{command[0]}: {error.strerror}") from error
    with process:
        try:
            document = decision.to_json().encode()
            _, said = process.communicate(document, timeout=_COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            told = f"{command[0]}: took longer than {_COMMAND_TIMEOUT_S:.0f} s"
            raise _FailedError(told) from error
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        last = f" ({lines[-1][:200]})" if lines else ""
        raise _FailedError(f"{command[0]}: exit code {process.returncode}{last}")
