"""From what an arm made of a request to the row that is recorded of it."""

from canary.arms.base import Completion
from canary.evidence.observation import Observation
from canary.traffic.request import Request
from canary.variants.scoring import score


def prompt_size(request: Request) -> int:
    """Return the prompt's tokens, or its words where it is text: known beforehand."""
    if request.blocks is not None:
        return request.blocks.length_tokens
    return len((request.text or "").split())


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
    """
    made = completion.generation
    answered = made is not None and queue_s is not None
    wait_s = queue_s or 0.0
    tpot_s = None
    if made is not None and made.output_tokens >= 2:
        tpot_s = (made.end_s - made.first_token_s) / (made.output_tokens - 1)
    scored = made is not None and made.answer is not None and request.kind == "quality"
    return Observation(
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
        score=score(made.answer or "", request.target, request.scorer)
        if made and scored
        else None,
        ttft_s=wait_s + made.first_token_s if made and answered else None,
        ttft_send_s=made.first_token_s if made else None,
        tpot_s=tpot_s,
        queue_s=queue_s,
        service_s=completion.service_s,
        latency_s=wait_s + completion.service_s if answered else None,
        output_tokens=made.output_tokens if made else None,
        peak_memory_bytes=completion.peak_memory_bytes,
        density=made.density if made else None,
        kernel="+".join(made.kernels) if made else None,
        device=completion.device,
        attempt=attempt,
        warm=warm,
        weight=request.weight,
        order=order,
        answer=made.answer if made else None,
        error=completion.error,
    )
