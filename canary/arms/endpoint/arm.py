"""Servers as arms: asked one at a time while warming up, all at once in a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from canary.arms.base import Arm, Completion
from canary.arms.endpoint.base import Endpoint
from canary.arms.endpoint.sender import EndpointSender
from canary.errors import ArmError
from canary.policy.model import VariantSpec
from canary.traffic.request import Request


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
) -> dict[str, Arm]:
    """Start the process that sends to all of them.

    Raises:
        ArmError: An address is none, or the process can't be started.
    """
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
    return {
        name: EndpointArm(name, endpoint, sender)
        for name, endpoint in endpoints.items()
    }
