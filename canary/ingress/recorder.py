"""The one thread that turns copies into lines: parse, sample, redact, write.

It runs beside the door, so that nothing that takes time is between a mirror and its
answer. What goes wrong with one copy drops that copy, counted by its reason.
"""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

from canary.clock import Clock
from canary.ingress.body import plain_body
from canary.ingress.counts import Counts
from canary.ingress.identity import Hasher
from canary.ingress.prompts import Asked, Prompt, read_prompts
from canary.ingress.reasons import DroppedError, Reason
from canary.ingress.redact import RULES_VERSION, redact
from canary.ingress.settings import (
    CHARACTERS_PER_TOKEN,
    REGIMES,
    UNKNOWN,
    Capture,
    Settings,
    regime_of,
)
from canary.ingress.spool import Spool
from canary.ingress.waiting import Copy, Waiting

SCHEMA = "canary.ingress/1"
SPOOLED = "spooled"
QUEUED = "queued"

_IDLE_S = 1.0
_BATCH_S = 0.002
_BATCH_BYTES = 2**18

_log = logging.getLogger("canary.ingress")


@dataclass(frozen=True, slots=True)
class _Written:
    """A copy whose lines are in the batch."""

    copy: Copy
    regime: str
    lines: int


class Recorder:
    """Takes copies from `waiting` until that is closed and empty."""

    def __init__(
        self,
        settings: Settings,
        *,
        hasher: Hasher,
        waiting: Waiting,
        spool: Spool,
        counts: Counts,
        clock: Clock = time.monotonic,
    ) -> None:
        self._settings = settings
        self._hasher = hasher
        self._waiting = waiting
        self._spool = spool
        self._counts = counts
        self._clock = clock
        self._thread = Thread(target=self._run, name="ingress-recorder", daemon=True)
        self.writable = True

    def start(self) -> None:
        """Begin to record."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait until all is recorded; return whether it is."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether copies are being taken."""
        return self._thread.is_alive()

    def stopped(self) -> bool:
        """Whether the kill switch is there. One that can't be seen is taken to be."""
        switch = self._settings.kill_switch
        if switch is None:
            return False
        try:
            switch.stat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def _run(self) -> None:
        while True:
            first = self._waiting.take(timeout_s=_IDLE_S)
            if first is not None:
                self._record(first)
            elif self._waiting.closed:
                return

    def _record(self, first: Copy) -> None:
        """Write one batch: what waits now, but little enough to be quick about it."""
        stopped = self.stopped()
        lines: list[bytes] = []
        written: list[_Written] = []
        size_bytes, until = 0, self._clock() + _BATCH_S
        copy: Copy | None = first
        while copy is not None:
            regime = _guess(copy)
            try:
                asked = self._read(copy, stopped=stopped)
                regime = regime_of(asked.tokens)
                made = [*self._lines(copy, asked, regime)]
                lines += made
                size_bytes += sum(map(len, made))
                written.append(_Written(copy, regime, len(made)))
            except DroppedError as dropped:
                self._drop(copy, dropped.reason, regime)
            except RecursionError:  # nested deeper than Python follows
                self._drop(copy, Reason.BAD_JSON, regime)
            except Exception as error:  # noqa: BLE001 - one copy must not stop all
                log_place("a copy was dropped", error)
                self._drop(copy, Reason.INTERNAL, regime)
            full = size_bytes >= _BATCH_BYTES or self._clock() >= until
            copy = None if full else self._waiting.take(timeout_s=0)
        self._write(b"".join(lines), written)

    def _read(self, copy: Copy, *, stopped: bool) -> Asked:
        if stopped:
            raise DroppedError(Reason.KILL_SWITCH)
        body = plain_body(
            copy.body, copy.encoding, max_bytes=self._settings.max_body_bytes
        )
        return read_prompts(body, declared_tokens=copy.declared_tokens)

    def _lines(self, copy: Copy, asked: Asked, regime: str) -> Iterator[bytes]:
        """Yield a line for each prompt of a request that is in the sample."""
        name = next((n for n in (copy.session, asked.user, copy.request) if n), None)
        session = None if name is None else self._hasher.session(name)
        identity = self._hasher.request(copy.request)
        share = self._settings.sample[REGIMES.index(regime)]
        if not self._hasher.kept(session or identity, share):
            raise DroppedError(Reason.SAMPLING)
        for index, prompt in enumerate(asked.prompts):
            line = {
                "schema": SCHEMA,
                "id": f"{identity}-{index}" if index else identity,
                "arrived_unix_s": round(copy.arrived_unix_s, 6),
                "kind": asked.kind,
                "session": session,
                "prompt_tokens": prompt.tokens,
                "prompt_tokens_from": prompt.tokens_from,
                "body_bytes": len(copy.body),
                "max_tokens": asked.max_tokens,
                **self._captured(prompt),
                "weight": 1 / share,
            }
            yield _encoded(line)

    def _captured(self, prompt: Prompt) -> dict[str, Any]:
        """Return what of the prompt itself may reach the disk.

        Token ids are no text that rules could read: of them the length is all.
        """
        capture = self._settings.capture
        field = "messages" if prompt.text is None else "prompt"
        said: Any = prompt.messages if prompt.text is None else prompt.text
        if capture is Capture.LENGTHS or said is None:
            return {"capture": Capture.LENGTHS}
        if capture is Capture.FULL:
            return {"capture": capture, field: said}
        clean = redact(said)
        return {
            "capture": capture,
            "redaction": {
                "rules": RULES_VERSION,
                "characters_before": clean.characters_before,
                "characters_after": clean.characters_after,
            },
            field: clean.value,
        }

    def _write(self, lines: bytes, written: list[_Written]) -> None:
        if not written:
            return
        try:
            self._spool.append(lines)
        except OSError as error:
            if self.writable:
                _log.warning("nothing is recorded: %s", error.strerror)
            self.writable = False
            for one in written:
                self._drop(one.copy, Reason.DISK, one.regime)
            return
        if not self.writable:
            _log.warning("recording again")
        self.writable = True
        for one in written:
            self._counts.spool(one.regime, one.lines)
            self._finish(one.copy, SPOOLED)

    def _drop(self, copy: Copy, reason: Reason, regime: str) -> None:
        self._counts.drop(reason, regime)
        self._finish(copy, dropped(reason))

    def _finish(self, copy: Copy, outcome: str) -> None:
        self._waiting.release(len(copy.body))
        copy.answer(outcome)


