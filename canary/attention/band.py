"""What a query sees by its position alone, in five numbers that all kernels read."""

from typing import Any, NamedTuple, TypeAlias

import numpy as np

Positions: TypeAlias = Any
"""Token positions from 0: an int, a numpy array or a torch tensor of integers."""

KeyRanges: TypeAlias = tuple[tuple[int, int], ...]
"""Half-open ranges of key positions, sorted, disjoint and never adjacent."""

FAR = 2**31 - 1
"""A window that reaches everything; a position that no query reaches."""


class Band(NamedTuple):
    """The keys that a query at position i sees, never one beyond i.

    The last `window` keys, its own included; the first `global_tokens` keys; of the
    blocks of `stride_block` keys every `stride`-th, the first one first (0: none of
    them for being so); and from query `dense_from` on, all. No rule has both globals
    and a stride.
    """

    window: int = FAR
    global_tokens: int = 0
    dense_from: int = FAR
    stride: int = 0
    stride_block: int = 1

    def sees(self, i: Positions, j: Positions) -> Positions:
        """Tell which queries at i see which keys at j, broadcast; j <= i is assumed."""
        seen = (i - j < self.window) | (j < self.global_tokens) | (i >= self.dense_from)
        if self.stride:
            seen = seen | (j // self.stride_block % self.stride == 0)
        return seen

    def pairs(self, start: int, stop: int) -> int:
        """Count the keys that the queries [start, stop) see, all together."""
        i = np.arange(start, stop, dtype=np.int64)
        near = np.minimum(i + 1, self.window)
        far = np.minimum(i + 1 - near, self.global_tokens)
        if self.stride:
            cycles, rest = np.divmod(i + 1 - near, self.stride * self.stride_block)
            far = cycles * self.stride_block + np.minimum(rest, self.stride_block)
        return int(np.where(i >= self.dense_from, i + 1, near + far).sum())

    @property
    def max_keys(self) -> int | None:
        """The most keys that a query sees, if that is bounded; None: it isn't.

        Where it is, query i sees exactly min(i + 1, max_keys), and queries from there
        on look alike: blocks of equally many have key ranges of equal lengths.
        """
        if self.stride or self.dense_from < FAR or self.window == FAR:
            return None
        return self.window + self.global_tokens

    def hides(self, start: int, stop: int) -> bool:
        """Whether any of the queries [start, stop) misses a key of its past."""
        last = min(stop, self.dense_from) - 1
        if last < start:
            return False
        if not self.stride:
            return self.window + self.global_tokens <= last
        return self.pairs(last, last + 1) <= last

    def key_ranges(self, start: int, stop: int) -> KeyRanges:
        """Return the keys that the queries [start, stop) see between them, no others.

        For one query these are exactly its keys. Needs 0 <= start < stop.
        """
        oldest = max(0, start - self.window + 1)
        if stop > self.dense_from:
            oldest = 0
        if self.stride:
            return _with_strided(self, oldest, stop)
        if oldest <= self.global_tokens:
            return ((0, stop),)
        if not self.global_tokens:
            return ((oldest, stop),)
        return ((0, self.global_tokens), (oldest, stop))


def _with_strided(band: Band, oldest: int, stop: int) -> KeyRanges:
    """Return the strided blocks before `oldest`, then the window; joined if adjacent.

    Neighbouring blocks are never both strided unless all are.
    """
    size, period = band.stride_block, band.stride * band.stride_block
    if period == size:
        return ((0, stop),)
    far = [(low, min(low + size, oldest)) for low in range(0, oldest, period)]
    if far and far[-1][1] == oldest:
        oldest = far.pop()[0]
    # A query in the middle of a strided block sees it up to itself: by the window.
    return (*far, (oldest, stop))
