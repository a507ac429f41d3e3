"""The few lengths that kernels on CUDA are run at; prompts are padded to the next one.

cuDNN builds a plan for every new length, which took 40 to 65 ms on an H200: more than
reading the prompt. Eight lengths an octave are few enough to build all plans before the
first request, and pad by 12.5 % at most.
"""

import torch
from torch.nn.functional import pad

BLOCK_TOKENS = 128
"""All lengths are multiples of it."""


def padded_length(tokens: int) -> int:
    """Return the next length, at least `tokens`, that kernels on CUDA are run at."""
    step = max(BLOCK_TOKENS, 1 << (tokens - 1).bit_length() >> 4)
    return -(-tokens // step) * step


def warm_lengths(most_tokens: int) -> tuple[int, ...]:
    """Return all of these lengths up to the one that holds `most_tokens`.

    Whoever has run `attend` once at each of them, at the batch size, heads and dtype of
    its model and in the autograd mode that it serves in, has all compiled and planned
    that prompts up to `most_tokens` need.
    """
    lengths = []
    length = 0
    while length < most_tokens:
        length = padded_length(length + 1)
        lengths.append(length)
    return tuple(lengths)


def padded(x: torch.Tensor, front: int, back: int) -> torch.Tensor:
    """Pad the tokens of (B, H, T, D) with zeros, in memory order (B, T, H, D).

    Nothing is copied where nothing is to be padded.
    """
    tokens = x.transpose(1, 2)
    if front or back:
        tokens = pad(tokens, (0, 0, 0, 0, front, back))
    elif len(tokens) == 1:
        # A view of a longer cache has an odd stride for its only batch entry; plans and
        # compiled forms are told apart by strides.
        tokens = tokens[0][None]
    return tokens.transpose(1, 2)