def dropped(reason: Reason) -> str:
    """Return what the header ``canary-outcome`` says of a copy that isn't recorded."""
    return f"dropped; reason={reason}"


def guessed_regime(size_bytes: int, *, declared_tokens: int | None) -> str:
    """Return the regime of a plain body that wasn't read: four bytes a token."""
    return regime_of(declared_tokens or size_bytes // CHARACTERS_PER_TOKEN)


def log_place(what: str, error: Exception) -> None:
    """Log a bug by its type and place: its message may hold a prompt's text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "?" if trace is None else _place(trace.tb_frame.f_code.co_filename)
    line = 0 if trace is None else trace.tb_lineno
    _log.error("%s: %s at %s:%d", what, type(error).__name__, place, line)


def _place(filename: str) -> str:
    return Path(filename).name


def _guess(copy: Copy) -> str:
    if copy.encoding:
        return UNKNOWN
    return guessed_regime(len(copy.body), declared_tokens=copy.declared_tokens)


def _encoded(line: dict[str, Any]) -> bytes:
    """Return a line of JSON.

    Raises:
        DroppedError: A text in it is half a character, which JSON can spell and UTF-8
            can't, or a number is larger than any that can be written again.
    """
    try:
        text = json.dumps(
            line, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        return text.encode() + b"\n"
    except ValueError:
        raise DroppedError(Reason.BAD_JSON) from None
