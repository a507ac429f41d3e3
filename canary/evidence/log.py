"""What is written down beside a run, line after line: one JSON object each.

At a URL nothing can be appended to: there each line is a version of the file for itself
(`canary.evidence.numbered`), and all of them count.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from canary.errors import StorageError, UsageError
from canary.evidence.numbered import newest, version, versions
from canary.evidence.remote import Location, RemotePath

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_TRIES = 10

Entry = TypeVar("Entry", bound="DataclassInstance")


class Log(Generic[Entry]):
    """Appends entries of one type to files, and reads them back.

    Args:
        entry: The type, a dataclass.
        what: What a damaged line isn't: ``override``.
    """

    def __init__(self, entry: type[Entry], *, what: str) -> None:
        self._adapter = TypeAdapter(entry)
        self._what = what

    def append(self, path: Location, entry: Entry) -> None:
        """Write an entry behind the others; it is on the disk afterwards.

        Raises:
            OSError: It can't be written.
            StorageError: It can't be written at a URL.
        """
        line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        if isinstance(path, RemotePath):
            _append_remotely(path, line.encode())
            return
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def read(self, path: Location) -> tuple[Entry, ...]:
        """Return all entries, the oldest first; none if there is no file.

        Raises:
            UsageError: A line is damaged.
        """
        whole = [path] if path.exists() else []
        return tuple(
            entry for one in [*whole, *versions(path)] for entry in self._entries(one)
        )

    def _entries(self, path: Location) -> Iterator[Entry]:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                yield self._adapter.validate_json(line)
            except ValidationError as error:
                raise UsageError(
                    f"{path}:{number}: is no {self._what} "
                    f"({error.errors()[0]['msg']}); mend or remove the line"
                ) from error


def _append_remotely(path: RemotePath, line: bytes) -> None:
    for _ in range(_TRIES):
        number, _ = newest(path)
        mine = version(path, f"{number + 1:06d}")
        if isinstance(mine, RemotePath) and mine.put_new(line) == line:
            return
    why = "others keep writing it"
    raise StorageError(f"{path}: can't be written ({why}); try again", reason=why)
