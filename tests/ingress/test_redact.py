import json

import pytest

from canary.ingress.reasons import DroppedError, Reason
from canary.ingress.redact import redact, redact_text

PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\nabc=\n-----END RSA PRIVATE KEY-----"
KEY = "Aa0" * 14


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("write to jo.doe+x@mail.example.org, now", "write to [mail], now"),
        ("ünal@münchen.example!", "[mail]!"),
        ("user@localhost and a @ b", "user@localhost and a @ b"),
        ("card 4111 1111 1111 1111.", "card [card]."),
        ("card 4111-1111-1111-1111 12", "card [card] 12"),
        ("378282246310005", "[card]"),
        ("not a card: 4111 1111 1111 1112", "not a card: 4111 1111 1111 1112"),
        ("0000 0000 0000 0000 is no card", "0000 0000 0000 0000 is no card"),
        ("id 41111111111111110 has 17", "id 41111111111111110 has 17"),
        ("DE89 3704 0044 0532 0130 00 PAID BY", "[iban] PAID BY"),
        ("GB82WEST12345698765432", "[iban]"),
        ("GB83WEST12345698765432", "GB83WEST12345698765432"),
        ("call +49 (30) 901820-12 today", "call [phone] today"),
        ("030 90182012", "[phone]"),
        ("(212) 555-0123 or 212-555-0123", "[phone] or [phone]"),
        ("in 2026-11-28 13:25:02 we had 0.12345678", None),
        ("1,048,576 tokens, 12 34 56, page 0-1", None),
        ("from 192.168.0.1.", "from [ipv4]."),
        ("version 1.2.3, 999.1.1.1 and 1.2.3.4.5", None),
        (f"sk-{KEY}", "[key]"),
        (f"key=sk-proj-{KEY};", "key=[key];"),
        (f"ghp_{KEY} github_pat_{KEY} glpat-{KEY}", "[key] [key] [key]"),
        ("AKIAIOSFODNN7EXAMPLE", "[key]"),
        (f"hf_{KEY} xoxb-1234567890-a AIza{KEY[:35]}", "[key] [key] [key]"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_", "[key]"),
        (f"authorization: Bearer {KEY}==", "authorization: [key]"),
        (f"before\n{PEM}\nafter", "before\n[key]\nafter"),
        (PEM[:60], "[key]"),
        ("risk-averse, task-oriented and disk_io_of_a_long_name", None),
    ],
)
def test_rules(said, kept):
    """Each rule finds what it names, and lets be what only looks like it."""
    assert (said if kept is None else kept) == redact_text(said)


@pytest.mark.parametrize("filler", ["word ", "line\n", "x", "1 2 ", "a. "])
def test_a_long_text_is_redacted_as_a_short_one(filler):
    """Wherever a text is cut to be read in pieces, no finding is cut."""
    text = "".join(
        filler * count + " call +49 30 901820 or jo@doe.example, Bearer " + KEY + " "
        for count in range(0, 9000, 300)
    )

    clean = redact_text(text)

    assert (30, 30, 30) == tuple(map(clean.count, ("[phone]", "[mail]", "[key]")))


def test_messages_are_redacted_in_every_text():
    """Contents, their parts and the arguments of tools; numbers stay as they are."""
    messages = [
        {"role": "user", "content": "I'm jo@doe.example"},
        {"role": "user", "content": [{"type": "text", "text": "at 10.0.0.1"}]},
        {
            "role": "assistant",
            "tool_calls": [{"arguments": '{"to": "jo@doe.example"}'}],
        },
        {"jo@doe.example": None, "n": 7},
    ]

    found = redact(messages)

    assert [
        {"role": "user", "content": "I'm [mail]"},
        {"role": "user", "content": [{"type": "text", "text": "at [ipv4]"}]},
        {"role": "assistant", "tool_calls": [{"arguments": '{"to": "[mail]"}'}]},
        {"[mail]": None, "n": 7},
    ] == found.value
    assert found.characters_before - found.characters_after == 8 + 2 + 8


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA"}},
        {"file": {"file_data": "AAAA"}},
    ],
)
def test_what_rules_cant_read_is_not_kept(part):
    """A picture may show a name: the request is dropped, not half redacted."""
    with pytest.raises(DroppedError) as error:
        redact([{"role": "user", "content": [part]}])

    assert Reason.REDACTION is error.value.reason


def test_only_redacted_text_reaches_the_disk(start):
    """With capture redacted, lines hold clean text, the rules' version, the change."""
    ingress = start("--capture", "redacted")
    said = json.dumps({"prompt": "jo@doe.example\n", "user": "jo@doe.example"}).encode()
    picture = json.dumps({"messages": [{"content": [{"type": "image_url"}]}]}).encode()

    assert "spooled" == ingress.became(said)
    assert "dropped; reason=redaction" == ingress.became(picture)
    assert "spooled" == ingress.became(b'{"prompt": [1, 2, 3]}')
    ingress.stop()

    text, ids = ingress.lines()
    assert ("redacted", "[mail]\n") == (text["capture"], text["prompt"])
    assert {"rules": 1, "characters_before": 15, "characters_after": 7} == text[
        "redaction"
    ]
    assert ("lengths", 3) == (ids["capture"], ids["prompt_tokens"])
    assert "doe" not in "".join(p.read_text() for p in ingress.spool.iterdir())
