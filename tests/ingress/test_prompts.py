import json

import pytest

from canary.ingress.prompts import declared, read_prompts


def asked(declared_tokens=None, **fields):
    return read_prompts(json.dumps(fields).encode(), declared_tokens=declared_tokens)


def lengths(found):
    return [(prompt.tokens, prompt.tokens_from) for prompt in found.prompts]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "x" * 8}, [(2, "characters")]),
        ({"prompt": "x" * 9}, [(3, "characters")]),
        ({"prompt": ["xxxx", "x" * 40]}, [(1, "characters"), (10, "characters")]),
        ({"prompt": [5, 6, 7]}, [(3, "ids")]),
        ({"prompt": [[5], [6, 7]]}, [(1, "ids"), (2, "ids")]),
        ({"messages": [{"content": "x" * 8}]}, [(2, "characters")]),
        (
            {"messages": [{"content": [{"text": "x" * 8}]}, {"content": None}]},
            [(2, "characters")],
        ),
        (
            {
                "messages": [{"content": "xxxx", "tool_calls": ["xxxx"]}],
                "tools": [{"parameters": ["xxxx"]}],
            },
            [(3, "characters")],
        ),
        (
            {"messages": [{"content": [{"url": "data:image/png;base64,AAAA"}]}]},
            [(1, "characters")],
        ),
    ],
)
def test_prompts_are_counted_in_tokens(fields, expected):
    """Ids are counted; of text it is an estimate, and is called one."""
    assert expected == lengths(asked(**fields))


def test_a_declared_length_wins_over_an_estimate():
    """But not over ids, and not where several prompts share one declaration."""
    assert [(700, "declared")] == lengths(asked(700, prompt="text"))
    assert [(2, "ids")] == lengths(asked(700, prompt=[1, 2]))
    assert [(1, "characters")] * 2 == lengths(asked(700, prompt=["a", "b"]))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        *[("1", 1), ("16777216", 2**24)],
        *[(text, None) for text in ("16777217", "0", "-1", "", "1e3", "\u0663")],
    ],
)
def test_a_declaration_must_be_a_length(text, tokens):
    """What no prompt can be long is as if it weren't said."""
    assert tokens == declared(text)


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ({"max_tokens": 0}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": "5"}, None),
    ],
)
def test_the_limit_of_the_answer(fields, max_tokens):
    """Either name of it; what is no length is unknown, not zero."""
    assert max_tokens == asked(prompt="x", **fields).max_tokens
