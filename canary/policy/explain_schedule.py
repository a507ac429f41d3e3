"""When a run sends and whom its verdict is told, in sentences."""

from urllib.parse import urlsplit

from canary.policy.model import Policy
from canary.policy.schedule import Hook, Hooks

_HOUR_S = 3600


def schedule_sentences(policy: Policy) -> list[str]:
    """Return when the run begins and at which hours it sends, if that is limited."""
    told = []
    if policy.schedule.start is not None:
        told.append(f"It waits until {policy.schedule.start} before it begins.")
    window = policy.schedule.window
    if window is not None:
        missed = "is skipped" if policy.traffic.follow else "waits"
        hours = f"{window.open_s_per_week / _HOUR_S:g} hours a week"
        told.append(
            f"It sends {policy.schedule.only} only, {hours}; traffic {missed} "
            "meanwhile, and max_duration runs on."
        )
    return told


def hook_sentences(policy: Policy) -> list[str]:
    """Return what is called when the policy has its verdict."""
    return [
        f"On {name} it {_called(hook)}."
        for name in Hooks.model_fields
        if (hook := getattr(policy.hooks, name)) is not None
    ]


def _called(hook: Hook) -> str:
    parts = []
    if hook.webhook is not None:
        # Only the server: the path of a webhook may be all that protects it.
        parts.append(f"posts the decision to {urlsplit(hook.webhook).hostname}")
    if hook.command is not None:
        parts.append(f"runs {hook.command[0]} with the decision on its input")
    return " and ".join(parts)
