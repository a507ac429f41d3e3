"""A request as an OpenAI-compatible API wants it, made once for all arms.

The arms' bodies differ in the model's name alone, with which they begin; what follows
is made here, in the caller's process and ahead of time, since writing a prompt of
100,000 token ids takes long enough to delay another request.
"""

import functools
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from canary.traffic.request import Request, TokenBlocks
from canary.traffic.seeds import token_blocks

# Above the special and single-byte tokens with which vocabularies begin, and below the
# end of the smallest in use (32,000).
_LOW_TOKEN, _HIGH_TOKEN = 1_000, 30_000
# What the APIs take, as a signed 32-bit number.
_SEEDS = 2**31


def body_rest(request: Request) -> tuple[str, bytes]:
    """Return the path under the endpoint's URL, and the body after the model's name."""
    options: dict[str, Any] = {
        "max_tokens": request.max_output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "seed": request.seed % _SEEDS,
    }
    if request.kind == "latency":
        # Exactly as long as recorded, so that an arm that stops early isn't faster.
        options |= {"ignore_eos": True, "min_tokens": request.max_output_tokens}
    elif request.stop:
        options["stop"] = request.stop
    path, name, prompt = _prompt(request)
    beginning = b"," + json.dumps(options, separators=(",", ":")).encode()[1:-1]
    return path, b"".join((beginning, b',"', name, b'":', prompt, b"}"))


def _prompt(request: Request) -> tuple[str, bytes, bytes]:
    """Return path, the prompt's name in the body, and the prompt as JSON."""
    if request.blocks is not None:
        ids = _token_ids(request.blocks, request.request_id)
        return "/completions", b"prompt", ids
    if request.messages is not None:
        return "/chat/completions", b"messages", request.messages.encode()
    return "/completions", b"prompt", json.dumps(request.text).encode()


def _token_ids(blocks: TokenBlocks, request_id: str) -> bytes:
    ids = token_blocks(blocks, request_id=request_id, low=_LOW_TOKEN, high=_HIGH_TOKEN)
    return b"[" + _words()[ids - _LOW_TOKEN].tobytes()[:-1] + b"]"


@functools.cache
def _words() -> npt.NDArray[np.bytes_]:
    """Each token id with its comma, all six bytes long: looked up, not written."""
    return np.array([b"%5d," % n for n in range(_LOW_TOKEN, _HIGH_TOKEN)])
