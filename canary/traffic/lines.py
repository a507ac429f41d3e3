"""Text files read one line at a time, plain or gzip, with errors a user can act on."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from canary.errors import TrafficError

_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 2**20


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line that is not blank with its number, stripped of white space.

    Numbers count from 1 and include blank lines, as editors do. Gzip is known by its
    first bytes, whatever the file is called. At most one line is held in memory.

    Raises:
        TrafficError: The file can't be read, holds nothing, or is not made of lines.
    """
    empty = True
    with _opened(Path(path)) as stream:
        for number, line in enumerate(_bounded_lines(path, stream), 1):
            text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            if text := text.strip():
                empty = False
                yield number, text
    if empty:
        raise TrafficError(f"{path} is empty; give a file that holds at least one row")


def file_sha256(path: str | Path) -> str:
    """Return the hash of the file's bytes as they lie on disk."""
    with _opened(Path(path), unpack=False) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _opened(path: Path, *, unpack: bool = True) -> io.BufferedIOBase:
    try:
        if path.is_dir():
            raise TrafficError(f"{path} is a folder; name one file in it")
        if path.exists() and not path.is_file():
            raise TrafficError(f"{path} is not a regular file; store it as one first")
        with path.open("rb") as head:
            packed = unpack and head.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        return gzip.GzipFile(path, "rb") if packed else path.open("rb")
    except FileNotFoundError:
        raise TrafficError(f"there is no file {path}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise TrafficError(f"{str(path)!r} can't be opened: {error}") from error


def _bounded_lines(path: str | Path, stream: io.BufferedIOBase) -> Iterator[bytes]:
    number = 0
    try:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise TrafficError(
                    f"{path}:{number}: the line is longer than {MAX_LINE_BYTES:,} "
                    "bytes; this is not a file with one row per line"
                )
            yield line
    except EOFError:
        raise TrafficError(
            f"{path}: the gzip file is cut off after line {number}; fetch it again"
        ) from None
    except (OSError, zlib.error) as error:
        raise TrafficError(
            f"{path}: can't be read after line {number}: {error}; fetch it again"
        ) from error
