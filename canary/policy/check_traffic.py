"""What must hold between the traffic of a policy and the rest of it."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from canary.errors import Fault
from canary.policy.model import Gate, VariantSpec, regime_names
from canary.policy.traffic import REST, LoadTarget, Traffic
from canary.policy.tree import Document, below
from canary.policy.wrong import nearest
from canary.traffic.names import NAMED_FORMATS

_NOT_LIVE = {
    "loop": ("loop", "live traffic doesn't begin again"),
    "crop": ("crop", "live traffic has no stretch to choose"),
    "rate_rps": ("rate", "live traffic is thinned by sample"),
    "tick_spread": ("tick_spread", "the ingress stamps microseconds"),
    "limit": ("limit", "live traffic is thinned by sample"),
    "speed": ("speed", "live traffic comes as fast as it comes"),
    "columns": ("columns", "the ingress names its own columns"),
}
_SERVERS_ONLY = ("max_in_flight", "on_overload")


def traffic_faults(
    traffic: Traffic, regimes: tuple[int, ...] | None, document: Document
) -> Iterator[Fault]:
    """Yield what can't be in a traffic section whose values are sound."""
    if regimes is not None:
        yield from _sample_faults(traffic, regime_names(regimes), document)
    if traffic.rate_rps is not None and isinstance(traffic.speed, LoadTarget):
        message = (
            "a rate and a load of the baseline both say how fast; remove one of them"
        )
        yield document.fault("traffic.rate", message)
    if traffic.columns is not None and traffic.format not in ("auto", *NAMED_FORMATS):
        message = f"{traffic.format} names its own columns; remove one of the two"
        yield document.fault("traffic.columns", message)
    if traffic.follow:
        yield from _follow_faults(traffic, document)


def endpoint_faults(
    baseline: VariantSpec, candidate: VariantSpec, document: Document
) -> Iterator[Fault]:
    """Yield what only servers, or only models of ours, may have."""
    for role, spec in (("baseline", baseline), ("candidate", candidate)):
        if spec.is_endpoint:
            if _says_too_much(spec.model):
                message = (
                    "an address ends with its path, and holds no user, password or "
                    "key; name the environment variable of the key in api_key_env"
                )
                yield document.fault(f"{role}.model", message)
            if spec.served_model is None:
                message = "a server must be asked by a name; write served_model: NAME"
                yield document.fault(role, message)
            if f"{role}.attention" in document.places:
                message = "a server's attention is its own business; remove it"
                yield document.fault(f"{role}.attention", message)
            continue
        for key in ("served_model", "api_key_env"):
            if f"{role}.{key}" in document.places:
                message = f"only a server has it, and {spec.model} is none; remove it"
                yield document.fault(f"{role}.{key}", message)
    if baseline.is_endpoint != candidate.is_endpoint:
        message = (
            "a server and a model in our own processes aren't measured alike; "
            "write servers for both, or models for both"
        )
        yield document.fault("candidate.model", message)


def _says_too_much(address: str) -> bool:
    parts = urlsplit(address)
    return "@" in parts.netloc or bool(parts.query or parts.fragment)


def place_faults(
    traffic: Traffic,
    gates: tuple[Gate | None, ...],
    *,
    endpoints: bool,
    document: Document,
) -> Iterator[Fault]:
    """Yield what can't be asked of servers, or of models in our own processes."""
    if not endpoints:
        for key in _SERVERS_ONLY:
            if _differs(traffic, key):
                message = "models in our own processes take turns; remove it"
                yield document.fault(f"traffic.{key}", message)
        return
    if isinstance(traffic.speed, LoadTarget):
        message = (
            "how busy a server is can't be told from outside; "
            "write a factor such as 1x, or rate: 2/s"
        )
        yield document.fault("traffic.speed", message)
    for index, gate in enumerate(gates):
        if gate is not None and gate.metric == "memory":
            message = "a server doesn't tell its memory; remove this limit"
            yield document.fault(below("gates", index), message)


def _sample_faults(
    traffic: Traffic, names: tuple[str, ...], document: Document
) -> Iterator[Fault]:
    sample = traffic.sample
    if sample is None:
        return
    for name in sample:
        if name not in (*names, REST):
            message = f"no regime of this name; {nearest(name, (*names, REST))}"
            yield document.fault(below("traffic.sample", name), message)
    missing = [name for name in names if name not in sample]
    if missing and REST not in sample:
        message = f"says nothing of {', '.join(missing)}; add them, or rest: 100%"
        yield document.fault("traffic.sample", message)
    elif not any(sample.values()):
        message = "a share of 0% of everything sends nothing; write for example 10%"
        yield document.fault("traffic.sample", message)


def _follow_faults(traffic: Traffic, document: Document) -> Iterator[Fault]:
    for name, (key, why) in _NOT_LIVE.items():
        if _differs(traffic, name):
            yield document.fault(f"traffic.{key}", f"{why}; remove it, or follow")
    if traffic.max_output_tokens is None:
        message = (
            "a mirrored request doesn't say how long its answer was; "
            "add max_output_tokens: 256, or another length, to traffic"
        )
        yield document.fault("traffic.follow", message)
    if traffic.format not in ("auto", "ingress"):
        message = "only what `canary ingress` records can be followed; remove it"
        yield document.fault("traffic.format", message)


def _differs(traffic: Traffic, name: str) -> bool:
    """Whether a value isn't the default: written out, that says nothing."""
    return bool(getattr(traffic, name) != Traffic.model_fields[name].default)
