import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canary.errors import TrafficError
from canary.traffic.formats import BAD_ROWS_KEPT, TraceRow, read_trace
from canary.traffic.lines import MAX_LINE_BYTES

Write = Callable[..., Path]
REPLAY = Path(__file__).parents[2] / "replay"
HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
AZURE = (
    HEADER + "2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109\r\n"
    "2023-11-16 18:15:51.2224670,879,55"
)


def mooncake(**changes: object) -> str:
    row = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
    return json.dumps(row | changes) + "\n"


def test_azure_keeps_seven_digits(write: Write) -> None:
    """The seventh fractional digit of a time stamp reaches the offset."""
    rows = read_trace(write(AZURE)).rows

    expected = [
        TraceRow(index=0, arrival_s=0.0, prompt_tokens=374, output_tokens=44),
        TraceRow(index=1, arrival_s=4.314579, prompt_tokens=396, output_tokens=109),
        TraceRow(index=2, arrival_s=4.541877, prompt_tokens=879, output_tokens=55),
    ]
    assert expected == list(rows)


def test_seventh_digit_counts(write: Write) -> None:
    """Stamps that differ in the seventh digit alone are 100 ns apart."""
    stamps = ("2023-11-16 23:59:59.9999999", "2023-11-17 00:00:00.0000000")
    trace = read_trace(write(HEADER + "".join(f"{s},1,1\r\n" for s in stamps)))

    assert 1e-7 == trace.rows[1].arrival_s


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r\n\r\n  \n"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_line_ends_do_not_matter(write: Write, newline: str, end: str) -> None:
    """CRLF or LF, with or without a final newline, blank lines: the same rows."""
    text = AZURE.replace("\r\n", newline) + end

    assert read_trace(write(AZURE, "a")).rows == read_trace(write(text, "b")).rows


def test_byte_order_mark_is_ignored(write: Write) -> None:
    """A file that an editor saved with a byte order mark is still recognised."""
    assert 3 == len(read_trace(write(b"\xef\xbb\xbf" + AZURE.encode())).rows)


def test_shipped_azure_file() -> None:
    """The shipped code trace holds what its publisher's file holds."""
    path = REPLAY / "azure-code-2023.csv"
    trace = read_trace(path)

    assert ("azure", None, 0) == (trace.format, trace.block_tokens, trace.bad_row_count)
    assert (8819, 3435.948056) == (len(trace.rows), trace.rows[-1].arrival_s)
    assert (0.0, 0.052) == tuple(row.arrival_s for row in trace.rows[:2])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == trace.sha256
    assert b"\r\n" in path.read_bytes()[:60]
    assert () == trace.warnings


def test_shipped_stretch_is_part_of_the_whole() -> None:
    """The busy stretch is a byte-exact row range of the whole file."""
    whole = (REPLAY / "azure-code-2023.csv").read_bytes().split(b"\r\n")
    stretch = (REPLAY / "azure-code-2023-busy.csv").read_bytes().split(b"\r\n")

    assert [whole[0], *whole[64:595], b""] == stretch
    assert 531 == len(read_trace(REPLAY / "azure-code-2023-busy.csv").rows)


def test_shipped_mooncake_file() -> None:
    """The shipped conversation trace holds what its publisher's file holds."""
    trace = read_trace(REPLAY / "mooncake-conversation.jsonl.gz")

    assert ("mooncake", 512, 0) == (
        trace.format,
        trace.block_tokens,
        trace.bad_row_count,
    )
    assert (7851, 2397.0) == (len(trace.rows), trace.rows[-1].arrival_s)
    assert 800 == len({row.arrival_s for row in trace.rows})
    assert {"0"} == {row.block_ids[0] for row in trace.rows}


def test_first_two_azure_offsets() -> None:
    """Digits beyond the third count: 4.314579 s, not 4.31."""
    rows = read_trace(REPLAY / "azure-conversation-2023.csv.gz").rows

    assert [0.0, 4.314579] == [row.arrival_s for row in rows[:2]]


def test_shipped_conversation_file() -> None:
    """The shipped part of the conversation trace is its first 40 minutes."""
    path = REPLAY / "azure-conversation-2023.csv.gz"
    trace = read_trace(path)

    assert 525_882 == len(gzip.decompress(path.read_bytes()))
    assert ("azure", 14178, 0) == (trace.format, len(trace.rows), trace.bad_row_count)
    assert 2400.2 == round(trace.rows[-1].arrival_s, 1)
    assert () == trace.warnings


def test_the_2024_files_are_azure_too(write: Write) -> None:
    """The same header with six digits and a zone; an hour's shift is an hour."""
    stamps = ("2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:01+00:00")
    later = "2024-05-10 02:00:01+01:00"
    text = HEADER + "".join(f"{stamp},1,1\r\n" for stamp in (*stamps, later))
    rows = read_trace(write(text)).rows

    assert [0.0, 0.99007, 3600.99007] == [row.arrival_s for row in rows]


