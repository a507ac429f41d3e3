"""What this machine can run, whether its kernels are right, and which patterns pay."""

import math
import platform
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canary.attention.check import Check, Device, Refusal
    from canary.attention.speed import Speed

_COMPILERS = ("c++", "g++", "clang++")
_PACKAGES = ("torch", "ray", "triton", "xformers")
_INSTALLS = {"xformers": "pip install xformers==0.0.35"}
"""What to type for a kernel's library that torch doesn't bring along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What `examine` found. `versions` has None for what isn't installed."""

    versions: dict[str, str | None]
    devices: "tuple[Device, ...]"
    checks: "tuple[Check, ...]"
    refusals: "tuple[Refusal, ...]"
    speed: "tuple[Speed, ...]"

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
        said += self._refused()
        for (kernel, device, dtype), group in groupby(
            sorted((c for c in self.checks if c.problem), key=place), place
        ):
            problem = next(group).problem
            said.append(f"{kernel} can't run on {device} in {dtype}: {problem}")
        untimed: dict[str, str] = {}
        for row in self.speed:
            if row.problem:
                what = f"{row.pattern} can't be timed on {row.device}"
                untimed.setdefault(f"{what}: {row.problem}", f"{row.tokens} tokens")
        said += [f"At {tokens} {sentence}" for sentence, tokens in untimed.items()]
        return said

    def _refused(self) -> list[str]:
        """Say what kernels aren't made for; alike ones in one sentence."""
        alike: dict[tuple[str, str], list[Refusal]] = {}
        for refusal in self.refusals:
            alike.setdefault((refusal.kernel, refusal.reason), []).append(refusal)
        return [
            f"{kernel} can't run {self._where(group)}: {_why(kernel, reason)}"
            for (kernel, reason), group in alike.items()
        ]

    def _where(self, group: "list[Refusal]") -> str:
        """Return which patterns, phases, dtypes and devices; what is all isn't said."""
        first, checks = group[0], self.checks
        said = ""
        if first.pattern is not None:
            patterns = dict.fromkeys(str(refusal.pattern) for refusal in group)
            others = {check.pattern for check in checks} - set(patterns)
            said += f"{'sparse patterns' if others == {'dense'} else _and(patterns)} "
            phases = dict.fromkeys(str(refusal.phase) for refusal in group)
            if len(phases) < len({check.phase for check in checks}):
                said += f"in {_and(phases)} "
        devices = dict.fromkeys(refusal.device for refusal in group)
        dtypes = dict.fromkeys(refusal.dtype for refusal in group)
        ran = {check.dtype for check in checks if check.device in devices}
        if first.pattern is None and len(dtypes) < len(ran):
            said += f"in {_and(dtypes)} "
        return said + (
            "here" if len(devices) == len(self.devices) else f"on {_and(devices)}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for machines; errors that are no numbers become None."""
        return {
            "schema": "canary.doctor/1",
            "agrees": self.agrees,
            "versions": self.versions,
            "devices": [asdict(device) for device in self.devices],
            "checks": [
                {
                    **asdict(check),
                    "error": None if check.error == math.inf else check.error,
                    "disagrees": check.disagrees,
                }
                for check in self.checks
            ],
            "limits": self.limits,
            "speed": [
                {**asdict(row), "times_faster": row.times_faster, "pays": row.pays}
                for row in self.speed
            ],
        }


def examine() -> Examination:
    """Look at this machine, run every kernel on small tensors, and time patterns."""
    from canary.attention.check import (  # noqa: PLC0415 - torch
        Check,
        Refusal,
        check_kernels,
        cudnn_version,
        devices,
    )
    from canary.attention.speed import speed  # noqa: PLC0415 - torch

    found = devices()
    compiler = next((name for name in _COMPILERS if shutil.which(name)), None)
    results = [each for device in found for each in check_kernels(device.device)]
    return Examination(
        versions={
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
            "cudnn": cudnn_version(),
            "c++ compiler": compiler,
        },
        devices=found,
        checks=tuple(each for each in results if isinstance(each, Check)),
        refusals=tuple(each for each in results if isinstance(each, Refusal)),
        speed=tuple(row for device in found for row in speed(device.device)),
    )


def place(check: "Check") -> tuple[str, str, str]:
    """Return which kernel was checked, where, in what."""
    return check.kernel, check.device, check.dtype


def _why(kernel: str, reason: str) -> str:
    """Return the reason as the second half of a sentence about the kernel."""
    why = reason.removeprefix(f"{kernel} ")
    why = why if why == reason else f"it {why}"
    install = _INSTALLS.get(kernel) if "isn't installed" in reason else None
    return f"{why}; `{install}`" if install else f"{why}."


def _and(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
