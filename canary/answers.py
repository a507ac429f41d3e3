"""From what an arm made of a request to the row that is recorded of it."""

from dataclasses import replace
from typing import Any, NamedTuple

from canary.arms.base import Completion
from canary.evidence.observation import Observation, Status
from canary.traffic.request import Request
from canary.variants.base import Generation
from canary.variants.scoring import score


def prompt_size(request: Request) -> int:
    """Return the prompt's tokens, or its words where it is text: known beforehand."""
    if request.blocks is not None:
        return request.blocks.length_tokens
    return len((request.text or request.messages or "").split())


def observation(
    request: Request,
    arm: str,
    completion: Completion,
    *,
    queue_s: float | None = None,
    order: int | None = None,
    attempt: int = 1,
    group_items: int | None = None,
    warm: bool = False,
    send_lag_s: float | None = None,
) -> Observation:
    """Return the row of one arm and request.

    Args:
        request: What was asked.
        arm: Who answered.
        completion: What came of it.
        queue_s: How long it waited in the arm's own queue. None where that isn't
            known: then times that count from the arrival aren't either.
        order: Which of the arms it was to be asked.
        attempt: How many times the request was sent.
        group_items: How many items the request's group will have.
        warm: Whether it belongs to a warm-up and counts nowhere.
        send_lag_s: How much later than it could have been sent it was sent.
    """
    made = completion.generation
    times = _times(made, queue_s)
    return Observation(
        **_of(request),
        arm=arm,
        status=completion.status,
        prompt_tokens=made.prompt_tokens if made else prompt_size(request),
        group_items=group_items,
        score=_score(request, made) if made else None,
        queue_s=queue_s,
        send_lag_s=send_lag_s,
        service_s=completion.service_s,
        ttft_s=times.first_token_s,
        ttft_send_s=made.first_token_s if made else None,
        tpot_s=times.further_token_s,
        latency_s=times.end_s,
        output_tokens=made.output_tokens if made else None,
        peak_memory_bytes=completion.peak_memory_bytes,
        density=made.density if made else None,
        density_min=made.density_min if made else None,
        density_max=made.density_max if made else None,
        compiles=made.compiles if made else None,
        kernel="+".join(made.kernels) if made else None,
        device=completion.device,
        epoch=completion.epoch,
        attempt=attempt,
        warm=warm,
        order=order,
        answer=made.answer if made else None,
        error=completion.error,
    )


def unsent(request: Request, arm: str) -> Observation:
    """Return the row of a request that was shed: no arm got it."""
    return Observation(
        **_of(request),
        arm=arm,
        status=Status.SHED,
        prompt_tokens=prompt_size(request),
    )


def void(request: Request, arm: str, why: str, *, epoch: int) -> Observation:
    """Return the row of a request that counts for no arm: what they ran on was lost.

    `why` begins with the cause, up to a colon; `epoch` is that of the lost arm.
    """
    return replace(unsent(request, arm), status=Status.VOID, epoch=epoch, error=why)


def _of(request: Request) -> dict[str, Any]:
    """What a row says of the request, whatever came of it."""
    return {
        "request_id": request.request_id,
        "arrived_s": request.arrival_s,
        "kind": request.kind,
        "session_id": request.session_id,
        "group": request.group,
        "task": request.task,
        "weight": request.weight,
    }


def _score(request: Request, made: Generation) -> float | None:
    if made.answer is None or request.kind != "quality":
        return None
    return score(made.answer, request.target, request.scorer)


class _Times(NamedTuple):
    """Of an answer, as far as they are known; first token and end from the arrival."""

    first_token_s: float | None = None
    further_token_s: float | None = None
    end_s: float | None = None


def _times(made: Generation | None, queue_s: float | None) -> _Times:
    if made is None:
        return _Times()
    further_token_s = None
    if made.output_tokens >= 2:
        later_s = made.end_s - made.first_token_s
        further_token_s = later_s / (made.output_tokens - 1)
    if queue_s is None:
        return _Times(further_token_s=further_token_s)
    return _Times(queue_s + made.first_token_s, further_token_s, queue_s + made.end_s)
