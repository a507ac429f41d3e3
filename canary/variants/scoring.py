"""How good an answer is, from 0 to 1. No torch: whoever takes answers scores them."""

from collections.abc import Sequence

from canary.traffic.validation import SCORERS


def score(answer: str, target: Sequence[str], scorer: str) -> float:
    """Return how well `answer` meets `target`, 0 or 1.

    White space counts as one space, and not at all at the ends; case counts.

    ``exact``: the answer is one of the targets. ``includes_any``: it contains one of
    them. ``includes_all``: it contains all of them.

    Raises:
        ValueError: There is no such scorer, or nothing to compare with.
    """
    if scorer not in SCORERS or not target:
        raise ValueError(f"can't score by {scorer!r} against {len(target)} targets")
    said = " ".join(answer.split())
    wanted = [" ".join(text.split()) for text in target]
    if scorer == "exact":
        return float(said in wanted)
    found = [text in said for text in wanted]
    return float(all(found) if scorer == "includes_all" else any(found))
