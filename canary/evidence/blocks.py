"""Which base block of the run's time each request counts in."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from canary.stats.betting import Floats

Ints = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]

_KEPT = 10_000


def block_of(arrived_s: Floats, length_s: float) -> Ints:
    """Return the block of each arrival: k from `length_s` * k on, shape (n,)."""
    blocks = np.floor(arrived_s / length_s)
    # The quotient may be rounded across a boundary; the product decides.
    blocks += length_s * (blocks + 1) <= arrived_s
    blocks -= length_s * blocks > arrived_s
    return blocks.astype(np.int64)


@dataclass(slots=True)
class SessionBlocks:
    """Puts a session's requests in the block of its first one.

    What comes after that block's deadline, `linger_s` after its end, begins anew in the
    block of its own arrival: a block that has closed has closed. Requests must come in
    order of arrival.
    """

    length_s: float
    linger_s: float
    _anchors: dict[str, int] = field(default_factory=dict)

    def blocks(self, arrived_s: Floats, sessions: Texts) -> Ints:
        """Return the block of each request; no session is the empty text."""
        blocks = block_of(arrived_s, self.length_s)
        named = np.flatnonzero(sessions != "")
        for index in named.tolist():
            session, own = sessions[index], int(blocks[index])
            anchor = self._anchors.get(session)
            if anchor is None or arrived_s[index] >= self._deadline_s(anchor):
                self._anchors[session] = own
            else:
                blocks[index] = anchor
        if len(named):
            self._forget(float(arrived_s[-1]))
        return blocks

    def closed(self, now_s: float) -> int:
        """Return how many blocks have passed their deadline at a time of the run."""
        passed_s = np.array([max(now_s - self.linger_s, 0.0)])
        closed = int(block_of(passed_s, self.length_s)[0])
        # The difference may be rounded across a deadline; the deadline decides.
        closed += now_s >= self._deadline_s(closed)
        closed -= closed > 0 and now_s < self._deadline_s(closed - 1)
        return closed

    def _deadline_s(self, block: int) -> float:
        return self.length_s * (block + 1) + self.linger_s

    def _forget(self, now_s: float) -> None:
        if len(self._anchors) > 2 * _KEPT:
            self._anchors = {
                session: block
                for session, block in self._anchors.items()
                if now_s < self._deadline_s(block)
            }
