"""Traces that were published, each format's lines to rows.

==========  =======================================  ===========  ==================
format      fields                                   time         blocks
==========  =======================================  ===========  ==================
azure       TIMESTAMP,ContextTokens,GeneratedTokens  date, up to  none
            (CSV with header; 2023 and 2024)         9 digits
mooncake    timestamp, input_length, output_length,  whole ms     `hash_ids`, one id
            hash_ids (JSONL); of the wider form                   per 512 tokens
            session_id, delay (ms), and text_input
            or messages in place of lengths
bailian     chat_id, parent_chat_id, timestamp,      seconds      `hash_ids`, one id
            input_length, output_length, hash_ids                 per 16 tokens
            (JSONL)
burstgpt    Timestamp, Request tokens, Response      seconds      none
            tokens, perhaps Session ID and Elapsed
            time (CSV with header)
tracelab    session_id or id, arrival_time,          ms           made of prefix_len,
            round_idx, prefix_len, input_len,                     256 tokens each
            output_len, tool_wait_after_ms (CSV)
==========  =======================================  ===========  ==================

Sources: Patel et al., Splitwise, ISCA 2024 (azure); Qin et al., Mooncake, FAST 2025;
Wang et al., KVCache Cache in the Wild, ATC 2025 (bailian); Wang et al., BurstGPT, KDD
2025; TraceLab, SyFI Lab, University of Washington.
"""

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from canary.traffic import rows
from canary.traffic.rows import (
    MS,
    LeftOutError,
    LineFormat,
    RawRow,
    RowError,
    RowParser,
    S,
)

AZURE_HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
BURSTGPT_FIELDS = ("Timestamp", "Request tokens", "Response tokens")
TRACELAB_FIELDS = ("round_idx", "prefix_len", "input_len", "output_len")
LENGTH_FIELDS = ("timestamp", "input_length", "output_length", "hash_ids")

_BURSTGPT_KNOWN = {*BURSTGPT_FIELDS, "Session ID", "Elapsed time", "Model"}
_BURSTGPT_KNOWN |= {"Total tokens", "Log Type"}
_TRACELAB_BLOCK_TOKENS = 256
_MOONCAKE_TEXT = ("text_input", "messages")
_MOONCAKE_SESSION = ("session_id", "delay")


def csv_fields(line: bytes) -> list[str]:
    """Return the fields of a line of CSV."""
    try:
        # Strict: a quote that is never closed would swallow the fields after it.
        (fields,) = csv.reader([rows.text_of(line)], strict=True)
    except csv.Error as error:
        raise RowError(f"not a line of CSV ({error})") from None
    return fields


class Header:
    """The columns of a CSV file by their names."""

    def __init__(self, line: bytes) -> None:
        self.names = [name.strip() for name in csv_fields(line)]

    def row(self, line: bytes) -> dict[str, str]:
        """Return a line's fields by name."""
        fields = csv_fields(line)
        if len(fields) != len(self.names):
            raise RowError(f"expected {len(self.names)} fields, got {len(fields)}")
        return dict(zip(self.names, fields, strict=True))

    def require(self, *needed: str) -> None:
        """Refuse a header that lacks one of the names."""
        missing = [name for name in needed if name not in self.names]
        if missing:
            raise RowError(f"the header has no {missing[0]}")


class Azure(LineFormat):
    """``2023-11-16 18:15:46.6805900,374,44``."""

    has_header = True

    def start(self, head: Sequence[bytes]) -> RowParser:
        """Check the header."""
        if head[0] != AZURE_HEADER.encode():
            raise RowError(f"expected the header {AZURE_HEADER}")
        return self._row

    def _row(self, line: bytes) -> RawRow:
        fields = rows.text_of(line).split(",")
        if len(fields) != 3:
            raise RowError(f"expected 3 fields, got {len(fields)}")
        stamp, prompt, output = fields
        return RawRow(
            ns=rows.stamp_ns("TIMESTAMP", stamp),
            prompt_tokens=_csv_tokens("ContextTokens", prompt),
            output_tokens=_csv_tokens("GeneratedTokens", output),
        )


