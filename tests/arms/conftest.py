"""A real server of tokens, and senders to models on it whose names ask for trouble."""

import itertools
import time
from types import SimpleNamespace

import pytest
import token_server

from canary.arms.endpoint.base import Endpoint
from canary.arms.endpoint.sender import EndpointSender
from canary.traffic.request import Request

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def port():
    with token_server.running("--ttft-ms", "20", "--per-token-ms", "2") as port:
        yield port


@pytest.fixture
def endpoints(port):
    def make(*models, **fields):
        url = f"http://127.0.0.1:{port}/v1"
        return {model: Endpoint(url=url, model=model, **fields) for model in models}

    return make


@pytest.fixture
def started():
    """Start senders; all of them are closed in the end."""
    senders = []

    def start(endpoints, *, timeout_s=10.0, max_in_flight=64, on_overload="queue"):
        sender = EndpointSender(
            endpoints,
            timeout_s=timeout_s,
            max_in_flight=max_in_flight,
            on_overload=on_overload,
        )
        senders.append(sender)
        sender.start()
        return sender

    yield start
    for sender in senders:
        sender.close()


@pytest.fixture
def one():
    """Make requests; each has an id of its own unless it is given one."""

    def make(arrival_s=0.0, **fields):
        return Request(
            **{
                "request_id": f"q{next(_NUMBERS)}",
                "kind": "live",
                "arrival_s": arrival_s,
                "max_output_tokens": 4,
                "text": "how so",
            }
            | fields
        )

    return make


@pytest.fixture
def send():
    """Offer all at once, shortly before the first is due, and wait for all."""

    def go(sender, requests, arms):
        zero_s = time.monotonic() + 0.3
        sender.begin(zero_s)
        for index, request in enumerate(requests):
            sender.offer(index, request, arms)
        found = {}
        while len(found) < len(requests):
            found |= {each.index: each for each in sender.taken(20)}
        return SimpleNamespace(
            zero_s=zero_s, deliveries=[found[index] for index in range(len(requests))]
        )

    return go
