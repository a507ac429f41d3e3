"""What a body asks of a model, read from the two shapes that OpenAI's API gave us."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from canary.ingress.reasons import DroppedError, Reason
from canary.ingress.settings import CHARACTERS_PER_TOKEN, MAX_TOKENS

TokensFrom = Literal["characters", "ids", "declared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt. `text` or `messages` is what it says; both are None for token ids."""

    tokens: int
    tokens_from: TokensFrom
    text: str | None = field(default=None, repr=False)
    messages: list[Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request: several prompts if its `prompt` is a list of them."""

    kind: Literal["chat", "completion"]
    prompts: tuple[Prompt, ...]
    max_tokens: int | None
    user: str | None = field(repr=False)

    @property
    def tokens(self) -> int:
        """The length of its longest prompt: the regime that it is counted in."""
        return max(prompt.tokens for prompt in self.prompts)


def read_prompts(body: bytes, *, declared_tokens: int | None) -> Asked:
    """Read a chat or completions request.

    Args:
        body: JSON in UTF-8.
        declared_tokens: The prompt's length as the sender counted it; it wins over the
            estimate from characters, and not over token ids, which are counted here.

    Raises:
        DroppedError: It is no JSON object (bad-json), or holds no prompt
            (not-a-prompt).
    """
    try:
        fields = json.loads(body.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise DroppedError(Reason.BAD_JSON) from None
    if not isinstance(fields, dict):
        raise DroppedError(Reason.BAD_JSON)
    user = fields.get("user")
    chat = "messages" in fields
    return Asked(
        kind="chat" if chat else "completion",
        prompts=_chat(fields, declared_tokens)
        if chat
        else _completion(fields.get("prompt"), declared_tokens),
        max_tokens=_limit(fields),
        user=user if isinstance(user, str) and user else None,
    )


def texts_in(value: object) -> Iterator[str]:
    """Yield every text in a JSON value that isn't the name of a field."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts_in(item)


def declared(text: str) -> int | None:
    """Read the header x-prompt-tokens; None if it holds no length a prompt can have."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return None
    return int(text) if 0 < int(text) <= MAX_TOKENS else None


def _chat(fields: dict[str, Any], declared_tokens: int | None) -> tuple[Prompt, ...]:
    messages = fields["messages"]
    if not isinstance(messages, list) or not messages:
        raise DroppedError(Reason.NOT_A_PROMPT)
    if not all(isinstance(message, dict) for message in messages):
        raise DroppedError(Reason.NOT_A_PROMPT)
    # The description of tools is part of what the model reads.
    said = [message.get(name) for message in messages for name in _SPOKEN]
    characters = sum(map(len, _spoken(said))) + sum(
        map(len, texts_in(fields.get("tools")))
    )
    tokens, origin = _estimate(characters, declared_tokens)
    return (Prompt(tokens=tokens, tokens_from=origin, messages=messages),)


_SPOKEN = ("content", "tool_calls", "reasoning_content")


def _spoken(parts: object) -> Iterator[str]:
    """Yield texts, but no image or sound that a message carries as a data URL."""
    return (text for text in texts_in(parts) if not text.startswith("data:"))


def _completion(prompt: object, declared_tokens: int | None) -> tuple[Prompt, ...]:
    if isinstance(prompt, list) and prompt and not _are_ids(prompt):
        # One declared length can't be shared out among several prompts.
        alone = declared_tokens if len(prompt) == 1 else None
        return tuple(_one(item, alone) for item in prompt)
    return (_one(prompt, declared_tokens),)


def _one(prompt: object, declared_tokens: int | None) -> Prompt:
    if isinstance(prompt, str) and prompt:
        tokens, origin = _estimate(len(prompt), declared_tokens)
        return Prompt(tokens=tokens, tokens_from=origin, text=prompt)
    if isinstance(prompt, list) and prompt and _are_ids(prompt):
        return Prompt(tokens=len(prompt), tokens_from="ids")
    raise DroppedError(Reason.NOT_A_PROMPT)


def _are_ids(prompt: list[object]) -> bool:
    return all(type(item) is int for item in prompt)


def _estimate(characters: int, declared_tokens: int | None) -> tuple[int, TokensFrom]:
    if declared_tokens is not None:
        return declared_tokens, "declared"
    return max(1, -(-characters // CHARACTERS_PER_TOKEN)), "characters"


def _limit(fields: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if type(value) is int and 0 < value <= MAX_TOKENS:
            return value
    return None


def _refuse(_: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads and JSON doesn't know."""
    raise ValueError("not JSON")
