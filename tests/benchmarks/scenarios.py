"""What the candidate of a simulated week is in truth, and which verdicts are wrong.

A candidate that is just at a limit must not be promoted (it is as bad as one that
breaks it), and must not be rolled back (the limit holds): whichever verdict comes,
comes by chance.
"""

from dataclasses import dataclass

from streams import HOUR_S, KINDS, WEEK_S, Truth, ratio_that_adds, scaled
from usual_judges import Limits

from canary.policy.model import Policy

BLOCK = "auto"
OVER_S, OVER_MARGIN = 3.0, 0.005
LONG_MARGIN = 0.05
ALPHA = 0.05

NO_PROMOTION = frozenset({"promote"})
NO_ROLLBACK = frozenset({"rollback"})
NEITHER = NO_PROMOTION | NO_ROLLBACK


LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One truth, the limits that it is held against, and the verdicts that are wrong.

    The limits that are not in `limits` are the same in all scenarios; see `policy_of`.
    """

    name: str
    truth: Truth
    wrong: frozenset
    limits: Limits = LIMITS
    kinds: tuple = KINDS

    def is_wrong(self, outcome):
        """Whether a verdict is wrong, or was said before there was anything to say."""
        early = outcome.verdict == "rollback" and outcome.elapsed_s < self.truth.from_s
        return early or outcome.verdict in self.wrong


def policy_of(limits):
    """Return a policy with six gates that looks every hour of a week."""
    gates = [
        {"metric": "accuracy", "margin": limits.loss},
        {"metric": "accuracy", "regime": "32k-128k", "margin": LONG_MARGIN},
        {"metric": "latency", "quantile": "p50", "max_ratio": limits.ratio},
        {"metric": "latency", "quantile": "p99", "max_ratio": limits.tail_ratio},
        {"metric": "latency", "over": f"{OVER_S}s", "margin": OVER_MARGIN},
        {"metric": "errors", "margin": 0.01},
    ]
    return Policy.model_validate(
        {
            "version": 1,
            "name": "week",
            "baseline": {"model": "reference", "attention": "dense"},
            "candidate": {
                "model": "reference",
                "attention": {"pattern": "sliding_window", "window": 256},
            },
            "traffic": {"source": "trace.csv"},
            "validation": ["items.jsonl"],
            "gates": [
                {**gate, "margin": f"{100 * gate['margin']:g}%"}
                if "margin" in gate
                else gate
                for gate in gates
            ],
            "decision": {
                "alpha": f"{100 * ALPHA:g}%",
                "harm_alpha": f"{100 * ALPHA:g}%",
                "min_duration": f"{limits.min_duration_s / HOUR_S:g}h",
                "max_duration": f"{WEEK_S / HOUR_S:g}h",
                "look_every": "1h",
                "block": BLOCK,
            },
        }
    )


# Above the baseline's band, so that exactly OVER_MARGIN more requests are over OVER_S.
_MIDDLE = ratio_that_adds(OVER_MARGIN, OVER_S)

NULLS = (
    Scenario(name="equal", truth=Truth(), wrong=NO_ROLLBACK),
    Scenario(
        name="p50 at its limit, rest 10 % faster",
        truth=Truth(body=1.05, middle=0.9, tail=0.9),
        wrong=NEITHER,
    ),
    Scenario(
        name="p99 at its limit, rest 15 % faster",
        truth=Truth(body=0.85, middle=0.85, tail=1.05),
        wrong=NEITHER,
    ),
    Scenario(
        name="accuracy at its limit, 15 % faster",
        truth=scaled(0.85, loss=0.01),
        wrong=NEITHER,
    ),
    Scenario(
        name="all of these at their limits",
        truth=Truth(body=1.05, middle=_MIDDLE, tail=1.05, loss=0.01),
        wrong=NEITHER,
    ),
)
"""Where error rates are measured."""

_SOME = ("independent", "ar")

POWER = (
    Scenario(name="15 % faster", truth=scaled(0.85), wrong=NO_ROLLBACK),
    Scenario(
        name="p99 5 % slower, limit 1.00",
        truth=Truth(tail=1.05),
        limits=Limits(tail_ratio=1.0),
        wrong=NO_PROMOTION,
        kinds=_SOME,
    ),
    Scenario(
        name="p99 20 % slower",
        truth=Truth(tail=1.2),
        wrong=NO_PROMOTION,
        kinds=_SOME,
    ),
    Scenario(
        name="1 point lost, limit 0.5",
        truth=Truth(loss=0.01),
        limits=Limits(loss=0.005),
        wrong=NO_PROMOTION,
        kinds=_SOME,
    ),
    Scenario(
        name="3 points lost",
        truth=Truth(loss=0.03),
        wrong=NO_PROMOTION,
        kinds=_SOME,
    ),
    Scenario(
        name="9 points lost above 32k tokens",
        truth=Truth(long_loss=0.09),
        wrong=NO_PROMOTION,
        kinds=_SOME,
    ),
    Scenario(
        name="20 % slower from day five (hour 96)",
        truth=scaled(1.2, from_s=96 * HOUR_S),
        limits=Limits(min_duration_s=WEEK_S),
        wrong=NO_PROMOTION,
        kinds=_SOME,
    ),
    Scenario(
        name="2 % of requests 3 times slower",
        truth=Truth(slow_share=0.02),
        wrong=NO_PROMOTION,
        kinds=_SOME,
    ),
)
"""What a good judge finds, and how soon."""
