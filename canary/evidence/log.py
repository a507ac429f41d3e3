"""What is written down beside a run, line after line: one JSON object each."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from canary.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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

    def append(self, path: Path, entry: Entry) -> None:
        """Write an entry behind the others; it is on the disk afterwards.

        Raises:
            OSError: It can't be written.
        """
        line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def read(self, path: Path) -> tuple[Entry, ...]:
        """Return all entries, the oldest first; none if there is no file.

        Raises:
            UsageError: A line is damaged.
        """
        if not path.exists():
            return ()
        found = []
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            try:
                found.append(self._adapter.validate_json(line))
            except ValidationError as error:
                raise UsageError(
                    f"{path}:{number}: is no {self._what} "
                    f"({error.errors()[0]['msg']}); mend or remove the line"
                ) from error
        return tuple(found)
