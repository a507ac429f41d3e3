"""What must hold in the schedule and the hooks of a policy, and with the rest of it."""

import math
from collections.abc import Iterator

from canary.errors import Fault
from canary.policy.rules import DecisionRules
from canary.policy.schedule import Hooks, Schedule
from canary.policy.tree import Document, below
from canary.policy.units import duration_text

_WEEK_S = 7 * 86400.0


def schedule_faults(
    schedule: Schedule, rules: DecisionRules, document: Document
) -> Iterator[Fault]:
    """Yield why a run that sends at these hours only could never promote."""
    window = schedule.window
    if window is None:
        return
    weeks = math.ceil(rules.max_duration_s / _WEEK_S)
    most_s = min(rules.max_duration_s, weeks * window.open_s_per_week)
    if rules.min_duration_s <= most_s:
        return
    message = (
        f"min_duration ({duration_text(rules.min_duration_s)}) counts the hours at "
        f"which requests are sent, and {duration_text(rules.max_duration_s)} of wall "
        f"time have at most {duration_text(most_s)} of them; write a longer "
        "max_duration, a shorter min_duration, or more hours"
    )
    yield document.fault("schedule.only", message)


def hook_faults(hooks: Hooks, document: Document) -> Iterator[Fault]:
    """Yield the hooks that call nothing, and tokens for nobody."""
    for name in Hooks.model_fields:
        hook, where = getattr(hooks, name), below("hooks", name)
        if hook is None:
            continue
        if hook.webhook is None and hook.command is None:
            message = (
                "calls nothing; add webhook: https://... or command: [./act.sh], "
                "or remove it"
            )
            yield document.fault(where, message)
        elif hook.webhook is None and hook.token_env is not None:
            message = "only a webhook gets a token; remove it"
            yield document.fault(below(where, "token_env"), message)
