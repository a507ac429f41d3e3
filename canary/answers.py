"""From what an arm made of a request to the row that is recorded of it."""

from dataclasses import replace

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
    row = Observation(
        request_id=request.request_id,
        arm=arm,
        arrived_s=request.arrival_s,
        status=completion.status,
        prompt_tokens=made.prompt_tokens if made else prompt_size(request),
        kind=request.kind,
        session_id=request.session_id,
        group=request.group,
        group_items=group_items,
        task=request.task,
        queue_s=queue_s,
        send_lag_s=send_lag_s,
        service_s=completion.service_s,
        peak_memory_bytes=completion.peak_memory_bytes,
        device=completion.device,
        epoch=completion.epoch,
        attempt=attempt,
        warm=warm,
        weight=request.weight,
        order=order,
        error=completion.error,
    )
    if made is not None:
        _take(row, request, made)
    return row


def _take(row: Observation, request: Request, made: Generation) -> None:
    """Put into a row what the variant produced, its times from send and arrival."""
    row.score = _score(request, made)
    row.ttft_send_s = made.first_token_s
    if made.output_tokens >= 2:
        later_s = made.end_s - made.first_token_s
        row.tpot_s = later_s / (made.output_tokens - 1)
    if row.queue_s is not None:
        row.ttft_s = row.queue_s + made.first_token_s
        row.latency_s = row.queue_s + made.end_s
    row.output_tokens = made.output_tokens
    row.density = made.density
    row.density_min = made.density_min
    row.density_max = made.density_max
    row.compiles = made.compiles
    row.kernel = "+".join(made.kernels)
    row.answer = made.answer


def unsent(request: Request, arm: str) -> Observation:
    """Return the row of a request that was shed: no arm got it."""
    return Observation(
        request_id=request.request_id,
        arm=arm,
        arrived_s=request.arrival_s,
        status=Status.SHED,
        prompt_tokens=prompt_size(request),
        kind=request.kind,
        session_id=request.session_id,
        group=request.group,
        task=request.task,
        weight=request.weight,
    )


def void(request: Request, arm: str, why: str, *, epoch: int) -> Observation:
    """Return the row of a request that counts for no arm: what they ran on was lost.

    `why` begins with the cause, up to a colon; `epoch` is that of the lost arm.
    """
    return replace(unsent(request, arm), status=Status.VOID, epoch=epoch, error=why)


def _score(request: Request, made: Generation) -> float | None:
    if made.answer is None or request.kind != "quality":
        return None
    return score(made.answer, request.target, request.scorer)
