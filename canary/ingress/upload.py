"""Closed files of a spool to where fsspec reaches, each there whole or not at all."""

from collections.abc import Iterable
from typing import Any

import fsspec

from canary.errors import UsageError
from canary.ingress.spool import Spool, opened_unix_s, spooled_files


class Remote:
    """A folder behind a URL."""

    def __init__(self, url: str) -> None:
        try:
            filesystem, folder = fsspec.core.url_to_fs(url)
            filesystem.makedirs(folder, exist_ok=True)
        except Exception as error:
            raise UsageError(
                f"{url}: can't be used as a spool ({type(error).__name__}: {error}); "
                "check the address and the credentials for it"
            ) from error
        self._filesystem: Any = filesystem
        self._folder = folder.rstrip("/")

    def upload(self, spool: Spool) -> None:
        """Move every file of a spool there but the one that still grows."""
        for path in spooled_files(spool.folder):
            # Asked after the listing: a file that was opened since isn't in it.
            if path.name == spool.open_name:
                continue
            # Not every file system shows a file only when it is whole; renaming does.
            draft = f"{self._folder}/.{path.name}.part"
            self._filesystem.put_file(str(path), draft)
            self._filesystem.mv(draft, f"{self._folder}/{path.name}")
            path.unlink()

    def names(self) -> Iterable[str]:
        """Return the names of what is there."""
        found = self._filesystem.ls(self._folder, detail=False, refresh=True)
        return [str(name).rsplit("/", 1)[-1] for name in found]

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._filesystem.rm_file(f"{self._folder}/{name}")

    def write(self, name: str, text: str) -> None:
        """Write a small file."""
        self._filesystem.pipe_file(f"{self._folder}/{name}", text.encode())


def outdated(names: Iterable[str], *, before_unix_s: float) -> list[str]:
    """Return the spool's files that were begun before that time."""
    begun = ((name, opened_unix_s(name)) for name in names)
    return [name for name, at in begun if at is not None and at < before_unix_s]
