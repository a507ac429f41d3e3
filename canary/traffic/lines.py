"""Text files read one line at a time: here or elsewhere, plain, gzip or zstd."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import fsspec
import zstandard

from canary.errors import TrafficError

MAX_LINE_BYTES = 2**20
MAX_TEXT_LINE_BYTES = 2**26
"""A JSON object on a line may carry a prompt's text, and is that much longer."""

Packed: TypeAlias = "io.BufferedReader[Any]"

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHUNK_BYTES = 2**18
# A block of 128 KiB can be packed into 4 bytes, so that this unpacks to 64 MiB at most.
_ZSTD_CHUNK_BYTES = 2**11


class LineFile:
    """The lines of one file, and once all of them were read, the hash of its bytes.

    Iterate over it once. It yields each line that is not blank with its number,
    stripped of white space. Numbers count from 1 and include blank lines, as editors
    do. Gzip and zstd are known by their first bytes, whatever the file is called. At
    most one line is held in memory.

    Attributes:
        sha256: The hash of the bytes as they lie there; empty until all are read.
        unfinished: The number of the last line if it has no end, once it was read.

    Raises:
        TrafficError: When iterating: it can't be read, or is not made of lines.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.sha256 = ""
        self.unfinished: int | None = None

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        with open_bytes(self.path) as stream:
            hashed = _Hashed(stream)
            packed: Packed = io.BufferedReader(hashed, _CHUNK_BYTES)
            for number, line in enumerate(_bounded_lines(self.path, packed), 1):
                text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                if text := text.strip():
                    self.unfinished = None if line.endswith(b"\n") else number
                    yield number, text
            self.sha256 = hashed.digest.hexdigest()

    def refuse_empty(self, *, empty: bool) -> None:
        """Refuse a file of which it turned out that it holds nothing.

        Raises:
            TrafficError: It does.
        """
        if empty:
            raise TrafficError(
                f"{self.path} is empty; give a file that holds at least one row"
            )


def is_url(path: str) -> bool:
    """Return whether fsspec opens it, not the local file system."""
    return "://" in path


def open_bytes(path: str) -> BinaryIO:
    """Open a local path or a URL for reading.

    Raises:
        TrafficError: It can't be opened, or isn't a file.
    """
    return _open_url(path) if is_url(path) else _open_local(Path(path))


def file_sha256(path: str) -> str:
    """Return the hash of the file's bytes as they lie there.

    Raises:
        TrafficError: The file can't be read.
    """
    with open_bytes(path) as stream:
        hashed = _Hashed(stream)
        try:
            while hashed.read(_CHUNK_BYTES):
                pass
        except OSError as error:
            raise TrafficError(f"{path} can't be read: {error}") from error
    return hashed.digest.hexdigest()


def _open_local(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise TrafficError(f"{path} is a folder; name one file in it")
        if path.exists() and not path.is_file():
            raise TrafficError(f"{path} is not a regular file; store it as one first")
        return path.open("rb")
    except FileNotFoundError:
        raise TrafficError(f"there is no file {path}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise TrafficError(f"{str(path)!r} can't be opened: {error}") from error


def _open_url(url: str) -> BinaryIO:
    try:
        return cast("BinaryIO", fsspec.open(url, "rb").open())
    except FileNotFoundError as error:
        raise TrafficError(f"there is no file {url}; check the URL") from error
    except Exception as error:  # each store raises its own client's errors
        raise TrafficError(f"{url} can't be opened: {error}") from error


class _Hashed(io.RawIOBase):
    """A stream that hashes what is read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except OSError:
            raise
        except Exception as error:  # each store raises its own client's errors
            raise OSError(f"{type(error).__name__}: {error}") from error
        self.digest.update(data)
        buffer[: len(data)] = data
        return len(data)


class _Zstd(io.RawIOBase):
    """The content of zstd frames; unlike zstandard's reader it tells a cut from an end.

    Raises:
        EOFError: When reading: the last frame is cut off.
    """

    def __init__(self, packed: Packed) -> None:
        self._packed = packed
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._left = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        while not self._ready:
            fed = self._left or self._packed.read(_ZSTD_CHUNK_BYTES)
            if not fed:
                if self._frame is not None:
                    raise EOFError
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(fed))
            self._left = b""
            if self._frame.eof:
                self._left = self._frame.unused_data
                self._frame = None
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _bounded_lines(path: str, packed: Packed) -> Iterator[bytes]:
    """Yield the lines, and read the file to its end: its hash needs all bytes."""
    number = 0
    kind = "file"
    try:
        magic = packed.peek(4)
        stream = packed
        if magic.startswith(_GZIP_MAGIC):
            kind = "gzip file"
            unpacked = gzip.GzipFile(fileobj=packed, mode="rb")
            stream = io.BufferedReader(cast("io.RawIOBase", unpacked), _CHUNK_BYTES)
        elif magic.startswith(_ZSTD_MAGIC):
            kind = "zstd file"
            stream = io.BufferedReader(_Zstd(packed), _CHUNK_BYTES)
        while line := _line(path, number + 1, stream):
            number += 1
            yield line
        while packed.read(_CHUNK_BYTES):
            pass
    except EOFError:
        raise TrafficError(
            f"{path}: the {kind} is cut off after line {number}; fetch it again"
        ) from None
    except (OSError, zlib.error, zstandard.ZstdError) as error:
        raise TrafficError(
            f"{path}: can't be read after line {number}: {error}; fetch it again"
        ) from error


def _line(path: str, number: int, stream: Packed) -> bytes:
    line = stream.readline(MAX_LINE_BYTES + 1)
    if len(line) <= MAX_LINE_BYTES:
        return line
    most = MAX_LINE_BYTES
    if line.lstrip().startswith(b"{"):
        most = MAX_TEXT_LINE_BYTES
        if not line.endswith(b"\n"):
            line += stream.readline(most - len(line) + 1)
    if len(line) > most:
        raise TrafficError(
            f"{path}:{number}: the line is longer than {most:,} bytes; this is not a "
            "file with one row per line"
        )
    return line
