"""What a source stands for: a file, a glob, a folder, or any of them by URL."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import fsspec

from canary.errors import TrafficError
from canary.traffic.lines import is_url

_PACKED = ("", ".gz", ".zst")
_INGRESS = tuple(f"requests-*.jsonl{packed}" for packed in _PACKED)
_TRACE = tuple(f"trace.csv{packed}" for packed in _PACKED)
_DATASET = tuple(f"dataset.json{packed}" for packed in _PACKED)


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a source in the order of their names.

    `clients` are ServeGen's instead: name, trace and dataset of each. `growing` says
    that it is a folder into which an ingress may still be writing.
    """

    files: tuple[str, ...] = ()
    clients: tuple[tuple[str, str, str], ...] = ()
    growing: bool = False


def find_source(source: str) -> Source:
    """Return the files that a source stands for; hidden ones are passed over.

    Raises:
        TrafficError: A glob or folder has no files, or can't be listed.
    """
    folder, names = _listed(source)
    if folder is None:
        return Source(files=tuple(names))
    pairs = _pairs(names)
    if pairs:
        return Source(clients=pairs)
    spooled = [name for name in names if _is(name, _INGRESS)]
    return Source(files=tuple(spooled or names), growing=bool(spooled))


def beside(trace: str) -> tuple[str, str, str]:
    """Return the ServeGen client of which this is the ``trace.csv``.

    Raises:
        TrafficError: There is no ``dataset.json`` beside it.
    """
    folder, _, _ = trace.rpartition("/")
    siblings = _listed(folder or ".")[1]
    base = trace.rpartition("/")[2]
    for client in _pairs(siblings):
        if _base(client[1]) == base:
            return client
    raise TrafficError(
        f"{trace} is a ServeGen rate process; put the client's dataset.json beside it, "
        "which has the lengths, the names ending in trace.csv and dataset.json"
    )


def _listed(source: str) -> tuple[str | None, list[str]]:
    """The folder, if it is one, and the files in it; otherwise the files meant."""
    try:
        return _listed_url(source) if is_url(source) else _listed_here(source)
    except OSError as error:  # a name too long, a folder that may not be read
        why = error.strerror or error
        raise TrafficError(f"{source:.200} can't be listed: {why}") from error


def _listed_here(source: str) -> tuple[str | None, list[str]]:
    path = Path(source)
    if path.is_dir():
        files = [str(inside) for inside in path.iterdir() if inside.is_file()]
        return source, _needed(source, files, "is a folder without files")
    if path.exists() or not glob.has_magic(source):
        return None, [source]
    # Not Path.glob, for which a pattern that begins at the root is an error.
    matches = glob.glob(source, recursive=True)  # noqa: PTH207
    files = [match for match in matches if Path(match).is_file()]
    return None, _needed(source, files, "matches no file")


def _listed_url(source: str) -> tuple[str | None, list[str]]:
    if source.startswith(("http://", "https://")):
        return None, [source]  # the web has no folders, and ? begins a query
    try:
        files, path = fsspec.core.url_to_fs(source)
        if glob.has_magic(path):
            names = [name for name in files.glob(path) if files.isfile(name)]
            folder = None
        elif files.isdir(path):
            names = [
                e["name"] for e in files.ls(path, detail=True) if e["type"] == "file"
            ]
            folder = source
        else:
            return None, [source]
        found = [files.unstrip_protocol(name) for name in names]
    except Exception as error:  # each store raises its own client's errors
        raise TrafficError(f"{source} can't be listed: {error}") from error
    return folder, _needed(source, found, "has no files")


def _needed(source: str, files: Iterable[str], otherwise: str) -> list[str]:
    shown = sorted(name for name in files if not _base(name).startswith("."))
    if not shown:
        raise TrafficError(f"{source} {otherwise}; check the path")
    return shown


def _pairs(names: Iterable[str]) -> tuple[tuple[str, str, str], ...]:
    """Each ``*trace.csv`` with the ``*dataset.json`` of the same beginning."""
    names = list(names)
    datasets = {_stem(name, _DATASET): name for name in names if _is(name, _DATASET, 1)}
    return tuple(
        (stem, name, datasets[stem])
        for name in names
        if _is(name, _TRACE, 1) and (stem := _stem(name, _TRACE)) in datasets
    )


def _is(name: str, patterns: Iterable[str], beginning: int = 0) -> bool:
    star = "*" * beginning
    return any(fnmatchcase(_base(name), star + pattern) for pattern in patterns)


def _stem(name: str, ends: Iterable[str]) -> str:
    base = _base(name)
    return next(base.removesuffix(end) for end in ends if base.endswith(end))


def _base(name: str) -> str:
    return name.rpartition("/")[2]
