"""Patterns that weigh scores otherwise than softmax does.

They stand on top of any pattern that says what is seen: `within`, dense by default. Put
on weights that were trained with softmax they break a model; they are for models
trained with them, and as candidates that must be rolled back.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from canary.attention.band import Band
from canary.attention.chosen import check_one_of, check_share
from canary.attention.rules import Dense, Look, PatternSpecError, Rule

if TYPE_CHECKING:
    from canary.attention.masks import Table


DENSE = Dense()


class Weighing(Rule):
    """A rule that sees what `within` sees, and weighs it in a way of its own."""

    __slots__ = ()
    within: Rule

    @property
    def table_free(self) -> bool:  # type: ignore[override]  # depends on what's within
        """As what is within."""
        return self.within.table_free

    @property
    def chooses(self) -> bool:  # type: ignore[override]  # as above
        """As what is within."""
        return self.within.chooses

    @property
    def weighs(self) -> "Rule":
        """This rule."""
        return self

    def in_call(self, look: Look) -> Rule:
        """See what is seen within in such a call; weigh as ever."""
        within = self.within.in_call(look)
        return self if within is self.within else self._around(within)

    def _around(self, within: Rule) -> Rule:
        from dataclasses import replace  # noqa: PLC0415 - its only use

        return replace(self, within=within)  # type: ignore[type-var]  # every rule is a dataclass

    def band(self, prompt_tokens: int) -> Band:
        """See what is seen within."""
        return self.within.band(prompt_tokens)

    def table(self, look: Look) -> "Table | None":
        """See what is seen within."""
        return self.within.table(look)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relu(Weighing):
    """Weigh a key by how far its score is above a threshold; weights sum to one.

    ReLA (Zhang et al., arXiv 2104.07012), normalised by the sum as in Wortsman et al.
    (arXiv 2309.08586). A query whose scores all lie below attends to nothing: zero.
    """

    name: ClassVar[str] = "relu"
    threshold: float = 0.0
    within: Rule = DENSE

    def __post_init__(self) -> None:
        """Refuse a threshold that is no number, and weights on weights."""
        check_number("threshold", self.threshold)
        check_within(self.within)


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftThreshold(Weighing):
    """Take the threshold off each softmax share, and make the rest sum to one.

    Soft thresholding (Donoho, IEEE Trans. Inf. Theory 41, 1995) of the shares: keys
    with less than `threshold` of the attention count for nothing. A query all of whose
    shares lie below attends to nothing: zero.
    """

    name: ClassVar[str] = "soft_threshold"
    threshold: float
    within: Rule = DENSE

    def __post_init__(self) -> None:
        """Refuse a threshold that is no share, and weights on weights."""
        check_share("threshold", self.threshold)
        check_within(self.within)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperbolic(Weighing):
    """Softmax over minus `scale` times the distance in hyperbolic space.

    Queries and keys, divided by the fourth root of the head's width, become points of
    curvature ``-curvature``. `model: lorentz` takes them as the space-like part of a
    point on the hyperboloid (Nickel and Kiela, arXiv 1806.03417; HELM, arXiv
    2505.24722); `model: poincare` as tangent vectors at the origin of the ball, mapped
    exponentially (Ganea et al., arXiv 1805.09112), no farther than 6 from it: beyond,
    single precision can't tell points apart. Values are averaged as ever.
    """

    name: ClassVar[str] = "hyperbolic"
    model: str
    curvature: float = 1.0
    scale: float = 1.0
    within: Rule = DENSE

    def __post_init__(self) -> None:
        """Refuse other models, flat or spherical space, and weights on weights."""
        check_one_of("model", self.model, ("lorentz", "poincare"))
        for option in ("curvature", "scale"):
            check_number(option, getattr(self, option), above=0.0)
        check_within(self.within)


def check_number(name: str, value: object, *, above: float = float("-inf")) -> None:
    """Refuse what isn't a finite number above some other."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not above < value < float("inf"):  # type: ignore[operator]  # it's a number
        limit = "" if above == float("-inf") else f" above {above:g}"
        raise PatternSpecError(f"expected a number{limit}, got {value!r}", (name,))


def check_within(within: Rule) -> None:
    """Refuse patterns that only whole layers can have."""
    if within.weighs is not None or within.mixes:
        raise PatternSpecError(
            f"{within.name} can't stand within another; write what is seen, for "
            "example {pattern: sliding_window, window: 1024}",
            ("within",),
        )
