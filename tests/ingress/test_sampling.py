import json

from shadow import chat

from canary.ingress.identity import Hasher

A, B = Hasher(b"a" * 32), Hasher(b"b" * 32)
NAMES = [f"session-{number}" for number in range(20_000)]


def test_a_sample_is_the_same_everywhere():
    """Replicas that share a key keep the same sessions; another key, other ones."""
    kept = [name for name in NAMES if A.kept(name, 0.2)]

    assert kept == [name for name in NAMES if Hasher(b"a" * 32).kept(name, 0.2)]
    assert kept != [name for name in NAMES if B.kept(name, 0.2)]


def test_a_share_is_kept():
    """Of 20,000 sessions a fifth, within four standard errors; 0 and 1 exactly."""
    assert abs(sum(A.kept(name, 0.2) for name in NAMES) - 4000) < 4 * 56.6
    assert 0 == sum(A.kept(name, 0.0) for name in NAMES)
    assert len(NAMES) == sum(A.kept(name, 1.0) for name in NAMES)


def test_a_larger_share_keeps_what_a_smaller_one_keeps():
    """So a session stays whole when its prompts grow into a denser regime."""
    small = {name for name in NAMES if A.kept(name, 0.05)}

    assert small < {name for name in NAMES if A.kept(name, 0.5)}


def test_names_are_hashed_under_the_key():
    """The same name is another session under another key; none stands for a request."""
    assert A.session("jo") == Hasher(b"a" * 32).session("jo")
    assert 4 == len({A.session("jo"), B.session("jo"), A.request("jo"), "jo"})
    assert A.request(None) != A.request(None)


def test_sessions_stay_whole_and_carry_their_weight(start):
    """All requests of a session or none, and each line knows what it stands for."""
    ingress = start(
        *("--sample", "<8k=25%,rest=100%", "--hash-key-env", "KEY"),
        env={"KEY": "k" * 32},
    )
    hasher = Hasher(b"k" * 32)
    for turn in range(3):
        for name in NAMES[:40]:
            ingress.outcome(chat(f"{turn}"), {"x-session-id": name})
    ingress.outcome(chat("x" * 40_000), {"x-session-id": "long"})
    ingress.stop()

    lines = ingress.lines()
    short = [line for line in lines if line["prompt_tokens"] < 8192]
    kept = {
        hasher.session(n) for n in NAMES[:40] if hasher.kept(hasher.session(n), 0.25)
    }
    assert 0 < len(kept) < 40
    assert sorted([*kept] * 3) == sorted(line["session"] for line in short)
    assert {4.0} == {line["weight"] for line in short}
    assert [1.0] == [line["weight"] for line in lines if line not in short]


def test_a_session_is_the_first_name_that_is_given(start):
    """The header x-session-id, then the body's user, then the header x-request-id."""
    ingress = start("--hash-key-env", "KEY", env={"KEY": "k" * 32})
    hasher = Hasher(b"k" * 32)
    sent = [
        (chat(user="u"), {"x-session-id": "s", "x-request-id": "r"}),
        (chat(user="u"), {"x-request-id": "r"}),
        (chat(user=""), {"x-request-id": "r"}),
        (json.dumps({"prompt": "p", "user": 7}).encode(), {}),
    ]
    for body, headers in sent:
        ingress.became(body, headers)

    lines = ingress.lines()
    assert [hasher.session(name) for name in ("s", "u", "r")] + [None] == [
        line["session"] for line in lines
    ]
    assert [hasher.request("r")] * 3 == [line["id"] for line in lines[:3]]
