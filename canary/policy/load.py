"""YAML files to Policy values, or every fault of all of them with its place."""

import glob
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml

from canary.errors import Fault, PolicyError
from canary.policy.build import build
from canary.policy.model import Place, Policy, variant_name
from canary.policy.sources import read_source
from canary.policy.tree import document, fault_in


def load_policies(
    paths: Sequence[Path], *, folders: Sequence[str] = ()
) -> tuple[Policy, ...]:
    """Read policies, in the order of `paths`.

    ``extends: base.yaml``, relative to the file that says so, takes what the file
    doesn't write from another: mappings are merged, lists and single values replaced.
    A `source`, a validation set or a pattern's table that isn't found from the current
    folder but beside the file that names it, or one folder above, becomes a path that
    leads there; whether a source exists at all is left to `missing_files`.

    Args:
        paths: The files.
        folders: Where what they name is looked for before anywhere else: those of
            `folders_of` when they were loaded first, if this is a copy.

    Raises:
        PolicyError: With every fault of all the files, in the order of `paths` and
            then of lines.
    """
    faults: set[Fault] = set()
    policies = []
    for path in paths:
        policy, found = _load(path, folders)
        faults.update(found)
        if policy is not None:
            policies.append(policy)
    if faults:
        raise PolicyError(_in_order(faults, [str(path) for path in paths]))
    return tuple(policies)


def load_policy(path: Path) -> Policy:
    """Read one policy; see `load_policies`."""
    return load_policies([path])[0]


def folders_of(policy: Policy) -> list[str]:
    """Return the folders that paths in a policy count from, the first one first."""
    files = dict.fromkeys([policy.path, *(p.file for p in policy.places.values())])
    own = [Path(file).absolute().parent for file in files]
    found = [Path.cwd(), *(root for folder in own for root in (folder, folder.parent))]
    return [str(folder) for folder in dict.fromkeys(found)]


def fault_at(policy: Policy, where: str, message: str) -> Fault:
    """Return a fault of a policy, located at `where` (``gates[2].task``).

    What isn't written is located at what would contain it.
    """
    return fault_in(policy.places or {"": Place(policy.path, 1, 1)}, where, message)


def missing_files(policy: Policy) -> list[Fault]:
    """Return a fault for each file that a policy names and that isn't there."""
    named = {f"validation[{i}]": path for i, path in enumerate(policy.validation)}
    missing = {
        where: path
        for where, path in named.items()
        if not os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises on long names
    }
    if not _is_there(policy.traffic.source):
        missing["traffic.source"] = policy.traffic.source
    message = (
        "there is no file {}, neither from the current folder nor from the policy's "
        "or the one above it; correct the path or fetch the file"
    )
    return [
        fault_at(policy, where, message.format(path))
        for where, path in sorted(missing.items())
    ]


def _is_there(source: str) -> bool:
    """Whether something is at a path, or for a pattern; of a URL nobody knows yet."""
    if "://" in source or os.path.exists(source):  # noqa: PTH110 - as above
        return True
    return bool(glob.glob(source, recursive=True))  # noqa: PTH207 - a whole path


def _shares(policy: Policy) -> object:
    """Return what is sampled of which range; ranges don't matter to those who don't."""
    return policy.traffic.sample and (policy.regimes, policy.sample_shares)


