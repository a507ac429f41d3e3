"""What is written again and again, where nothing can be replaced safely: at a URL.

Each version is an object of its own, with a number more in its name than the one
before. It is created only if there is none, and the highest counts: an old runner that
wakes up late may add a version, but none that counts. So nothing needs a lock.
"""

import re
from contextlib import suppress

from canary.errors import StorageError
from canary.evidence.remote import Location, RemotePath


def versions(path: Location) -> list[Location]:
    """Return the numbered versions of a file, the one that counts last."""
    number = re.compile(
        rf"{re.escape(path.stem)}-(\d{{6,}}(?:-\d{{6,}})?){re.escape(path.suffix)}"
    )
    found = [
        (match[1], each)
        for each in path.parent.glob(f"{path.stem}-*{path.suffix}")
        if (match := number.fullmatch(each.name))
    ]
    return [each for _, each in sorted(found, key=lambda one: _order(one[0]))]


def version(path: Location, number: str) -> Location:
    """Return the object of one version."""
    return path.with_name(f"{path.stem}-{number}{path.suffix}")


def newest(path: Location) -> tuple[int, bytes]:
    """Return the number and the content of what counts; 0 and nothing if none does.

    Raises:
        StorageError: It can't be read.
    """
    while found := versions(path):
        with suppress(FileNotFoundError):  # a newer one is there by now
            return _order(_number(path, found[-1]))[0], found[-1].read_bytes()
    return 0, b""


def add_version(path: RemotePath, number: int, content: bytes) -> bool:
    """Make `content` the version of that number; return whether it counts now.

    Raises:
        StorageError: Nobody knows; `newest` tells.
    """
    mine = version(path, f"{number:06d}")
    if not isinstance(mine, RemotePath) or mine.put_new(content) != content:
        return False
    found = versions(path)
    if not found or found[-1].name != mine.name:
        return False
    for old in found[:-1]:
        # What stays counts no more, and goes the next time.
        with suppress(StorageError):
            old.unlink(missing_ok=True)
    return True


def _number(path: Location, each: Location) -> str:
    return each.stem.removeprefix(f"{path.stem}-")


def _order(number: str) -> tuple[int, int]:
    """A second number says how many parts it has: of two versions, fewer count."""
    first, _, parts = number.partition("-")
    return int(first), -int(parts or 0)
