"""What this machine can run, and whether its kernels compute what they should."""

import platform
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from canary.attention.check import Check, Device

_COMPILERS = ("c++", "g++", "clang++")
_PACKAGES = ("torch", "ray", "triton")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What `examine` found. `versions` has None for what isn't installed."""

    versions: dict[str, str | None]
    devices: "tuple[Device, ...]"
    checks: "tuple[Check, ...]"

    @property
    def agrees(self) -> bool:
        """Whether all kernels that ran gave what the reference gives."""
        return not any(check.disagrees for check in self.checks)

    @property
    def limits(self) -> list[str]:
        """Say in a sentence each what can't run here, and why."""
        said = []
        if self.versions["ray"] is None:
            said.append("Ray isn't installed: `canary run` needs --local.")
        if len(self.devices) == 1:
            said.append(
                "There is no CUDA device, so cuDNN and flash attention can't run and "
                "flex attention runs op by op: exact, but slow."
            )
        said += [
            f"Without Triton flex attention isn't compiled on {device.device}, and auto"
            " runs sparse rules by blocked."
            for device in self.devices[1:]
            if not device.compiles
        ]
        for (kernel, device, dtype), group in groupby(
            sorted((c for c in self.checks if c.problem), key=_place), _place
        ):
            problem = next(group).problem
            said.append(f"{kernel} can't run on {device} in {dtype}: {problem}")
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for machines; errors that are no numbers become None."""
        return {
            "schema": "canary.doctor/1",
            "agrees": self.agrees,
            "versions": self.versions,
            "devices": [asdict(device) for device in self.devices],
            "checks": [
                {**asdict(check), "disagrees": check.disagrees} for check in self.checks
            ],
            "limits": self.limits,
        }


def examine() -> Examination:
    """Look at this machine and run every kernel on small tensors."""
    from canary.attention.check import check_kernels, devices  # noqa: PLC0415 - torch

    found = devices()
    compiler = next((name for name in _COMPILERS if shutil.which(name)), None)
    return Examination(
        versions={
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
            "c++ compiler": compiler,
        },
        devices=found,
        checks=tuple(
            check for device in found for check in check_kernels(device.device)
        ),
    )


def render(found: Examination, console: Console) -> None:
    """Print it for people."""
    for name, value in found.versions.items():
        console.print(f"{name:13} {value or 'not installed'}", highlight=False)
    for device in found.devices:
        size = device.memory_bytes
        memory = "" if size is None else f", {size / 2**30:.0f} GiB"
        console.print(f"{device.device:13} {device.name}{memory}", highlight=False)
    console.print(_table(found.checks))
    console.print("What auto picks:")
    for check in _served(found.checks):
        where = f"{check.device:7}{check.phase:8}{check.pattern:15}"
        why = check.reason.removeprefix("auto: ")
        console.print(f"  {where}{check.ran:14} {why}", highlight=False, soft_wrap=True)
    for sentence in found.limits:
        console.print(sentence, highlight=False, soft_wrap=True)
    wrong = sum(check.disagrees for check in found.checks)
    console.print(
        "Every kernel that runs here agrees with the reference."
        if found.agrees
        else f"{wrong} checks disagree with the reference: don't trust runs from here."
    )


def _place(check: "Check") -> tuple[str, str, str]:
    return check.kernel, check.device, check.dtype


def _table(checks: "tuple[Check, ...]") -> Table:
    """Show the largest error of each kernel and pattern, red where it is too large."""
    patterns = list(dict.fromkeys(check.pattern for check in checks))
    title = "Largest difference from the reference in float64"
    table = Table("device", "dtype", "phase", "kernel", *patterns, "bar", title=title)
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    bars: dict[tuple[str, ...], str] = {}
    for check in checks:
        if check.error is not None and check.kernel != "auto":
            row = check.device, check.dtype, check.phase, check.ran
            colour = "[red]" if check.disagrees else ""
            rows.setdefault(row, {})[check.pattern] = f"{colour}{check.error:.1e}"
            bars[row] = f"{check.bar:.0e}"
    for place, errors in rows.items():
        cells = [errors.get(pattern, "-") for pattern in patterns]
        table.add_row(*place, *cells, bars[place])
    return table


def _served(checks: "Iterable[Check]") -> "list[Check]":
    """Return what auto picked in the dtype that each device serves in: its first."""
    first: dict[str, str] = {}
    return [
        check
        for check in checks
        if check.kernel == "auto"
        and check.dtype == first.setdefault(check.device, check.dtype)
    ]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
