"""One unit of traffic, as the plan fixes it and as every arm receives it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from canary.traffic.shard import Shard

Kind = Literal["quality", "latency", "live"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBlocks:
    """A prompt of exactly `length_tokens` tokens, for traces that carry lengths only.

    Each block id stands for `block_tokens` token ids that depend on the id and `seed`
    alone, so that two prompts that share ids share a real prefix; `seed` is therefore
    the run's, not the request's. The last block may be partial. What no block id covers
    is drawn from the request's own id. `canary.traffic.seeds.token_blocks` does it.
    """

    length_tokens: int
    block_ids: tuple[str, ...] = ()
    block_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one arm is asked to do. All arms receive the same value.

    Exactly one of `text`, `messages` (a chat's messages as JSON text) and `blocks` is
    set. A request of kind ``quality`` has a `target` and is scored; its answer ends by
    itself within `max_output_tokens`. One of kind ``latency`` always produces exactly
    `max_output_tokens`, the length that was recorded, so that an arm that stops early
    does not look fast. One of kind ``live`` is recorded text: its answer ends by
    itself, and nobody knows the right one.

    `turn` counts from 0 within the session. A turn after the first is due at its
    arrival, but not before the answer to the one before it is there and `think_s` have
    passed since.
    """

    request_id: str
    kind: Kind
    arrival_s: float
    max_output_tokens: int
    text: str | None = None
    messages: str | None = None
    blocks: TokenBlocks | None = None
    target: tuple[str, ...] = ()
    scorer: str = "exact"
    stop: tuple[str, ...] = ()
    session_id: str | None = None
    turn: int = 0
    think_s: float = 0.0
    task: str | None = None
    group: str | None = None
    weight: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every request of a run in order of arrival: immutable, made before the first.

    `arm_orders[i]` seeds the order in which the arms answer request `i`.
    `sha256` is the hash of all of it but `notes`, which say in words what was filtered
    and why; of a `shard` it is that of the whole. `recipe` is what
    `canary.traffic.plan.with_speed` needs; `asked` says which requests are of kind
    ``quality``, if that is known.
    """

    requests: Sequence[Request] = field(compare=False, repr=False)
    arm_orders: Sequence[int] = field(compare=False, repr=False)
    seed: int
    sha256: str
    speed: float
    notes: tuple[str, ...] = ()
    recipe: object = field(default=None, compare=False, repr=False)
    asked: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    shard: "Shard | None" = None

    @cached_property
    def questions(self) -> tuple[Request, ...]:
        """The requests of kind ``quality``."""
        if self.asked is not None:
            return tuple(self.requests[index] for index in self.asked)
        return tuple(r for r in self.requests if r.kind == "quality")
