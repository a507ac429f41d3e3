"""One arm on the cluster: its actor, what comes back, and what failures mean."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayError

from canary.arms.base import ArmDiedError, ArmsLostError, Completion
from canary.arms.causes import Cause, Meaning
from canary.arms.ray.failures import NodeState, cause_of, first_line
from canary.arms.server import late
from canary.errors import ArmError
from canary.evidence.observation import Status
from canary.traffic.request import Request

if TYPE_CHECKING:
    from canary.arms.ray.replicas import RayReplicaSet

_START_TIMEOUT_S = 120.0
_STARTS = 3
# An arm finds out itself that an answer was late; only one that hangs is waited for
# longer than its time.
_HANG_S = 5.0
_REPLY_TIMEOUT_S = 5.0
# A cluster takes 5 health checks, 3 s apart, and some more to see that a node is gone.
_SETTLE_S = 45.0
_LOOK_AGAIN_S = 0.2


class RayArm:
    """One variant in a Ray actor, one of a replica set's."""

    def __init__(
        self, name: str, replicas: "RayReplicaSet", *, timeout_s: float, epoch: int
    ) -> None:
        self.name = name
        self.facts: dict[str, str] = {}
        self._replicas = replicas
        self._timeout_s = timeout_s
        self._actor: Any = None
        self._epoch = epoch - 1
        self._loading: Any = None

    @property
    def epoch(self) -> int:
        """How often the actor has been started anew in this run."""
        return self._epoch

    def serve(self, request: Request) -> Completion:
        """Answer one request in the actor.

        Raises:
            ArmDiedError: The actor's process died, or hangs.
            ArmsLostError: The node or the cluster failed, or somebody else's answer
                came back.
        """
        began_s = time.perf_counter()
        try:
            answer = self._actor.serve.remote(request)
            completion: Completion = ray.get(answer, timeout=self._timeout_s + _HANG_S)
        except RayError as error:
            took_s = time.perf_counter() - began_s
            return self._failed(error, took_s)
        if completion.epoch != self._epoch:
            why = f"{self.name} is at epoch {self._epoch}, not {completion.epoch}"
            raise self._replicas.lose(self.name, Cause.STALE_ANSWER, why)
        return completion

    def check(self) -> None:
        """See whether the node that all arms are on is to be taken away.

        Raises:
            ArmsLostError: It is.
        """
        self._replicas.check(self.name)

    def describe(self) -> dict[str, str]:
        """Return what the variant says of itself, in its own process.

        Raises:
            ArmError: It doesn't answer.
        """
        try:
            return self._ask()
        except RayError as error:
            raise ArmError(
                f"arm {self.name} doesn't say what it is: {first_line(error)}"
            ) from error

    def answers(self) -> bool:
        """Return whether the actor is there."""
        try:
            self.describe()
        except ArmError:
            return False
        return True

    def restart(self) -> None:
        """Put a fresh actor in the place of the one that died, or fresh ones in a new
        place if that is lost.

        Raises:
            ArmError: It can't be started any more.
            ArmsLostError: The place is lost, once more.
        """
        self._replicas.restart(self.name)

    def close(self) -> None:
        """End the actor's process."""
        self.kill()
        self._replicas.close(self.name)

    def kill(self) -> None:
        """End the actor's process, should there be one."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def begin(self) -> None:
        """Start a fresh actor, which begins to load the variant."""
        self.kill()
        self._epoch += 1
        self._actor = self._replicas.new_actor(self.name, self._epoch)
        self._loading = self._actor.load.remote()

    def wait_until_loaded(self) -> None:
        """Wait for the variant; a process that dies while it loads gets another try.

        Raises:
            ArmError: It can't be loaded, or not within two minutes.
            ArmsLostError: The place is lost.
        """
        for start in range(1, _STARTS + 1):
            try:
                self._wait_until_loaded()
            except ArmDiedError as died:
                if start == _STARTS:
                    raise ArmError(
                        f"arm {self.name} can't be started: its process died {start} "
                        f"times while it loaded, the last with {died}"
                    ) from died
                self.begin()
            else:
                return

    def _wait_until_loaded(self) -> None:
        until_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < until_s:
            try:
                ray.get(self._loading, timeout=_REPLY_TIMEOUT_S)
                self.facts = self._ask()
            except GetTimeoutError as error:
                if self._replicas.node() is not NodeState.LIVES:
                    raise self._not_loaded(error) from error
            except RayError as error:
                raise self._not_loaded(error) from error
            else:
                return
        raise ArmError(
            f"arm {self.name} did not start within {_START_TIMEOUT_S:.0f} s; see "
            "whether the cluster has room for it (ray status)"
        )

    def _not_loaded(self, error: RayError) -> ArmError:
        settled = self._settled(error)
        cause = self._cause_of(settled)
        if cause is None or cause.ruling.meaning is Meaning.OWN:
            return ArmError(f"arm {self.name} can't be started: {first_line(settled)}")
        return self._loss(cause, first_line(settled), 0.0)

    def _failed(self, error: RayError, took_s: float) -> Completion:
        """Return the arm's failure if it lives on; raise the loss if it doesn't."""
        settled = self._settled(error)
        cause = self._cause_of(settled)
        if cause is None:  # a bug of ours
            raise settled
        if cause is Cause.RAISED:
            return self._failure(Status.ERROR, took_s, first_line(settled))
        raise self._loss(cause, first_line(settled), took_s) from error

    def _loss(
        self, cause: Cause, why: str, took_s: float
    ) -> ArmDiedError | ArmsLostError:
        if cause.ruling.meaning is Meaning.NOBODYS:
            return self._replicas.lose(self.name, cause, why)
        status, said = Status.ERROR, f"{cause}: {why}"
        if cause is Cause.DEADLINE:
            status, said = Status.TIMEOUT, late(took_s, self._timeout_s)
        failure = self._failure(status, took_s, said)
        return ArmDiedError(f"{self.name}: {said}", failure, cause)

    def _failure(self, status: Status, took_s: float, said: str) -> Completion:
        return Completion(
            status=status,
            service_s=took_s,
            device=self.facts.get("device", "unknown"),
            error=said,
            epoch=self._epoch,
        )

    def _settled(self, error: RayError) -> RayError:
        """Wait until it shows whether process, node or only the connection failed."""
        if not isinstance(error, ActorUnavailableError | GetTimeoutError):
            return error
        until_s = time.monotonic() + _SETTLE_S
        while time.monotonic() < until_s:
            if self._replicas.node() is not NodeState.LIVES:
                return error
            try:
                self._ask()
            except ActorUnavailableError:
                time.sleep(_LOOK_AGAIN_S)
            except GetTimeoutError:
                continue
            except RayError as later:
                hung = isinstance(error, GetTimeoutError)
                return error if hung else later
            else:
                return error
        return error

    def _cause_of(self, error: RayError) -> Cause | None:
        survived = partial(self._replicas.others_survived, self.name)
        return cause_of(error, self._replicas.node(), others_survived=survived)

    def _ask(self) -> dict[str, str]:
        actor = self._actor
        if actor is None:  # it is just being started anew, by another arm's thread
            raise ArmError(f"arm {self.name} isn't there")
        told: dict[str, str] = ray.get(
            actor.describe.remote(), timeout=_REPLY_TIMEOUT_S
        )
        return told | self._replicas.described()