def test_mooncake_counts_milliseconds(write: Write) -> None:
    """A Mooncake stamp of 2,500 is 2.5 s after one of 0; ids become block ids."""
    trace = read_trace(write(mooncake() + mooncake(timestamp=2500)))

    assert 2.5 == trace.rows[1].arrival_s
    assert ("0", "1") == trace.rows[1].block_ids


def test_first_arrival_is_zero(write: Write) -> None:
    """A trace whose first stamp is not 0 starts at 0 after load."""
    trace = read_trace(write(mooncake(timestamp=9000) + mooncake(timestamp=9001)))

    assert [0.0, 0.001] == [row.arrival_s for row in trace.rows]


def test_gzip_by_content(write: Write) -> None:
    """Gzip is known by its bytes, not by the name; the hash is that of the file."""
    packed = gzip.compress(AZURE.encode())
    trace = read_trace(write(packed, "no-suffix"))

    assert read_trace(write(AZURE, "plain")).rows == trace.rows
    assert hashlib.sha256(packed).hexdigest() == trace.sha256


def test_out_of_order_rows_are_sorted_and_said(write: Write) -> None:
    """Rows are put in order of arrival, ties as in the file, and a warning says so."""
    stamps = (20, 0, 10, 10)
    trace = read_trace(write("".join(mooncake(timestamp=t) for t in stamps)))

    assert [1, 2, 3, 0] == [row.index for row in trace.rows]
    assert "not in order" in trace.warnings[0]


