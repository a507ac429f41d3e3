"""Which keys a query may see: attention patterns as small frozen values.

Each rule defines visibility once, in `sees`, from which every mask is made; `max_keys`
and `key_ranges` say about it what a kernel needs to skip, and tests hold them to it.
Everything is causal: a query at position i never sees a key j > i, whatever the rule.
Nothing here imports torch until a table is asked for.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from canary.errors import AttentionError

if TYPE_CHECKING:
    import torch

Positions: TypeAlias = Any
"""Token positions from 0: an int, a numpy array or a torch tensor of integers."""

_MOST_TOKENS = 2**31 - 1

KeyRanges: TypeAlias = tuple[tuple[int, int], ...]
"""Half-open ranges of key positions, sorted, disjoint and never adjacent."""


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
        self,
        q_len: int,
        kv_len: int,
        *,
        layer: int = 0,
        head: int = 0,  # noqa: ARG002 - all rules so far treat heads alike
    ) -> "torch.Tensor":
        """Return the table of what is seen: bool, (q_len, kv_len), on the CPU.

        Row i is the query at absolute position ``kv_len - q_len + i``, as in prefill
        (``q_len == kv_len``), chunked prefill and decode (``q_len == 1``).

        Raises:
            AttentionError: ``q_len`` is not within 1..kv_len, or as `at`.
        """
        import torch  # noqa: PLC0415 - policies are checked without torch

        _check_lengths(q_len, kv_len)
        i = torch.arange(kv_len - q_len, kv_len)[:, None]
        j = torch.arange(kv_len)
        seen: torch.Tensor = self.at(layer).sees(i, j) & (j <= i)
        return seen

    def density(
        self,
        q_len: int,
        kv_len: int,
        *,
        layer: int = 0,
        head: int = 0,  # noqa: ARG002 - all rules so far treat heads alike
    ) -> float:
        """Return the visible share of the causal pairs, in (0, 1]; no table is made.

        Queries stand as in `visible`.

        Raises:
            AttentionError: ``q_len`` is not within 1..kv_len, or as `at`.
        """
        _check_lengths(q_len, kv_len)
        rule, before = self.at(layer), kv_len - q_len
        seen = _pairs(kv_len, rule.max_keys) - _pairs(before, rule.max_keys)
        return seen / (_pairs(kv_len, None) - _pairs(before, None))


class Rule(Pattern):
    """One definition of visibility, the same in every layer that it is used for.

    Kernels that skip may rely on this: queries from position `max_keys` on look alike.
    Blocks of equally many such queries have key ranges of equal lengths, and the same
    table of visibility over the keys of those ranges.
    """

    __slots__ = ()
    name: ClassVar[str]

    def at(self, layer: int) -> "Rule":
        """Return this rule: it is the same in every layer."""
        if layer < 0:
            raise AttentionError(f"layers count from 0, got layer {layer}")
        return self

    @abstractmethod
    def sees(self, i: Positions, j: Positions) -> Positions:
        """Tell which queries at i see which keys at j, broadcast; j <= i is assumed."""

    @property
    @abstractmethod
    def max_keys(self) -> int | None:
        """The most keys that a query sees: exactly min(i + 1, max_keys); None: all."""

    @abstractmethod
    def key_ranges(self, start: int, stop: int) -> KeyRanges:
        """Return the keys that the queries [start, stop) see between them, no others.

        For one query these are exactly its keys. Needs 0 <= start < stop.
        """

    def __str__(self) -> str:
        """Return ``sliding_window(window=256)``; arguments in alphabetical order."""
        names = sorted(option.name for option in fields(self))  # type: ignore[arg-type]  # every rule is a dataclass
        arguments = ",".join(f"{name}={getattr(self, name)}" for name in names)
        return f"{self.name}({arguments})" if arguments else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense(Rule):
    """Every query sees every key up to its own."""

    name: ClassVar[str] = "dense"

    def sees(self, i: Positions, j: Positions) -> Positions:
        """See all that causality allows."""
        return j <= i

    @property
    def max_keys(self) -> int | None:
        """No bound."""
        return None

    def key_ranges(self, start: int, stop: int) -> KeyRanges:
        """Return everything up to the last query."""
        del start
        return ((0, stop),)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindow(Rule):
    """Every query sees the last `window` keys, its own included."""

    name: ClassVar[str] = "sliding_window"
    window: int

    def __post_init__(self) -> None:
        """Refuse a window without its own key."""
        _check_tokens("window", self.window)

    def sees(self, i: Positions, j: Positions) -> Positions:
        """See a key less than a window back."""
        return i - j < self.window

    @property
    def max_keys(self) -> int:
        """A full window."""
        return self.window

    def key_ranges(self, start: int, stop: int) -> KeyRanges:
        """Return from the first query's oldest key to the last query."""
        return ((max(0, start - self.window + 1), stop),)


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
        _check_tokens("window", self.window)
        _check_tokens("global_tokens", self.global_tokens)

    def sees(self, i: Positions, j: Positions) -> Positions:
        """See a key less than a window back or among the first."""
        return (i - j < self.window) | (j < self.global_tokens)

    @property
    def max_keys(self) -> int:
        """A full window beyond the globals."""
        return self.window + self.global_tokens

    def key_ranges(self, start: int, stop: int) -> KeyRanges:
        """Return the globals and the windows, as one range where they touch."""
        oldest = start - self.window + 1
        if oldest <= self.global_tokens:
            return ((0, stop),)
        return ((0, self.global_tokens), (oldest, stop))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers(Pattern):
    """A rule per layer: `parts` of (first layer, last layer, rule), then the `rest`.

    Parts are kept sorted, so that mixes that mean the same are equal and named alike.
    Without a rest the parts must leave no gap, and layers after them are refused.
    """

    parts: tuple[tuple[int, int, Rule], ...]
    rest: Rule | None = None

    def __post_init__(self) -> None:
        """Sort the parts; refuse overlaps, and gaps that nothing fills."""
        parts = tuple(sorted(self.parts, key=lambda part: part[:2]))
        object.__setattr__(self, "parts", parts)
        if not parts and self.rest is None:
            raise PatternSpecError(
                "names no layer; write for example rest: dense", ("layers",)
            )
        for first, last, _ in parts:
            if not 0 <= first <= last:
                raise PatternSpecError(
                    f"expected layers from 0 in ascending order, got {first}-{last}",
                    ("layers", _span(first, last)),
                )
        free = 0
        for n, (first, last, _) in enumerate(parts):
            if first < free:
                other = _span(*parts[n - 1][:2])
                raise PatternSpecError(
                    f"overlaps with {other}; each layer has one pattern",
                    ("layers", _span(first, last)),
                )
            if first > free and self.rest is None:
                raise PatternSpecError(
                    f"{_span(free, first - 1)} left out; name every layer or add rest, "
                    "for example rest: dense",
                    ("layers",),
                )
            free = last + 1

    def at(self, layer: int) -> Rule:
        """Return the rule of one layer, counted from 0."""
        for first, last, rule in self.parts:
            if first <= layer <= last:
                return rule
        if self.rest is None or layer < 0:
            raise AttentionError(
                f"{self} says nothing about layer {layer}; name it or add rest"
            )
        return self.rest

    def __str__(self) -> str:
        """Return ``0-2:sliding_window(window=256)+rest:dense``, by layer, rest last."""
        names = [f"{_span(first, last)}:{rule}" for first, last, rule in self.parts]
        if self.rest is not None:
            names.append(f"rest:{self.rest}")
        return "+".join(names)


def _check_tokens(name: str, value: int) -> None:
    # Positions are 64-bit integers in the tables: an open end would overflow there.
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not 1 <= value <= _MOST_TOKENS:
        raise PatternSpecError(
            f"expected a number of tokens from 1 to {_MOST_TOKENS}, got {value!r}",
            (name,),
        )


def _check_lengths(q_len: int, kv_len: int) -> None:
    if not 1 <= q_len <= kv_len:
        raise AttentionError(
            f"{q_len} queries on {kv_len} keys: expected 1 <= queries <= keys"
        )


def _pairs(n_queries: int, max_keys: int | None) -> int:
    """Count what the first queries see, when query i sees min(i + 1, max_keys)."""
    growing = n_queries if max_keys is None else min(n_queries, max_keys)
    return growing * (growing + 1) // 2 + (n_queries - growing) * (max_keys or 0)


def _span(first: int, last: int) -> str:
    """Name a range of layers as a policy writes it: ``3`` or ``0-2``."""
    return str(first) if first == last else f"{first}-{last}"
