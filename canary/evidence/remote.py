"""A place at an fsspec URL, as far as a run folder needs it: what pathlib is locally.

An object store puts objects there whole, or not at all; it can neither append nor sync
nor lock, and needn't know folders. All that a run asks of it beyond that is to create
an object *only if there is none*, which keeps two runners apart. These stores can, by
one request each: S3 (``If-None-Match: *``), Google Cloud Storage (generation 0), Azure
Blob Storage (``If-None-Match: *``), and fsspec's own memory, within one process. Any
other may be read, but not written to. Servers that only speak like S3 are tried first:
one that overwrites all the same is refused.

Credentials come from the environment of the store's client; a URL that holds some is
refused, because URLs are written down.
"""

import errno
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from canary.errors import StorageError, UsageError

Found = TypeVar("Found")

_EXCLUSIVE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class RemotePath:
    """An object, or what several have in common, at a URL.

    Whatever a store raises becomes a StorageError, but for what isn't there.
    """

    url: str
    _store: Any
    _key: str

    def __str__(self) -> str:
        """Return the URL."""
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        """Return what is below."""
        return RemotePath(f"{self.url}/{name}", self._store, f"{self._key}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part without what follows its last dot."""
        return Path(self.name).stem

    @property
    def suffix(self) -> str:
        """What follows, dot included."""
        return Path(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        """What it lies in."""
        url, key = self.url.rpartition("/")[0], self._key.rpartition("/")[0]
        return RemotePath(url, self._store, key)

    def with_name(self, name: str) -> "RemotePath":
        """Return what is beside it."""
        return self.parent / name

    def exists(self) -> bool:
        """Whether there is such an object, or any below it."""
        self._forget()
        return bool(self._asked("read", lambda: self._store.exists(self._key)))

    def is_dir(self) -> bool:
        """Whether there are objects below it."""
        self._forget()
        return bool(self._asked("read", lambda: self._store.isdir(self._key)))

    def read_bytes(self) -> bytes:
        """Return what is there; FileNotFoundError if nothing is."""
        found: bytes = self._asked("read", lambda: self._store.cat_file(self._key))
        return found

    def read_text(self) -> str:
        """Return what is there, as text."""
        return self.read_bytes().decode()

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yield what lies directly in it and has such a name."""
        self._forget()
        try:
            keys = self._asked("read", lambda: self._store.ls(self._key, detail=False))
        except FileNotFoundError:
            return
        names = {str(key).rstrip("/").rpartition("/")[2] for key in keys}
        yield from (self / name for name in sorted(names) if fnmatchcase(name, pattern))

    def rglob(self, name: str) -> Iterator["RemotePath"]:
        """Yield what is called so, however far below."""
        self._forget()
        try:
            keys = self._asked("read", lambda: self._store.find(self._key))
        except FileNotFoundError:
            return
        start = len(self._key) + 1
        below = [str(key)[start:] for key in keys]
        yield from (self / one for one in below if one.rpartition("/")[2] == name)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove it."""
        try:
            self._asked("remove", lambda: self._store.rm_file(self._key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def modified_unix_s(self) -> float:
        """Return when it was written, by the store's clock."""
        found = self._asked("read", lambda: self._store.modified(self._key))
        return float(found.timestamp())

    def put(self, content: bytes) -> None:
        """Put an object there, whole, instead of what may be there."""
        self._write(lambda: self._store.pipe_file(self._key, content))

    def put_new(self, content: bytes) -> bytes:
        """Put an object there if there is none; return what is there then."""
        self.refuse_weak()
        try:
            self._write(
                lambda: self._store.pipe_file(self._key, content, mode="create")
            )
        except FileExistsError:
            return self.read_bytes()
        return content

    def refuse_weak(self) -> None:
        """Raise UsageError if the store can't tell a new object from an old one."""
        protocol = self.url.partition("://")[0]
        if protocol not in _EXCLUSIVE:
            raise UsageError(
                f"{self.url}: {protocol} can't create an object only if there is none, "
                "so nothing would keep a second runner out; put the run on s3, gs, az "
                "or a local path"
            )

    def refuse_overwriting(self) -> None:
        """Raise UsageError if a store that should know better overwrites this, which
        must be there."""
        try:
            self._write(
                lambda: self._store.pipe_file(self._key, b"again", mode="create")
            )
        except FileExistsError:
            return
        raise UsageError(
            f"{self.url}: this store overwrites what it was told to leave alone (it "
            "ignores If-None-Match), so nothing would keep a second runner out; put "
            "the run on another store or a local path"
        )

    def _write(self, ask: Callable[[], object]) -> None:
        try:
            self._asked("write", ask)
        except FileNotFoundError as error:
            raise self._failed("write", "there is no such bucket") from error

    def _forget(self) -> None:
        """Look again: others write here too."""
        self._store.invalidate_cache()

    def _asked(self, what: str, ask: Callable[[], Found]) -> Found:
        try:
            return ask()
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "it isn't there", self.url) from error
        except FileExistsError:
            raise
        except Exception as error:  # each store raises its own client's errors
            raise self._failed(what, _reason(error)) from error

    def _failed(self, what: str, reason: str) -> StorageError:
        known = {"write": "written", "remove": "removed"}.get(what, "read")
        told = f"{self.url}: can't be {known} ({reason}); what was recorded stays"
        return StorageError(told, reason=reason)


Location = Path | RemotePath


def located(text: str | Path) -> Location:
    """Return a local path, or the place at an fsspec URL.

    Raises:
        UsageError: The URL holds credentials, or nothing here opens such URLs.
    """
    protocol, separator, rest = str(text).partition("://")
    if not separator:
        return Path(text)
    if protocol in ("file", "local"):
        return Path(rest)
    if "?" in rest or ":" in rest.partition("/")[0].rpartition("@")[0]:
        raise UsageError(
            f"{protocol}://...: this URL holds credentials, and URLs are written down; "
            "leave them out and put them into the environment"
        )
    url = str(text).rstrip("/")
    try:
        store, key = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise UsageError(f"{url}: can't be opened ({error})") from error
    except Exception as error:  # each store raises its own client's errors
        raise UsageError(
            f"{url}: can't be opened ({_reason(error)}); check the address and what "
            "the environment says of the store"
        ) from error
    return RemotePath(url, store, str(key).rstrip("/"))


def absolute(place: Location) -> Location:
    """Return what it is called wherever it is looked for."""
    return place if isinstance(place, RemotePath) else place.absolute()


def _reason(error: Exception) -> str:
    """Say why a store failed, without what signs a request."""
    if isinstance(error, PermissionError):
        return "access is denied: check the credentials in the environment"
    if isinstance(error, TimeoutError):
        return "it doesn't answer in time"
    words = getattr(error, "strerror", None) or str(error)
    said = re.sub(r"\?\S*", "", " ".join(words.split()))[:_LONGEST_REASON]
    return said or type(error).__name__
