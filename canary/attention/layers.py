"""Patterns that differ by layer."""

from dataclasses import dataclass

from canary.attention.rules import Pattern, PatternSpecError, Rule
from canary.errors import AttentionError


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


def _span(first: int, last: int) -> str:
    """Name a range of layers as a policy writes it: ``3`` or ``0-2``."""
    return str(first) if first == last else f"{first}-{last}"
