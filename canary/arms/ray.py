"""Arms in Ray actors: a process each, on a local Ray or on a cluster.

Durations are measured inside the actor and only durations travel, so Ray's own
milliseconds are in no result. Ray's retries are off: they would answer twice.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from canary.arms.base import Arm, ArmDiedError, Completion
from canary.arms.local import Build
from canary.arms.server import ArmServer, late
from canary.errors import ArmError
from canary.evidence.observation import Status
from canary.policy.model import VariantSpec
from canary.traffic.request import Request

_KNOCK_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 120.0
# An arm finds out itself that an answer was late; only one that hangs is waited for
# longer than its time.
_HANG_S = 5.0


class _ArmActor:
    """Runs in the actor's process."""

    def __init__(self, spec: VariantSpec, build: Build, timeout_s: float) -> None:
        self._server = ArmServer(
            build(spec),
            clock=time.perf_counter,
            own_process=True,
            timeout_s=timeout_s,
        )

    def serve(self, request: Request) -> Completion:
        return self._server.serve(request)

    def describe(self) -> dict[str, str]:
        return self._server.describe()


class RayArm:
    """One variant in a Ray actor."""

    def __init__(
        self, name: str, start: Callable[[], Any], *, timeout_s: float
    ) -> None:
        self.name = name
        self._start = start
        self._timeout_s = timeout_s
        self._actor = start()

    def serve(self, request: Request) -> Completion:
        """Answer one request in the actor.

        Raises:
            ArmDiedError: The actor's process died, or hangs.
        """
        began_s = time.perf_counter()
        try:
            answer = self._actor.serve.remote(request)
            completion: Completion = ray.get(answer, timeout=self._timeout_s + _HANG_S)
        except GetTimeoutError as error:
            took_s = time.perf_counter() - began_s
            said = late(took_s, self._timeout_s)
            raise self._died(Status.TIMEOUT, took_s, said) from error
        except RayError as error:
            took_s = time.perf_counter() - began_s
            said = f"the arm's process died: {_first_line(error)}"
            raise self._died(Status.ERROR, took_s, said) from error
        return completion

    def _died(self, status: Status, took_s: float, said: str) -> ArmDiedError:
        completion = Completion(
            status=status, service_s=took_s, device="unknown", error=said
        )
        return ArmDiedError(f"{self.name}: {said}", completion)

    def describe(self) -> dict[str, str]:
        """Return what the variant says of itself, in its own process.

        Raises:
            ArmError: The variant can't be loaded, or not within two minutes.
        """
        try:
            facts: dict[str, str] = ray.get(
                self._actor.describe.remote(), timeout=_START_TIMEOUT_S
            )
        except GetTimeoutError as error:
            raise ArmError(
                f"arm {self.name} did not start within {_START_TIMEOUT_S:.0f} s; see "
                "whether the cluster has room for it (ray status)"
            ) from error
        except RayError as error:
            raise ArmError(
                f"arm {self.name} can't be started: {_first_line(error)}"
            ) from error
        return facts

    def restart(self) -> None:
        """Put a fresh actor in the place of the one that died.

        Raises:
            ArmError: It can't be started any more.
        """
        self.close()
        self._actor = self._start()
        self.describe()

    def close(self) -> None:
        """End the actor's process."""
        ray.kill(self._actor)


@contextmanager
def ray_cluster(address: str | None) -> Iterator[str]:
    """Join the cluster at `address` (or RAY_ADDRESS), or start one here for a while.

    Yields:
        Where it runs, in words.

    Raises:
        ArmError: No cluster answers at the address, or none can be started here.
    """
    wanted = address or os.environ.get("RAY_ADDRESS")
    try:
        _reach(wanted)
        ray.init(
            address=wanted or "local",
            include_dashboard=None if wanted else False,
            configure_logging=True,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except (RayError, OSError, RuntimeError, ValueError) as error:
        where = f"at {wanted}" if wanted else "on this machine"
        raise ArmError(
            f"no Ray {where} ({_first_line(error)}); "
            "check the address, or run in this process with --local"
        ) from error
    try:
        yield f"Ray cluster at {wanted}" if wanted else "Ray on this machine"
    finally:
        ray.shutdown()


def _reach(address: str | None) -> None:
    """Knock before Ray does: it would keep trying a closed port for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_TIMEOUT_S).close()


def start_ray_arms(
    specs: Mapping[str, VariantSpec], *, build: Build, timeout_s: float
) -> dict[str, Arm]:
    """Start one actor for each variant; Ray must be there (`ray_cluster`).

    The arms take turns, so each may use all cores, where Ray would hold an actor to
    those that it reserves, and if there is a GPU each gets an equal share of one: to
    Ray a share is a place on the card, not a limit.

    Raises:
        ArmError: A variant can't be loaded in its actor, or not within two minutes.
    """
    threads = str(os.cpu_count() or 1)
    remote: Any = ray.remote(_ArmActor)
    actor_class = remote.options(
        num_cpus=0,
        num_gpus=_gpu_share(len(specs)),
        max_restarts=0,
        max_task_retries=0,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": threads}},
    )
    # All of them first, so that they load side by side.
    arms = {
        name: RayArm(
            name,
            partial(actor_class.remote, spec, build, timeout_s),
            timeout_s=timeout_s,
        )
        for name, spec in specs.items()
    }
    for arm in arms.values():
        arm.describe()
    return dict(arms)


def _gpu_share(arms: int) -> float:
    """Return the share of one GPU for each arm, rounded down to what Ray can count."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray leaves it so
    if not resources.get("GPU"):
        return 0.0
    return int(10_000 / arms) / 10_000


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
