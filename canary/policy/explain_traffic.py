"""What a policy sends, in sentences, for `canary validate`."""

from canary.policy.model import Policy
from canary.policy.traffic import REST, LoadTarget, Traffic
from canary.policy.units import (
    duration_text,
    factor_text,
    rate_text,
    share_text,
    tokens_text,
)


def traffic_sentences(policy: Policy) -> list[str]:
    """Return which requests are sent, when, and to how many at a time."""
    traffic = policy.traffic
    if traffic.follow:
        told = [_live(traffic)]
    else:
        told = [f"It replays {_recorded(traffic)}.", *_shaped(traffic)]
    if traffic.sample is not None:
        told.append(f"Of the sessions it sends a sample: {_shares(traffic.sample)}.")
    if policy.baseline.is_endpoint:
        over = {"queue": "more wait, which counts as latency"}
        over["shed"] = "a request that finds that many is sent to no arm, and counted"
        told.append(
            f"A server gets at most {traffic.max_in_flight:,} requests at a time; "
            f"{over[traffic.on_overload]}. One that waits for "
            f"{duration_text(traffic.timeout_s)} is never sent and has failed, too."
        )
    return told


def _shares(sample: dict[str, float]) -> str:
    if list(sample) == [REST]:
        return share_text(sample[REST])
    return ", ".join(f"{share_text(v)} of {k}" for k, v in sample.items())


def _live(traffic: Traffic) -> str:
    return (
        f"It follows the live traffic that {traffic.source} records, a few seconds "
        f"behind{_answers(traffic)}; {_late(traffic)}. Where the ingress keeps lengths "
        "only, prompts are made up: then times, errors and memory can be judged, "
        "whether answers are right can't."
    )


def _recorded(traffic: Traffic) -> str:
    limit = traffic.limit
    first = "the" if limit.requests is None else f"the first {limit.requests:,}"
    lengths = [
        f"at most {tokens_text(tokens)} {what} tokens"
        for what, tokens in (
            ("prompt", limit.prompt_tokens),
            ("output", limit.output_tokens),
        )
        if tokens is not None
    ]
    rows = f" with {' and '.join(lengths)}" if lengths else ""
    if isinstance(traffic.speed, LoadTarget):
        share = share_text(traffic.speed.baseline_load)
        speed = f"as fast as keeps the baseline alone busy {share} of the time"
    else:
        speed = f"at {factor_text(traffic.speed)} the recorded speed"
    source = f"{traffic.source}{rows}{_answers(traffic)}"
    return f"{first} requests of {source}, {speed}; {_late(traffic)}"


def _answers(traffic: Traffic) -> str:
    if traffic.max_output_tokens is None:
        return ""
    return f" (answers cut to {tokens_text(traffic.max_output_tokens)} tokens)"


def _late(traffic: Traffic) -> str:
    return f"one of over {duration_text(traffic.timeout_s)} has failed"


def _shaped(traffic: Traffic) -> list[str]:
    told = []
    if traffic.crop is not None:
        begin, length = traffic.crop.from_s, traffic.crop.for_s
        until = "" if length is None else f" to {duration_text(begin + length)}"
        told.append(f"Sessions count that begin from {duration_text(begin)}{until}.")
    if traffic.rate_rps is not None:
        rate = rate_text(traffic.rate_rps)
        told.append(f"Sessions are left out at random until {rate} remain.")
    if traffic.tick_spread == "auto":
        told.append("Arrivals are spread over the ticks of a coarse clock.")
    elif traffic.tick_spread:
        tick = duration_text(float(traffic.tick_spread))
        told.append(f"Arrivals are spread over ticks of {tick}.")
    if traffic.loop:
        told.append("The trace begins again at its end, with prompts of its own.")
    return told
