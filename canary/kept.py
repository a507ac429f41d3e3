"""The policies of a run, kept in its folder as they were when it started."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from canary.errors import UsageError
from canary.evidence.folder import RunFolder, write_atomically
from canary.evidence.remote import Location
from canary.policy.load import load_policies
from canary.policy.model import Policy
from canary.record import read_run


def keep_policies(folder: RunFolder, policies: Sequence[Policy]) -> None:
    """Put copies of policies into the folder of a run that begins."""
    for policy in policies:
        target = folder.policies / f"{policy.name}.yaml"
        write_atomically(target, policy.text.encode())


def kept_policies(folder: RunFolder) -> tuple[Policy, ...]:
    """Return the policies of a run as they were when it started.

    Raises:
        UsageError: One is missing, or has been changed since.
    """
    record = read_run(folder)
    recorded = record["policies"]
    paths = [folder.policies / f"{name}.yaml" for name in recorded]
    with TemporaryDirectory() if folder.remote else nullcontext("") as nearby:
        files = [_nearby(path, Path(nearby)) for path in paths]
        kept = load_policies(files, folders=record.get("folders", ()))
    for policy, path in zip(kept, paths, strict=True):
        if policy.sha256 != recorded[policy.name]:
            raise UsageError(
                f"{path}: has been changed since the run; put it back, or ask another "
                f"policy with `canary judge {folder.root} --policy FILE`"
            )
    return kept


def _nearby(path: Location, folder: Path) -> Path:
    """Return a file that can be read here: of an object at a URL, a copy."""
    if isinstance(path, Path):
        return path
    copy = folder / path.name
    try:
        copy.write_bytes(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"{path}: is gone; restore it from a copy") from error
    return copy