class Mooncake(LineFormat):
    """One JSON object a line; `timestamp` is in whole milliseconds.

    The wider form, which aiperf writes, may leave out `timestamp` for later turns of a
    session (they come `delay` after the answer before) and carry text for lengths.
    """

    block_tokens = 512

    def __init__(self) -> None:
        self._begun: set[str] = set()

    def start(self, head: Sequence[bytes]) -> RowParser:  # noqa: ARG002 - the base's
        """Any line will do: each is judged by itself."""
        return self._row

    def _row(self, line: bytes) -> RawRow:
        row = rows.json_object(line)
        used = [*LENGTH_FIELDS, *_MOONCAKE_TEXT]
        text, messages, characters = _mooncake_text(row)
        if characters is None:
            for name in LENGTH_FIELDS[1:]:
                rows.field(row, name)
        estimated = "input_length" not in row
        prompt = (
            rows.estimated_tokens(characters or 0)
            if estimated
            else _json_tokens(row, "input_length")
        )
        session, ns, think_ns = None, None, 0
        if row.get("session_id") is not None:
            session, ns, think_ns = self._turn(row)
            used += _MOONCAKE_SESSION
        else:
            ns = _whole_ms(row)
        # Ids of blocks whose tokens were not counted say nothing of this prompt.
        ids = None if estimated else row.get("hash_ids")
        return RawRow(
            ns=ns,
            prompt_tokens=prompt,
            output_tokens=_json_tokens(row, "output_length")
            if "output_length" in row
            else None,
            session=session,
            think_ns=think_ns,
            block_ids=() if ids is None else block_ids(ids, prompt, 512),
            text=text,
            messages=messages,
            estimated=estimated,
            unused=tuple(name for name in row if name not in used),
        )

    def _turn(self, row: Mapping[str, object]) -> tuple[str, int | None, int]:
        session = rows.storable("session_id", str(row["session_id"]))
        first = session not in self._begun
        by_delay = not first and row.get("timestamp") is None
        ns = None if by_delay else _whole_ms(row)
        self._begun.add(session)
        think_ns = 0
        if not first and row.get("delay") is not None:
            think_ns = rows.number_ns("delay", row["delay"], MS)
        return session, ns, think_ns


class Bailian(LineFormat):
    """One JSON object a line; `timestamp` is in seconds, a block has 16 tokens.

    A chat whose parent is in the trace belongs to that one's session; `chat_id` counts
    requests, so that a session goes by the id of its first.
    """

    block_tokens = 16

    def __init__(self) -> None:
        self._session_of: dict[int, str] = {}

    def start(self, head: Sequence[bytes]) -> RowParser:  # noqa: ARG002 - the base's
        """Any line will do: each is judged by itself."""
        return self._row

    def _row(self, line: bytes) -> RawRow:
        row = rows.json_object(line)
        chat = rows.json_whole("chat_id", rows.field(row, "chat_id"))
        parent = rows.json_whole("parent_chat_id", rows.field(row, "parent_chat_id"))
        ns = rows.number_ns("timestamp", rows.field(row, "timestamp"), S)
        prompt = _json_tokens(row, "input_length")
        output = _json_tokens(row, "output_length")
        ids = block_ids(rows.field(row, "hash_ids"), prompt, 16)
        # A parent from before the trace began still tells its children's session.
        root = chat if parent < 0 else parent
        session = self._session_of.get(root, str(root))
        self._session_of[chat] = session
        return RawRow(ns, prompt, output, session=session, block_ids=ids)


class BurstGpt(LineFormat):
    """CSV with six columns, or eight where sessions are told; `Timestamp` in seconds.

    Response tokens of 0 mark a request that failed. With `Elapsed time`, the seconds
    that the answer took, the pause before a session's next request is known.
    """

    has_header = True

    def __init__(self) -> None:
        self._answered_ns: dict[str, int] = {}

    def start(self, head: Sequence[bytes]) -> RowParser:
        """Find the columns."""
        header = Header(head[0])
        header.require(*BURSTGPT_FIELDS)
        unused = tuple(name for name in header.names if name not in _BURSTGPT_KNOWN)
        return lambda line: self._row(header.row(line), unused)

    def _row(self, row: Mapping[str, str], unused: tuple[str, ...]) -> RawRow:
        ns = rows.number_ns("Timestamp", row["Timestamp"], S)
        prompt = _csv_tokens("Request tokens", row["Request tokens"])
        if row["Response tokens"] == "0":
            raise LeftOutError("requests failed (Response tokens 0)")
        output = _csv_tokens("Response tokens", row["Response tokens"])
        session = row.get("Session ID") or None
        think_ns = 0
        if session is not None:
            think_ns = max(0, ns - self._answered_ns.get(session, ns))
            if row.get("Elapsed time"):
                took_ns = rows.number_ns("Elapsed time", row["Elapsed time"], S)
                self._answered_ns[session] = ns + took_ns
        return RawRow(
            ns, prompt, output, session=session, think_ns=think_ns, unused=unused
        )


@dataclass(slots=True)
class _Rounds:
    """A TraceLab session so far: its last round and the blocks of its context."""

    arrival_ns: int
    index: int = -1
    prompt_tokens: int = 0
    wait_ns: int = 0
    blocks: list[int] = field(default_factory=list)


