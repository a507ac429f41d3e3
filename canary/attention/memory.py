"""What attention remembers of one request between its calls."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from canary.attention.choosing import KeyBlocks


@dataclass(slots=True)
class Memory:
    """Pass one to every call of `attend` for the same request, or none at all.

    `prompt_tokens` says where the prompt ends: what comes in the same calls behind it
    is padding, which nothing may be chosen by. None: with each call of more than one
    query. The rest is what layers find out for themselves: bounds of the blocks of keys
    that are complete, so that a token needn't read all keys to choose among them, and
    which heads a prompt made sparse.
    """

    prompt_tokens: int | None = None
    blocks: "dict[int, KeyBlocks]" = field(default_factory=dict)
    sparse_heads: "dict[int, torch.Tensor]" = field(default_factory=dict)
