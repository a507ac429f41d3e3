import json

import pytest

from canary.arms.endpoint.stream import Reply, completion
from canary.evidence.observation import Status
from canary.traffic.request import Request, TokenBlocks

CHAT = Request(
    request_id="r",
    kind="live",
    arrival_s=0.0,
    max_output_tokens=9,
    messages='[{"role": "user", "content": "so"}]',
)
LENGTHS = Request(
    request_id="r",
    kind="latency",
    arrival_s=0.0,
    max_output_tokens=9,
    blocks=TokenBlocks(length_tokens=99),
)


def read(pieces, *, request=CHAT, **fields):
    """Read a reply whose pieces came at 1 s, 2 s, and so on."""
    reply = {
        "outcome": "whole",
        "detail": "",
        "status": 200,
        "service_s": 50.0,
        "times_s": [float(place) for place in range(1, len(pieces) + 1)],
        "sizes_bytes": [len(piece) for piece in pieces],
        "text": b"".join(pieces),
    }
    return completion(
        Reply(**(reply | fields)), request, device="endpoint h:1", timeout_s=60.0
    )


def event(delta=None, **fields):
    choices = [] if delta is None else [{"index": 0, "delta": delta}]
    return b"data: " + json.dumps({"choices": choices, **fields}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "so"},
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"tool_calls": [{"index": 0, "function": {"name": "f"}}]},
    ],
)
def test_the_first_token_is_the_first_content(delta):
    """A role and an empty delta are no token; text, reasoning and tool calls are."""
    pieces = [event({"role": "assistant", "content": ""}), event({}), event(delta)]
    made = read([*pieces, event({"content": "!"}), event({}), DONE]).generation

    assert (3.0, 4.0, 2) == (made.first_token_s, made.end_s, made.output_tokens)
    assert delta.get("content", "") + "!" == made.answer


def test_usage_counts_and_not_chunks():
    """A chunk may hold several tokens: where there is usage, it says how many."""
    usage = {"prompt_tokens": 31, "completion_tokens": 5}
    made = read([event({"content": "so so"}), event(usage=usage), DONE]).generation

    assert (31, 5) == (made.prompt_tokens, made.output_tokens)


def test_without_usage_the_request_says_how_long_its_prompt_is():
    """The length of a prompt of token ids is known."""
    made = read([event({"content": "so"}), DONE], request=LENGTHS).generation

    assert (99, 1, None) == (made.prompt_tokens, made.output_tokens, made.answer)


def test_events_are_found_wherever_the_pieces_end():
    """An event's time is that of the piece with which its line was whole."""
    first, second = event({"content": "a"}), event({"content": "b"})
    text = b": ping\r\n\r\n" + first.replace(b"\n", b"\r\n") + second + DONE
    cut = text.index(b'"b"')
    made = read([text[:40], text[40:cut], text[cut:]]).generation

    assert ("ab", 2.0, 3.0) == (made.answer, made.first_token_s, made.end_s)


def test_a_stream_that_its_connection_ends_needs_its_last_word():
    """Where only the connection's end says that it's over, it must be [DONE]."""
    said = [event({"content": "so"})]
    broken = read(said, outcome="open end")

    assert "endpoint broke off in the middle of its answer" == broken.error
    assert Status.OK is read([*said, DONE], outcome="open end").status


@pytest.mark.parametrize(
    ("pieces", "fields", "said"),
    [
        ([], {}, "endpoint's stream ended without a token"),
        ([b"<html>"], {}, "endpoint's stream ended without a token"),
        ([b"data: so\n"], {}, "endpoint sent an event that is no JSON: so"),
        ([b"data: 4\n"], {}, "endpoint sent an event that is no JSON: 4"),
        ([b"Moved"], {"status": 307}, "endpoint answered 307: Moved"),
        ([], {"status": 503}, "endpoint answered 503: (nothing)"),
        ([b"x" * 999], {"status": 400}, f"endpoint answered 400: {'x' * 200}"),
        ([], {"outcome": "broken", "detail": "endpoint quit"}, "endpoint quit"),
    ],
)
def test_what_is_no_answer_is_an_error(pieces, fields, said):
    """Each kind of nonsense has its sentence, and takes the time that it took."""
    came = read(pieces, **fields)

    assert (Status.ERROR, said, None) == (came.status, came.error, came.generation)
    assert 50.0 == came.service_s


def test_a_chunk_of_an_odd_shape_is_no_token():
    """What has the wrong type is passed over, never a crash."""
    odd = [event(usage=3), b'data: {"choices": [3, {"delta": 3}, {"text": 3}]}\n\n']
    made = read([*odd, b'data: {"choices": 3}\n\n', event({"content": "so"}), DONE])

    assert 1 == made.generation.output_tokens


def test_time_up_is_a_timeout_even_with_tokens():
    """Half an answer is none."""
    came = read([event({"content": "so"})], outcome="timeout", service_s=60.1)

    assert (Status.TIMEOUT, None) == (came.status, came.generation)
    assert "timeout: took 60.1 s, over 60 s" == came.error