class TraceLab(LineFormat):
    """CSV of sessions that are closed loops: a round comes a wait after the answer.

    `prefix_len` tokens of a prompt are the session's context so far. Where that holds
    all of the prompt before, both prompts are beginnings of one row of blocks, exactly.
    Where the context was cut, they share the whole blocks of what was kept.
    """

    block_tokens = _TRACELAB_BLOCK_TOKENS
    has_header = True

    def __init__(self) -> None:
        self._sessions: dict[str, _Rounds] = {}
        self._fresh = itertools.count()
        self._cut = 0

    def start(self, head: Sequence[bytes]) -> RowParser:
        """Find the columns."""
        header = Header(head[0])
        header.require(*TRACELAB_FIELDS)
        name = "session_id" if "session_id" in header.names else "id"
        header.require(name)
        known = {*TRACELAB_FIELDS, name, "arrival_time", "tool_wait_after_ms"}
        unused = tuple(other for other in header.names if other not in known)
        return lambda line: self._row(header.row(line), name, unused)

    def _row(
        self, row: Mapping[str, str], name: str, unused: tuple[str, ...]
    ) -> RawRow:
        session = row[name]
        if not session:
            raise RowError(f"{name} is missing")
        index = rows.csv_whole("round_idx", row["round_idx"])
        index = rows.turn_number("round_idx", index)
        prefix = rows.csv_whole("prefix_len", row["prefix_len"])
        added = rows.csv_whole("input_len", row["input_len"])
        if prefix < 0 or added < 0:
            raise RowError(f"{'prefix_len' if prefix < 0 else 'input_len'} is negative")
        prompt = rows.tokens("prefix_len + input_len", prefix + added)
        output = _csv_tokens("output_len", row["output_len"])
        arrival_ns = rows.number_ns("arrival_time", row.get("arrival_time") or "0", MS)
        wait = row.get("tool_wait_after_ms") or "0"
        wait_ns = rows.number_ns("tool_wait_after_ms", wait, MS)
        known = self._sessions.setdefault(session, _Rounds(arrival_ns))
        if index <= known.index:
            raise RowError(f"round_idx {index} comes after {known.index}")
        blocks = self._blocks(known, prefix, prompt)
        raw = RawRow(
            # The session's arrival, for a round is due by the answer before it.
            known.arrival_ns,
            prompt,
            output,
            session=session,
            turn=index,
            think_ns=known.wait_ns,
            block_ids=blocks,
            unused=unused,
        )
        known.index, known.wait_ns, known.prompt_tokens = index, wait_ns, prompt
        return raw

    def warnings(self) -> tuple[str, ...]:
        """Say where prefixes are shared in whole blocks only."""
        if not self._cut:
            return ()
        said = f"{self._cut:,} rounds keep a part of the prompt before them"
        size = _TRACELAB_BLOCK_TOKENS
        return (f"{said}: of that they share whole blocks of {size} tokens",)

    def _blocks(self, known: _Rounds, prefix: int, prompt: int) -> tuple[int, ...]:
        size = _TRACELAB_BLOCK_TOKENS
        if prefix < known.prompt_tokens:
            self._cut += 1
            del known.blocks[prefix // size :]
        needed = math.ceil(prompt / size) - len(known.blocks)
        known.blocks += itertools.islice(self._fresh, max(0, needed))
        return tuple(known.blocks)


def block_ids(ids: object, prompt_tokens: int, size: int) -> tuple[int, ...]:
    """Return the ids of a prompt's blocks, one for each `size` tokens."""
    if not isinstance(ids, list):
        raise RowError("hash_ids is not a list")
    expected = math.ceil(prompt_tokens / size)
    if len(ids) != expected:
        raise RowError(
            f"hash_ids holds {len(ids)} ids, but {prompt_tokens} tokens are {expected} "
            f"blocks of {size}"
        )
    if any(type(block) is not int for block in ids):  # a bool is no id either
        raise RowError("hash_ids is not a whole number")
    if not -(2**63) <= min(ids) <= max(ids) < 2**63:
        raise RowError("hash_ids holds an id of more than 64 bits")
    return tuple(ids)


def _mooncake_text(
    row: Mapping[str, object],
) -> tuple[str | None, str | None, int | None]:
    """Return the text or the messages, and their characters; None where none are."""
    if row.get("messages") is not None:
        messages, characters = rows.messages_text("messages", row["messages"])
        return None, messages, characters
    text = row.get("text_input")
    if text is None:
        return None, None, None
    if not isinstance(text, str):
        raise RowError("text_input is not text")
    return rows.storable("text_input", text), None, len(text)


def _whole_ms(row: Mapping[str, object]) -> int:
    ms = rows.json_whole("timestamp", rows.field(row, "timestamp"))
    if ms < 0:
        raise RowError("timestamp is negative")
    return rows.bounded_ns("timestamp", ms * MS)


def _json_tokens(row: Mapping[str, object], name: str) -> int:
    return rows.tokens(name, rows.json_whole(name, rows.field(row, name)))


def _csv_tokens(name: str, text: str) -> int:
    return rows.tokens(name, rows.csv_whole(name, text))
