"""The cluster itself: joined at an address, or started here for a while."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from canary.arms.ray.failures import first_line
from canary.errors import ArmError

_KNOCK_TIMEOUT_S = 5.0


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
            f"no Ray {where} ({first_line(error)}); "
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
