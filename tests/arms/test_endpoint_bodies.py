import json
from dataclasses import replace

import pytest

from canary.arms.endpoint.base import Endpoint
from canary.arms.endpoint.bodies import body_rest
from canary.errors import ArmError
from canary.traffic.request import Request, TokenBlocks
from canary.traffic.seeds import token_blocks

BASE = Request(
    request_id="r",
    kind="latency",
    arrival_s=0.0,
    max_output_tokens=5,
    blocks=TokenBlocks(length_tokens=1100, block_ids=("x", "y"), seed=4),
    seed=2**40 + 3,
)
COMMON = {
    "model": "m",
    "max_tokens": 5,
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0,
    "seed": 3,
}


def body(request):
    path, rest = body_rest(request)
    return path, json.loads(b'{"model":"m"' + rest)


def test_a_prompt_of_blocks_is_token_ids_of_forced_length():
    """The very ids, and an output as long as recorded."""
    path, said = body(BASE)
    ids = token_blocks(BASE.blocks, request_id="r", low=1000, high=30000)

    assert "/completions" == path
    forced = {"ignore_eos": True, "min_tokens": 5}
    assert COMMON | forced | {"prompt": ids.tolist()} == said


def test_a_question_ends_by_itself():
    """A request of kind quality has stop strings and no forced length."""
    asked = replace(BASE, kind="quality", blocks=None, text='"so"\n?', stop=("\n", "."))
    path, said = body(asked)

    assert "/completions" == path
    assert COMMON | {"stop": ["\n", "."], "prompt": '"so"\n?'} == said


def test_a_chat_is_passed_on_as_it_was_recorded():
    """Messages are JSON already and stay what they are."""
    messages = '[{"role":"user","content":"\\u00e9", "extra": [1.50]}]'
    path, rest = body_rest(replace(BASE, kind="live", blocks=None, messages=messages))

    assert "/chat/completions" == path
    assert messages.encode() in rest


@pytest.mark.parametrize(
    ("url", "where", "path"),
    [
        ("http://10.0.0.5:8000/v1", "10.0.0.5:8000", "/v1"),
        ("https://models.example/api/v1/", "models.example:443", "/api/v1"),
        ("http://[::1]/v1", "[::1]:80", "/v1"),
    ],
)
def test_an_endpoint_knows_where_it_is(url, where, path):
    """The port follows the scheme, and a slash at the end makes no difference."""
    address = Endpoint(url=url, model="m").address()

    assert (where, path) == (str(address), address.path)
    assert url.startswith("https") == address.tls


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("10.0.0.5:8000/v1", "can't be reached by HTTP"),
        ("ftp://h/v1", "can't be reached by HTTP"),
        ("http://h/v1\r\nX-Evil: 1", "can't be reached by HTTP"),
        ("http://h:x/v1", "Port could not be cast"),
        ("http://me:secret@h/v1", "put the key in an environment variable"),
        ("me:secret@h/v1", "put the key in an environment variable"),
        ("http://h/v1?key=secret", "put the key in an environment variable"),
    ],
)
def test_a_url_that_is_none_is_refused_without_telling_secrets(url, said):
    """One sentence says what is wrong; what may be a secret isn't repeated."""
    with pytest.raises(ArmError, match=said) as error:
        Endpoint(url=url, model="m").address()

    assert "secret" not in str(error.value)