def test_unused_fields_are_said(write: Write) -> None:
    """A field that would mean something elsewhere is not dropped in silence."""
    trace = read_trace(write(mooncake(delay=5)))

    assert ("fields that are not used: 'delay'",) == trace.warnings


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("2023-11-16 18:00:00.0,-3,5", "ContextTokens is negative"),
        ("2023-11-16 18:00:00.0,0,5", "ContextTokens is zero"),
        ("2023-11-16 18:00:00.0,5,0", "GeneratedTokens is zero"),
        ("2023-11-16 18:00:00.0,5.0,5", "ContextTokens is not a whole number"),
        ("2023-11-16 18:00:00.0,nan,5", "ContextTokens is not a whole number"),
        ("2023-11-16 18:00:00.0,5,1e3", "GeneratedTokens is not a whole number"),
        ("2023-11-16 18:00:00.0,5,", "GeneratedTokens is missing"),
        ("2023-11-16 18:00:00.0,999999999,5", "ContextTokens is larger"),
        ("2023-11-16 18:00:00.0,٣,5", "ContextTokens is not a whole number"),
        ("2023-11-16 18:00:00.0,5", "expected 3 fields, got 2"),
        ("2023-11-16 18:00:00.0,5,5,5", "expected 3 fields, got 4"),
        ("2023-02-30 18:00:00.0,5,5", "TIMESTAMP is not a time"),
        ("yesterday,5,5", "TIMESTAMP is not a time"),
        (",5,5", "TIMESTAMP is missing"),
    ],
)
def test_broken_azure_rows(write: Write, row: str, reason: str) -> None:
    """Each broken row is left out and counted with its line and reason."""
    trace = read_trace(write(f"{AZURE}\r\n\r\n{row}\r\n"), max_bad_share=0.5)

    assert (3, 1) == (len(trace.rows), trace.bad_row_count)
    assert 6 == trace.bad_rows[0].line
    assert trace.bad_rows[0].reason.startswith(reason)
    assert "1 of 4 rows are broken and left out" in trace.warnings[0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (mooncake(timestamp=-1), "timestamp is negative"),
        (mooncake(timestamp=1.5), "timestamp is not a whole number"),
        (mooncake(timestamp=float("nan")), "timestamp is not a whole number"),
        (mooncake(timestamp=10**400), "timestamp is too large"),
        (mooncake(timestamp=True), "timestamp is not a whole number"),
        (mooncake(input_length=None), "input_length is not a whole number"),
        (mooncake(input_length=0, hash_ids=[]), "input_length is zero"),
        (mooncake(output_length=-2), "output_length is negative"),
        (mooncake(output_length=0), "output_length is zero"),
        (mooncake(hash_ids=[0]), "hash_ids holds 1 ids, but 600 tokens are 2 blocks"),
        (mooncake(hash_ids=[0, 1, 2]), "hash_ids holds 3 ids"),
        (mooncake(hash_ids=[0, "a"]), "hash_ids is not a whole number"),
        (mooncake(hash_ids=7), "hash_ids is not a list"),
        ('{"timestamp": 0}', "input_length is missing"),
        ("[1, 2]", "not a JSON object"),
        ('{"timestamp": 0', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"timestamp": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_broken_mooncake_rows(write: Write, row: str, reason: str) -> None:
    """Each broken row is left out and counted with its line and reason."""
    trace = read_trace(write(mooncake() + row), max_bad_share=0.5)

    assert (1, 1) == (len(trace.rows), trace.bad_row_count)
    assert 2 == trace.bad_rows[0].line
    assert trace.bad_rows[0].reason.startswith(reason)


def test_row_index_counts_broken_rows(write: Write) -> None:
    """A row keeps its index, and so its request id, when others are broken."""
    trace = read_trace(write(mooncake(output_length=0) + mooncake()), max_bad_share=0.5)

    assert [1] == [row.index for row in trace.rows]


def test_all_bad_rows_are_counted_some_kept(write: Write) -> None:
    """The count is of all broken rows although only the first are kept."""
    text = mooncake() * 100 + mooncake(output_length=0) * 50
    trace = read_trace(write(text), max_bad_share=0.5)

    assert (50, BAD_ROWS_KEPT) == (trace.bad_row_count, len(trace.bad_rows))


def test_too_many_broken_rows_are_refused(write: Write) -> None:
    """Above the allowed share the file is refused and the first rows are quoted."""
    path = write(mooncake() * 98 + mooncake(output_length=0) * 2)

    with pytest.raises(TrafficError) as caught:
        read_trace(path)

    message = str(caught.value)
    assert "2 of 100 rows are broken (2.0%; 1% is allowed)" in message
    assert f"{path}:99: output_length is zero" in message


def test_one_percent_is_allowed(write: Write) -> None:
    """Exactly the allowed share passes."""
    path = write(mooncake() * 99 + mooncake(output_length=0))

    assert 99 == len(read_trace(path).rows)


def test_no_good_row_is_never_success(write: Write) -> None:
    """A file without a usable row is refused whatever share is allowed."""
    with pytest.raises(TrafficError, match="1 of 1 rows are broken"):
        read_trace(
            write(mooncake(output_length=0)), format="mooncake", max_bad_share=1.0
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \r\n\n", "is empty"),
        (gzip.compress(b""), "is empty"),
        (HEADER.encode(), "holds a header but no rows"),
        (bytes(range(256)) * 9, "in no known trace format"),
        (b"hello\nworld\n", "in no known trace format"),
        (b'{"timestamp": 1}', "in no known trace format"),
        (gzip.compress(AZURE.encode() * 99)[:-30], "gzip file is cut off"),
        (gzip.compress(AZURE.encode())[:12] + b"\xff" * 99, "can't be read"),
        (b"\x1f\x8bnot gzip at all", "can't be read"),
        (b"x" * (MAX_LINE_BYTES + 1), "longer than"),
    ],
)
def test_unusable_files(write: Write, content: bytes, message: str) -> None:
    """Each kind of unusable file gets one sentence that names it and the fault."""
    path = write(content)

    with pytest.raises(TrafficError, match=message) as caught:
        read_trace(path)

    assert str(path) in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    """A path that is no file is said plainly."""
    with pytest.raises(TrafficError, match=r"there is no file .*gone\.csv"):
        read_trace(tmp_path / "gone.csv")
    with pytest.raises(TrafficError, match="is a folder"):
        read_trace(tmp_path)
    with pytest.raises(TrafficError, match="can't be opened"):
        read_trace("a\0b")


def test_explicit_format_wins(write: Write) -> None:
    """What the caller says is believed over the content."""
    with pytest.raises(TrafficError, match="expected the header TIMESTAMP"):
        read_trace(write(mooncake()), format="azure")
    with pytest.raises(TrafficError, match="rows are broken"):
        read_trace(write(AZURE), format="mooncake")


def test_unknown_format_is_named(write: Write) -> None:
    """A format that isn't there is answered with those that are."""
    with pytest.raises(TrafficError, match="'burst'; write auto, azure, mooncake"):
        read_trace(write(AZURE), format="burst")


def test_seconds_are_not_taken_for_milliseconds(write: Write) -> None:
    """A qwen-bailian row has Mooncake's fields but counts seconds: not detected."""
    with pytest.raises(TrafficError, match="in no known trace format"):
        read_trace(write(mooncake(chat_id=1)))


def test_broken_first_row_does_not_hide_the_format(write: Write) -> None:
    """Detection looks at several rows, since any may be broken."""
    text = '{"broken\n' + mooncake() * 200
    trace = read_trace(write(text))

    assert (200, 1) == (len(trace.rows), trace.bad_row_count)


ANY_FILE = st.one_of(
    st.binary(max_size=400),
    st.binary(max_size=200).map(gzip.compress),
    st.binary(max_size=200).map(lambda b: HEADER.encode() + b),
    st.binary(max_size=200).map(lambda b: mooncake().encode() + b),
    st.binary(max_size=200).map(lambda b: b"\x1f\x8b" + b),
    st.text(alphabet='0123456789-:., TZ"{}[]\n\r', max_size=200).map(
        lambda t: (AZURE + "\n" + t).encode()
    ),
)


@given(
    content=ANY_FILE,
    chosen=st.sampled_from(["auto", "azure", "mooncake"]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_bytes_crash(
    write: Write, content: bytes, chosen: str, share: float
) -> None:
    """Whatever the bytes, a file gives ordered rows or a TrafficError."""
    try:
        trace = read_trace(write(content), format=chosen, max_bad_share=share)
    except TrafficError:
        return

    arrivals = [row.arrival_s for row in trace.rows]
    assert sorted(arrivals) == arrivals
    assert 0.0 == arrivals[0]
    assert all(row.prompt_tokens > 0 < row.output_tokens for row in trace.rows)
