"""The Ray Jobs API: submitting runs to a cluster, finding them there, stopping them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from canary.errors import ArmError, UsageError
from canary.submit import Submission, attempt_id, attempt_number, next_attempt

_FOLDER = "canary_folder"
_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A job that attempts a run; `state` is Ray's word for what it does."""

    id: str
    number: int
    state: str
    folder: str

    @property
    def over(self) -> bool:
        """Whether Ray is done with it."""
        return self.state in _ENDED


class Jobs:
    """The jobs of one Ray cluster.

    Args:
        address: Of its dashboard, such as ``http://head:8265``.

    Raises:
        ArmError: Nobody answers there, or Ray lacks what its Jobs API needs.
    """

    def __init__(self, address: str) -> None:
        if not address.startswith(("http://", "https://")):
            raise UsageError(
                f"--address {address}: jobs are submitted to a cluster's dashboard; "
                "write for example http://head:8265"
            )
        self._address = address
        try:
            from ray.job_submission import JobSubmissionClient  # noqa: PLC0415
        except ImportError as error:
            raise self._no_api(error) from error
        self._client: Any = self._asked(lambda: JobSubmissionClient(address))

    def attempts(self, run: str) -> list[Attempt]:
        """Return the attempts of a run, whatever folder it has, the oldest first."""
        found = []
        for job in self._asked(self._client.list_jobs):
            number = attempt_number(run, job.submission_id or "")
            if number is not None:
                folder = (job.metadata or {}).get(_FOLDER, "")
                state = str(job.status.value)
                found.append(
                    Attempt(
                        id=job.submission_id, number=number, state=state, folder=folder
                    )
                )
        return sorted(found, key=lambda attempt: attempt.number)

    def submit(self, wanted: Submission) -> str:
        """Submit the next attempt of a run; return its submission id.

        Raises:
            UsageError: An attempt is under way.
        """
        known = self.attempts(wanted.run)
        folder = str(wanted.folder)
        for attempt in known:
            if not attempt.over and attempt.folder == folder:
                raise UsageError(
                    f"{folder}: {attempt.id} is {attempt.state.lower()} there already; "
                    f"follow it with `canary watch {folder}`, or stop it with "
                    f"`canary stop {folder} --address {self._address}`"
                )
        number = next_attempt(wanted.run, [attempt.id for attempt in known])
        submitted: str = self._asked(
            lambda: self._client.submit_job(
                entrypoint=wanted.entrypoint,
                submission_id=attempt_id(wanted.run, number),
                metadata={_FOLDER: folder},
            )
        )
        return submitted

    def stop(self, attempt: Attempt) -> None:
        """Let Ray stop an attempt: SIGTERM, and three seconds later SIGKILL."""
        self._asked(lambda: self._client.stop_job(attempt.id))

    def _asked(self, ask: Callable[[], Answer]) -> Answer:
        try:
            return ask()
        except ImportError as error:
            raise self._no_api(error) from error
        except (ConnectionError, RuntimeError, OSError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = lines[-1] if lines else type(error).__name__
            raise ArmError(
                f"the Ray dashboard at {self._address} can't do that ({said}); see "
                "whether the address is right and the cluster runs"
            ) from error

    def _no_api(self, error: ImportError) -> ArmError:
        return ArmError(
            f"Ray's Jobs API can't be used here ({error}); "
            "install it with `pip install 'ray[default]'`"
        )
