"""Which keys a query may see: attention patterns as small frozen values.

Each rule defines visibility once, as a band by position or as lists of blocks, from
which every kernel works. Everything is causal: a query at position i never sees a key
j > i, whatever the rule. Nothing here imports torch until a table is asked for.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from canary.attention.band import FAR, Band
from canary.errors import AttentionError

if TYPE_CHECKING:
    import torch

    from canary.attention.masks import Mask, Table
    from canary.attention.memory import Memory


class PatternSpecError(AttentionError):
    """An attention spec that says something else than a pattern.

    `where` is the path of keys from the spec's root to what is wrong, as text, so that
    a policy file can be pointed at by line; `message` is the sentence without it.
    """

    def __init__(self, message: str, where: tuple[str, ...] = ()) -> None:
        super().__init__(message, where)
        self.message = message
        self.where = where

    def __str__(self) -> str:
        """Return ``layers.0-2.window: sentence``."""
        return f"{'.'.join(self.where)}: {self.message}" if self.where else self.message


class Look(NamedTuple):
    """One call of attention, as far as a rule needs it to say what is seen.

    `q` (B, H, Tq, D) and `k` (B, Hkv, Tkv, D) are there where a call is made; without
    them only rules that don't choose by them can answer.
    """

    q_len: int
    kv_len: int
    layer: int
    heads: int
    device: "torch.device"
    q: "torch.Tensor | None" = None
    k: "torch.Tensor | None" = None
    memory: "Memory | None" = None

    @property
    def prompt_tokens(self) -> int:
        """Where the prompt ends: as remembered, or with this call."""
        if self.memory is None or self.memory.prompt_tokens is None:
            return self.kv_len
        return self.memory.prompt_tokens

    @property
    def decodes(self) -> bool:
        """Whether this is one query behind the prompt, or as good as that."""
        return self.q_len == 1


class Pattern(ABC):
    """What every layer of a model attends to. Frozen, hashable, equal by value.

    `str` of a pattern is its canonical short name, as arms and reports show it.
    """

    __slots__ = ()

    @abstractmethod
    def at(self, layer: int) -> "Rule":
        """Return the rule of one layer, counted from 0.

        Raises:
            AttentionError: The pattern says nothing about that layer.
        """

    def visible(
        self, q_len: int, kv_len: int, *, layer: int = 0, head: int = 0
    ) -> "torch.Tensor":
        """Return the table of what is seen: bool, (q_len, kv_len), on the CPU.

        Row i is the query at absolute position ``kv_len - q_len + i``, as in prefill
        (``q_len == kv_len``), chunked prefill and decode (``q_len == 1``). The call is
        taken to end the prompt. `head` is a query head.

        Raises:
            AttentionError: ``q_len`` is not within 1..kv_len, the pattern chooses by
                what queries and keys hold, or as `at`.
        """
        import torch  # noqa: PLC0415 - policies are checked without torch

        rule, look = self._look(q_len, kv_len, layer, head)
        seen = rule.mask(look).visible(torch.device("cpu"))[0]
        return seen[head if len(seen) > 1 else 0]

    def density(
        self, q_len: int, kv_len: int, *, layer: int = 0, head: int = 0
    ) -> float:
        """Return the visible share of the causal pairs, in (0, 1].

        Queries stand as in `visible`.

        Raises:
            AttentionError: As `visible`.
        """
        _check_lengths(q_len, kv_len)
        rule = self.at(layer).of_head(layer, head)
        if rule.table_free:
            seen = rule.band(kv_len).pairs(kv_len - q_len, kv_len)
        else:
            rule, look = self._look(q_len, kv_len, layer, head)
            counts = rule.mask(look).pairs()[0]
            seen = int(counts[head if len(counts) > 1 else 0])
        return seen / Band().pairs(kv_len - q_len, kv_len)

    def _look(
        self, q_len: int, kv_len: int, layer: int, head: int
    ) -> "tuple[Rule, Look]":
        import torch  # noqa: PLC0415 - as above

        _check_lengths(q_len, kv_len)
        rule = self.at(layer).of_head(layer, head)
        look = Look(q_len, kv_len, layer, head + 1, torch.device("cpu"))
        rule = rule.in_call(look)
        if rule.chooses:
            raise AttentionError(
                f"{rule} chooses by what queries and keys hold: ask attend() for the "
                "density, its evidence has it"
            )
        return rule, look


class Rule(Pattern):
    """One definition of visibility, the same in every layer that it is used for."""

    __slots__ = ()
    name: ClassVar[str]
    table_free: ClassVar[bool] = True
    """Whether the band says it all."""
    chooses: ClassVar[bool] = False
    """Whether what is seen depends on what queries and keys hold."""
    mixes: ClassVar[bool] = False
    """Whether heads of one layer differ in their rule."""

    def at(self, layer: int) -> "Rule":
        """Return this rule: it is the same in every layer."""
        if layer < 0:
            raise AttentionError(f"layers count from 0, got layer {layer}")
        return self

    def of_head(self, layer: int, head: int) -> "Rule":  # noqa: ARG002 - for rules that mix heads
        """Return the rule of one query head, if that is known beforehand."""
        return self

    def in_call(self, look: Look) -> "Rule":  # noqa: ARG002 - for rules that decode otherwise
        """Return what this rule is in a call: some decode densely."""
        return self

    @abstractmethod
    def band(self, prompt_tokens: int) -> Band:
        """Return what is seen by position alone, for a prompt of that length."""

    def table(self, look: Look) -> "Table | None":  # noqa: ARG002 - rules by position have none
        """Return the lists of blocks that are seen besides, if there are any."""
        return None

    def mask(self, look: Look) -> "Mask":
        """Return all that a call sees."""
        from canary.attention.masks import Mask  # noqa: PLC0415 - imports torch

        start = look.kv_len - look.q_len
        return Mask(self.band(look.prompt_tokens), start, look.kv_len, self.table(look))

    def kept(self) -> Band | None:
        """Return what a cache must keep for later queries; None: everything.

        Only windows with or without globals leave keys behind for good.
        """
        if self.mixes or not self.table_free:
            return None
        band = self.band(FAR)
        return band if band.max_keys is not None else None

    @property
    def weighs(self) -> "Rule | None":
        """The rule itself if it weighs scores otherwise than softmax does."""
        return None

    def __str__(self) -> str:
        """Return ``sliding_window(window=256)``; arguments in alphabetical order.

        Arguments that weren't written and have a default are left out.
        """
        said = sorted(
            (option.name, value)
            for option in fields(self)  # type: ignore[arg-type]  # every rule is a dataclass
            if option.init and (value := getattr(self, option.name)) != option.default
        )
        arguments = ",".join(f"{name}={value}" for name, value in said)
        return f"{self.name}({arguments})" if arguments else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense(Rule):
    """Every query sees every key up to its own."""

    name: ClassVar[str] = "dense"

    def band(self, prompt_tokens: int) -> Band:
        """See all that causality allows."""
        del prompt_tokens
        return Band()


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindow(Rule):
    """Every query sees the last `window` keys, its own included."""

    name: ClassVar[str] = "sliding_window"
    window: int

    def __post_init__(self) -> None:
        """Refuse a window without its own key."""
        check_count("window", self.window)

    def band(self, prompt_tokens: int) -> Band:
        """See a key less than a window back."""
        del prompt_tokens
        return Band(window=self.window)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGlobal(Rule):
    """Every query sees the last `window` keys and the first `global_tokens`.

    A-shape or attention sinks (Xiao et al., arXiv 2309.17453): globals are keys that
    all see; they do not see more than others, since nothing sees its future.
    """

    name: ClassVar[str] = "local_global"
    window: int
    global_tokens: int

    def __post_init__(self) -> None:
        """Refuse a window without its own key, and globals that are none."""
        check_count("window", self.window)
        check_count("global_tokens", self.global_tokens)

    def band(self, prompt_tokens: int) -> Band:
        """See a key less than a window back or among the first."""
        del prompt_tokens
        return Band(window=self.window, global_tokens=self.global_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class TriShape(Rule):
    """Window and globals in the prompt, but its last queries and decode see all.

    Tri-shape of SCBench (Li et al., arXiv 2412.10319): the question that stands last
    in a prompt reads all of it, and so does every token of the answer.
    """

    name: ClassVar[str] = "tri_shape"
    window: int
    global_tokens: int
    last_queries: int = 64

    def __post_init__(self) -> None:
        """Refuse a window without its own key, and globals or queries that are none."""
        for option in ("window", "global_tokens", "last_queries"):
            check_count(option, getattr(self, option))

    def band(self, prompt_tokens: int) -> Band:
        """See as local_global does before the last queries, and all from there on."""
        return Band(
            window=self.window,
            global_tokens=self.global_tokens,
            dense_from=max(0, prompt_tokens - self.last_queries),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Strided(Rule):
    """Every query sees the last `window` keys and every `stride`-th block before.

    Blocks of `block` keys at absolute multiples, the first one first, as in the fixed
    pattern of Child et al. (arXiv 1904.10509); `block: 1` takes every `stride`-th key.
    """

    name: ClassVar[str] = "strided"
    window: int
    stride: int
    block: int = 128

    def __post_init__(self) -> None:
        """Refuse windows, strides and blocks that are none."""
        for option in ("window", "stride", "block"):
            check_count(option, getattr(self, option))

    def band(self, prompt_tokens: int) -> Band:
        """See a key less than a window back or in a block that the stride meets."""
        del prompt_tokens
        return Band(window=self.window, stride=self.stride, stride_block=self.block)


def check_count(
    name: str, value: object, *, least: int = 1, what: str = "tokens"
) -> None:
    """Refuse what isn't a whole number from `least` to where positions end."""
    # Kernels keep positions in 32 bits.
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value < FAR:  # type: ignore[operator]  # it's an int
        raise PatternSpecError(
            f"expected a number of {what} from {least} to {FAR - 1}, got {value!r}",
            (name,),
        )


def _check_lengths(q_len: int, kv_len: int) -> None:
    if not 1 <= q_len <= kv_len:
        raise AttentionError(
            f"{q_len} queries on {kv_len} keys: expected 1 <= queries <= keys"
        )
