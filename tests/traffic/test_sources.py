import gzip
import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import zstandard

from canary.errors import TrafficError
from canary.traffic.formats import read_trace
from canary.traffic.lines import MAX_LINE_BYTES, MAX_TEXT_LINE_BYTES, LineFile

Write = Callable[..., Path]
HEAD = "arrival,prompt_tokens\n"


def csv(*arrivals: float) -> str:
    return HEAD + "".join(f"{at},{int(at) + 1}\n" for at in arrivals)


def arrivals(source: str | Path) -> list[float]:
    return [row.arrival_s for row in read_trace(source).rows]


def test_a_folder_is_one_trace_in_order_of_names(write: Write) -> None:
    """Files follow each other by name; indexes count on; hidden files are none."""
    write(csv(2, 3), "day/b.csv")
    write(gzip.compress(csv(0, 1).encode()), "day/a.csv.gz")
    folder = write("not a trace", "day/.hidden").parent
    trace = read_trace(folder)

    assert [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)] == [
        (row.index, row.arrival_s) for row in trace.rows
    ]
    hashes = [
        hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("a.csv.gz", "b.csv")
    ]
    assert hashlib.sha256("\n".join(hashes).encode()).hexdigest() == trace.sha256


def test_a_glob_takes_what_it_matches(write: Write) -> None:
    """A glob names files; one that matches none is said."""
    for name in ("x/1.csv", "y/2.csv", "y/3.txt"):
        write(csv(int(name[2])), name)
    root = write("", "y/3.json").parents[1]

    assert [0.0, 1.0] == arrivals(f"{root}/*/*.csv")
    with pytest.raises(TrafficError, match="matches no file"):
        read_trace(f"{root}/*.parquet")


def test_a_file_whose_name_looks_like_a_glob(write: Write) -> None:
    """A file that exists is meant, whatever characters its name has."""
    assert [0.0] == arrivals(write(csv(5), "day[1].csv"))


def test_files_of_different_formats_are_refused(write: Write) -> None:
    """Which file is of which format is said."""
    write(csv(0), "a.csv")
    other = write("TIMESTAMP,ContextTokens,GeneratedTokens\n", "b.csv")

    with pytest.raises(TrafficError, match=r"b\.csv is azure, but .*a\.csv is csv"):
        read_trace(other.parent)


def test_broken_rows_of_several_files_are_told_apart(write: Write) -> None:
    """A row's place is the file and its line."""
    write(csv(0), "a.csv")
    second = write(csv(1) + "x,1\n", "b.csv")
    trace = read_trace(second.parent, max_bad_share=0.5)

    assert [(str(second), 3)] == [(bad.path, bad.line) for bad in trace.bad_rows]
    assert f"the first at {second}:3: arrival" in trace.warnings[0]


def test_urls_go_through_fsspec() -> None:
    """A file, a glob and a folder by URL; a missing one is said."""
    files = fsspec.filesystem("memory")
    files.pipe({"/urls/a.csv": csv(0).encode(), "/urls/b.csv": csv(7).encode()})

    assert [0.0] == arrivals("memory://urls/b.csv")
    assert [0.0, 7.0] == arrivals("memory://urls/*.csv")
    assert [0.0, 7.0] == arrivals("memory://urls")
    with pytest.raises(TrafficError, match="there is no file memory://urls/c"):
        read_trace("memory://urls/c.csv")
    with pytest.raises(TrafficError, match="can't be listed"):
        read_trace("nowhere://a")


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    """A folder without files holds no trace."""
    with pytest.raises(TrafficError, match="is a folder without files"):
        read_trace(tmp_path)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    """A name too long for the file system is one sentence."""
    with pytest.raises(TrafficError, match="can't be listed: File name too long"):
        read_trace(tmp_path / ("a" * 5000))


@pytest.mark.parametrize("frames", [1, 3])
def test_zstd_by_content(write: Write, frames: int) -> None:
    """Zstd is known by its bytes; frames may follow each other, as zstd writes them."""
    lines = csv(*range(frames * 100)).encode()
    size = len(lines) // frames + 1
    packed = b"".join(
        zstandard.compress(lines[begin : begin + size])
        for begin in range(0, len(lines), size)
    )
    trace = read_trace(write(packed))

    assert frames * 100 == len(trace.rows)
    assert hashlib.sha256(packed).hexdigest() == trace.sha256


def test_cut_off_zstd_is_refused(write: Write) -> None:
    """Wherever a frame is cut, its file must not pass for a whole one."""
    draw = random.Random(1)
    packed = zstandard.compress(csv(*(draw.random() for _ in range(500))).encode())

    for cut in (5, 20, len(packed) // 2, len(packed) - 1):
        with pytest.raises(TrafficError, match="zstd file is cut off after line"):
            read_trace(write(packed[:cut]))


def test_damaged_zstd_is_refused(write: Write) -> None:
    """Bytes that are no zstd after its magic are one sentence."""
    packed = bytearray(zstandard.compress(csv(*range(500)).encode()))
    packed[20:60] = b"\xff" * 40

    with pytest.raises(TrafficError, match="can't be read after line"):
        read_trace(write(bytes(packed)))


def test_the_hash_covers_what_follows_the_last_line(write: Write) -> None:
    """Gzip of blank lines at the end, several members: the hash is the file's."""
    packed = gzip.compress(csv(1).encode()) + gzip.compress(b"\n" * 10**6)

    assert hashlib.sha256(packed).hexdigest() == read_trace(write(packed)).sha256


def test_lines_with_text_may_be_long(write: Write) -> None:
    """A JSON object may carry megabytes of text; other lines may not."""
    said = "x" * (2 * MAX_LINE_BYTES)
    path = write(f'{{"arrival": 0, "text": "{said}"}}\n{{"arrival": 1, "text": "y"}}\n')

    assert [said, "y"] == [row.text for row in read_trace(path).rows]
    with pytest.raises(TrafficError, match=":2: the line is longer than 1,048,576"):
        read_trace(write(f"{HEAD}1,{said}\n"))


def test_lines_without_end_stop_at_a_limit(write: Write) -> None:
    """A JSON line of more than 64 MiB is no row, and is not read to its end."""
    path = write(b'{"text": "' + b"x" * MAX_TEXT_LINE_BYTES)

    with pytest.raises(TrafficError, match="longer than 67,108,864 bytes"):
        list(LineFile(path))