_SHARED: dict[str, Callable[[Policy], object]] = {
    "baseline": lambda policy: variant_name(policy.baseline),
    "traffic.source": lambda policy: policy.traffic.source,
    "traffic.format": lambda policy: policy.traffic.format,
    "traffic.speed": lambda policy: policy.traffic.speed,
    "traffic.limit": lambda policy: policy.traffic.limit,
    "traffic.columns": lambda policy: policy.traffic.columns,
    "traffic.follow": lambda policy: policy.traffic.follow,
    "traffic.loop": lambda policy: policy.traffic.loop,
    "traffic.crop": lambda policy: policy.traffic.crop,
    "traffic.sample": _shares,
    "traffic.rate": lambda policy: policy.traffic.rate_rps,
    "traffic.tick_spread": lambda policy: policy.traffic.tick_spread,
    "traffic.max_in_flight": lambda policy: policy.traffic.max_in_flight,
    "traffic.on_overload": lambda policy: policy.traffic.on_overload,
    "traffic.max_output_tokens": lambda policy: policy.traffic.max_output_tokens,
    "placement": lambda policy: policy.placement,
    "schedule": lambda policy: policy.schedule,
    "traffic.timeout": lambda policy: policy.traffic.timeout_s,
}


def comparable(policies: Sequence[Policy]) -> None:
    """Make sure that one run can serve all of `policies`: same baseline and traffic.

    Raises:
        PolicyError: Two have one name, or differ in what they must share; it says in
            what and where.
    """
    faults = []
    named: dict[str, Policy] = {}
    for policy in policies:
        other = named.setdefault(policy.name, policy)
        if other is not policy:
            message = f"{_link(other, 'name')} has this name too; write another"
            faults.append(fault_at(policy, "name", message))
        for where, value in _SHARED.items():
            if value(policy) != value(policies[0]):
                message = (
                    f"differs from {_link(policies[0], where)}, but the policies of a "
                    "run share baseline and traffic; write the same, or run them apart"
                )
                faults.append(fault_at(policy, where, message))
    if faults:
        raise PolicyError(_in_order(faults, [policy.path for policy in policies]))


def _link(policy: Policy, where: str) -> str:
    fault = fault_at(policy, where, "")
    return f"{fault.file}:{fault.line}"


def _in_order(faults: Iterable[Fault], files: list[str]) -> tuple[Fault, ...]:
    def key(fault: Fault) -> tuple[object, ...]:
        order = files.index(fault.file) if fault.file in files else len(files)
        place = (fault.file, fault.line, fault.column)
        return (order, *place, fault.where, fault.message)

    return tuple(sorted(faults, key=key))


def _load(path: Path, folders: Sequence[str]) -> tuple[Policy | None, list[Fault]]:
    source = read_source(path)
    if source.root is None:
        return None, list(source.faults)
    written = document(source.root, complete=source.complete)
    text = source.text
    if source.extends:
        text = yaml.safe_dump(written.data, sort_keys=False, allow_unicode=True)
    for role in ("baseline", "candidate"):
        _find_tables(written.data.get(role), Place(str(path), 1, 1), folders)
    policy, faults = build(written)
    if policy is None or source.faults:
        return None, [*source.faults, *faults]
    place = written.places["traffic.source"]
    trace = _found(policy.traffic.source, place, folders)
    validation = tuple(
        _found(name, written.places[f"validation[{index}]"], folders)
        for index, name in enumerate(policy.validation)
    )
    changes = {
        "traffic": policy.traffic.model_copy(update={"source": trace}),
        "validation": validation,
        "path": str(path),
        "text": text,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "places": written.places,
    }
    return policy.model_copy(update=changes), []


def _find_tables(spec: object, place: Place, folders: Sequence[str]) -> None:
    """Let each table file that an attention pattern names lead to where it is."""
    if not isinstance(spec, dict):
        return
    for key, value in spec.items():
        if key == "table_file" and isinstance(value, str):
            spec[key] = _found(value, place, folders)
        else:
            _find_tables(value, place, folders)


def _found(name: str, place: Place, folders: Sequence[str]) -> str:
    """Return where a named file is: from here, beside its policy, or one above."""
    for known in folders:
        if "://" not in name and _is_there(os.path.join(known, name)):  # noqa: PTH118 - as above
            return os.path.join(known, name)  # noqa: PTH118 - as above
    if _is_there(name):
        return name
    folder = Path(place.file).parent
    for root in (folder, folder.absolute().parent):
        if _is_there(str(root / name)):
            return str(root / name)
    return name
