"""Bodies as they were before a client compressed them, never larger than allowed."""

import io
import zlib

import zstandard

from canary.ingress.reasons import DroppedError, Reason

_GZIP_WBITS = 31
_ZLIB_WBITS = 15
_RAW_WBITS = -15
_ZSTD_WINDOW_BYTES = 8 * 2**20
"""What RFC 9659 allows on the web: a frame may ask for no more memory than this."""


def plain_body(body: bytes, encoding: str, *, max_bytes: int) -> bytes:
    """Return the body decompressed, having produced at most `max_bytes` + 1 bytes.

    Args:
        body: As it came.
        encoding: The Content-Encoding header; empty if there was none.
        max_bytes: The largest body that is taken.

    Raises:
        DroppedError: It is larger (too-large), cut off, corrupt, or encoded in another
            way than gzip, deflate or zstd (bad-encoding).
    """
    match encoding.strip().lower():
        case "" | "identity":
            return _checked(body, max_bytes)
        case "gzip" | "x-gzip":
            return _inflated(body, _GZIP_WBITS, max_bytes)
        case "deflate":
            # RFC 9110 means zlib's format; some clients send the bare stream.
            zlib_format = body[:1] == b"\x78"
            wbits = _ZLIB_WBITS if zlib_format else _RAW_WBITS
            return _inflated(body, wbits, max_bytes)
        case "zstd":
            return _unzstd(body, max_bytes)
        case _:
            raise DroppedError(Reason.BAD_ENCODING)


def _checked(body: bytes, max_bytes: int) -> bytes:
    if len(body) > max_bytes:
        raise DroppedError(Reason.TOO_LARGE)
    return body


def _inflated(body: bytes, wbits: int, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    room, rest = max_bytes + 1, body
    while rest and room > 0:  # a gzip body may have several members
        stream = zlib.decompressobj(wbits)
        try:
            parts.append(stream.decompress(rest, room))
        except zlib.error:
            raise DroppedError(Reason.BAD_ENCODING) from None
        room -= len(parts[-1])
        if room > 0 and not stream.eof:
            raise DroppedError(Reason.BAD_ENCODING)
        rest = stream.unused_data
    return _checked(b"".join(parts), max_bytes)


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    reader = decompressor.stream_reader(io.BytesIO(body), read_across_frames=True)
    try:
        return _checked(reader.read(max_bytes + 1), max_bytes)
    except zstandard.ZstdError:
        raise DroppedError(Reason.BAD_ENCODING) from None
