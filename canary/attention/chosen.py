"""Blocks of keys that are chosen at run time, by what queries and keys hold."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from canary.attention.band import Band
from canary.attention.rules import Dense, Look, PatternSpecError, Rule, check_count
from canary.attention.tables import check_block

if TYPE_CHECKING:
    from canary.attention.masks import Table

_ALWAYS = 3


class _Chosen(Rule):
    __slots__ = ()
    table_free: ClassVar[bool] = False
    chooses: ClassVar[bool] = True

    def band(self, prompt_tokens: int) -> Band:
        """See one's own key; the choice says the rest."""
        del prompt_tokens
        return Band(window=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenBlocks(_Chosen):
    """The `blocks` most promising blocks: the first, one's own, the one before, others.

    `choose: bounds` ranks a block by the most that a query's score could be on it, from
    the least and largest value of its keys in each dimension (Quest, Tang et al., arXiv
    2406.10774, algorithm 1); `choose: mean` by the score of the mean key. `per: block`
    (of queries) takes the best of any query's bound, or the mean query, once for the
    whole block: what prefill kernels are quick at. `per: query` lets each query choose
    for itself, so that prefill, chunks and decode agree; decode always does.
    """

    name: ClassVar[str] = "block_sparse"
    choose: str
    blocks: int
    block: int = 64
    per: str = "block"

    def __post_init__(self) -> None:
        """Refuse ways of choosing that there aren't, and less than three blocks."""
        check_block(self.block)
        check_count("blocks", self.blocks, least=_ALWAYS, what="blocks")
        check_one_of("choose", self.choose, ("bounds", "mean"))
        check_one_of("per", self.per, ("block", "query"))

    def table(self, look: Look) -> "Table":
        """Choose for the queries of this call."""
        from canary.attention.choosing import best_blocks  # noqa: PLC0415 - imports torch

        return best_blocks(self, look)


@dataclass(frozen=True, slots=True, kw_only=True)
class AntidiagonalBlocks(_Chosen):
    """The fewest blocks that hold `mass` of the attention, as antidiagonals tell it.

    XAttention (Xu et al., arXiv 2503.16428): in each block of the score matrix every
    `stride`-th antidiagonal is summed, these sums are softmaxed over a row, and blocks
    are taken by their share until `mass` is reached. The first block and one's own are
    always taken. Only prompts are sparse: decode sees all, as in the paper.
    """

    name: ClassVar[str] = "block_sparse"
    choose: str
    mass: float = 0.9
    block: int = 128
    stride: int = 16

    def __post_init__(self) -> None:
        """Refuse a share that is none and strides that don't fit the block."""
        check_block(self.block)
        check_one_of("choose", self.choose, ("antidiagonal",))
        check_share("mass", self.mass)
        check_count("stride", self.stride)
        if self.block % self.stride:
            raise PatternSpecError(
                f"{self.stride} doesn't divide the block of {self.block} tokens",
                ("stride",),
            )

    def in_call(self, look: Look) -> Rule:
        """Decode densely."""
        return Dense() if look.decodes else self

    def table(self, look: Look) -> "Table":
        """Choose for the queries of this call."""
        from canary.attention.choosing import antidiagonal_blocks  # noqa: PLC0415 - imports torch

        return antidiagonal_blocks(self, look)


def check_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """Refuse a word that isn't one of these."""
    if value not in known:
        raise PatternSpecError(f"expected {' or '.join(known)}, got {value!r}", (name,))


def check_share(name: str, value: object) -> None:
    """Refuse what isn't a share within (0, 1]."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= 1:  # type: ignore[operator]  # it's a number
        raise PatternSpecError(
            f"expected a share above 0 and up to 100%, got {value!r}; write 90%",
            (name,),
        )
