"""Servers as arms: asked one at a time while warming up, all at once in a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from canary.answers import prompt_size
from canary.arms.base import Arm, Completion, OneDevice, ReplicaSet
from canary.arms.endpoint.base import Endpoint
from canary.arms.endpoint.sender import EndpointSender
from canary.errors import ArmError
from canary.evidence.observation import Status
from canary.losses import Losses
from canary.policy.model import VariantSpec
from canary.traffic.request import Request

_KNOCK_TIMEOUT_S = 30.0


@dataclass(slots=True)
class EndpointArm:
    """A server that runs elsewhere; `sender`, which all arms share, sends to it."""

    name: str
    endpoint: Endpoint
    sender: EndpointSender
    epoch: int = 0

    def serve(self, request: Request) -> Completion:
        """Ask now, and wait for the answer; whatever goes wrong is the answer."""
        return self.sender.ask(self.name, request)

    def check(self) -> None:
        """Nothing: where a server elsewhere runs isn't ours to know."""

    def restart(self) -> None:
        """Refuse: a server elsewhere isn't ours to start.

        Raises:
            ArmError: Always.
        """
        raise ArmError(f"{self.name} is a server elsewhere, which can't be restarted")

    def describe(self) -> dict[str, str]:
        """Return what is known of it: its address and what it calls the model."""
        return {
            "device": f"endpoint {self.endpoint.address()}",
            "model": self.endpoint.model,
        }

    def close(self) -> None:
        """End the process that sends."""
        self.sender.close()


def start_endpoint_arms(
    specs: Mapping[str, VariantSpec],
    *,
    timeout_s: float,
    max_in_flight: int,
    on_overload: Literal["queue", "shed"],
    epochs: Mapping[str, int] = MappingProxyType({}),
    losses: Losses | None = None,
) -> list[ReplicaSet]:
    """Start the process that sends to all of them.

    Raises:
        ArmError: An address is none, or the process can't be started.
    """
    del epochs, losses  # of what we start and may lose
    endpoints = {
        name: Endpoint(
            url=spec.model, model=spec.served_model or "", api_key_env=spec.api_key_env
        )
        for name, spec in specs.items()
    }
    sender = EndpointSender(
        endpoints,
        timeout_s=timeout_s,
        max_in_flight=max_in_flight,
        on_overload=on_overload,
    )
    sender.start()
    arms = {
        name: EndpointArm(name, endpoint, sender)
        for name, endpoint in endpoints.items()
    }
    return [OneDevice(arms)]


def knock(arms: Mapping[str, Arm], requests: Sequence[Request]) -> None:
    """Ask each server for a token, twice if need be, before anything counts on it.

    A server that answers nothing at all is a wrong address, not a bad variant: waiting
    for it through a whole warm-up would take hours.

    Args:
        arms: All arms; those that aren't servers are left alone.
        requests: The shortest of them is asked.

    Raises:
        ArmError: One didn't answer within half a minute.
    """
    servers = [arm for arm in arms.values() if isinstance(arm, EndpointArm)]
    if not servers:
        return
    request = replace(min(requests, key=prompt_size), max_output_tokens=1)
    sender = EndpointSender(
        {arm.name: arm.endpoint for arm in servers},
        timeout_s=_KNOCK_TIMEOUT_S,
        max_in_flight=1,
        on_overload="queue",
    )
    with sender:
        for arm in servers:
            found = sender.ask(arm.name, request)
            if found.status is Status.ERROR:
                found = sender.ask(arm.name, request)
            if found.status is not Status.OK:
                raise ArmError(
                    f"{arm.name} doesn't answer: {found.error}; see whether "
                    f"{arm.endpoint.url} is right and runs"
                )
