import os
import signal
import subprocess
import sys
import time

import pytest
import token_server

from canary.arms.endpoint.base import Endpoint
from canary.arms.endpoint.sender import EndpointSender
from canary.errors import ArmError
from canary.evidence.observation import Status
from canary.traffic.request import TokenBlocks

KEY = "sk-nobody-may-see-this"


def test_the_schedule_is_absolute_and_in_order(port, endpoints, started, one, send):
    """Requests arrive in the order of the plan, none early, whatever answers take."""
    requests = [one(at_s) for at_s in (0, 0.05, 0.08, 0.1, 0.3, 0.33)]
    sent = send(started(endpoints("a", "b")), requests, ["b", "a"])
    log = token_server.stamps(port)

    for arm in ("a", "b"):
        there_s = [log[f"{each.request_id}-{arm}"][0] for each in requests]
        assert sorted(there_s) == there_s
        for request, at_s, delivery in zip(
            requests, there_s, sent.deliveries, strict=True
        ):
            answer = delivery.answers[arm]
            assert at_s >= sent.zero_s + request.arrival_s
            assert request.arrival_s == answer.due_s
            assert answer.queue_s == answer.send_lag_s > 0
            assert Status.OK is answer.completion.status


def test_an_answer_is_measured_as_the_server_knows_it(
    port, endpoints, started, one, send
):
    """First token and end come after the server wrote them, and count from the send."""
    request = one()
    sent = send(started(endpoints("a")), [request], ["a"])
    arrived_s, first_s, last_s = token_server.stamps(port)[f"{request.request_id}-a"]
    answer = sent.deliveries[0].answers["a"]
    made = answer.completion.generation
    sent_s = sent.zero_s + answer.due_s + answer.queue_s

    assert sent_s < arrived_s
    assert first_s <= sent_s + made.first_token_s
    assert last_s <= sent_s + made.end_s
    assert made.first_token_s < made.end_s == answer.completion.service_s
    assert (7, 4, "so so so so ") == (
        made.prompt_tokens,
        made.output_tokens,
        made.answer,
    )
    assert (("endpoint",), None) == (made.kernels, made.density)
    assert f"endpoint 127.0.0.1:{port}" == answer.completion.device


def test_waiting_for_room_counts(started, one, send):
    """At 10 requests/s of 200 ms, one at a time, the wait grows and service stays."""
    with token_server.running("--ttft-ms", "190", "--per-token-ms", "10") as port:
        arms = {"a": Endpoint(url=f"http://127.0.0.1:{port}/v1", model="m")}
        sender = started(arms, max_in_flight=1)
        requests = [one(i / 10, max_output_tokens=2) for i in range(12)]
        sent = send(sender, requests, ["a"])
    answers = [delivery.answers["a"] for delivery in sent.deliveries]
    queue_s = [answer.queue_s for answer in answers]
    service_s = [answer.completion.service_s for answer in answers]

    assert sorted(queue_s) == queue_s
    # Each waits for all before it: 100 ms more than the one before, at least.
    assert queue_s[-1] >= 10 * 0.1
    assert max(service_s) < 0.5 * queue_s[-1]
    assert max(answer.send_lag_s for answer in answers) < 0.5 * queue_s[-1]


def test_what_waits_its_whole_timeout_is_never_sent(endpoints, started, one, send):
    """A request without room until its time is up has timed out; nobody sees it."""
    requests = [one(), one(0.01), one(0.02)]
    sender = started(endpoints("mute"), timeout_s=0.5, max_in_flight=1)
    sent = send(sender, requests, ["mute"])
    first, *others = (delivery.answers["mute"] for delivery in sent.deliveries)

    assert Status.TIMEOUT is first.completion.status
    assert "over 0.5 s" in first.completion.error
    for other in others:
        assert Status.TIMEOUT is other.completion.status
        assert other.queue_s >= 0.5 - 0.02
    unsent = [other for other in others if other.completion.service_s == 0]
    assert unsent
    assert all("was never sent" in each.completion.error for each in unsent)


def test_an_overload_is_shed_for_all_arms_alike(port, endpoints, started, one, send):
    """With one arm full, no arm gets the request; the others are served."""
    requests = [one(), one(0.1), one(0.2)]
    arms = endpoints("calm", "mute")
    sender = started(arms, timeout_s=1, max_in_flight=1, on_overload="shed")
    sent = send(sender, requests, list(arms))

    assert [False, True, True] == [delivery.shed for delivery in sent.deliveries]
    assert [2, 0, 0] == [len(delivery.answers) for delivery in sent.deliveries]
    log = token_server.stamps(port)
    assert not [each for each in requests[1:] if f"{each.request_id}-calm" in log]


def test_a_turn_waits_for_the_one_before_and_the_thinking(
    endpoints, started, one, send
):
    """A later turn is due after its arm's end of the turn before; others go ahead."""
    requests = [
        one(session_id="s", max_output_tokens=200),
        one(0.01, session_id="s", turn=1, think_s=0.2),
        one(0.02, session_id="other", turn=3),
        one(0.9, session_id="s", turn=2, think_s=0.1),
    ]
    sent = send(started(endpoints("a")), requests, ["a"])
    first, second, other, late = (each.answers["a"] for each in sent.deliveries)
    ended_s = first.due_s + first.queue_s + first.completion.service_s

    assert second.due_s >= ended_s + 0.2
    assert 0.02 == other.due_s
    assert other.due_s + other.queue_s < ended_s
    assert late.due_s >= 0.9


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("status-429", 'endpoint answered 429: {"error": "too\\n much"}'),
        ("status-500", 'endpoint answered 500: {"error": "too\\n much"}'),
        ("quits", "endpoint closed the connection without an answer"),
        ("broken", "endpoint broke off in the middle of its answer"),
        ("empty", "endpoint's stream ended without a token"),
        ("error-event", "endpoint broke off with an error: "),
    ],
)
def test_a_failure_is_one_sentence(endpoints, started, one, model, said):
    """Whatever goes wrong is status error, with what went wrong."""
    came = started(endpoints(model)).ask(model, one())

    assert Status.ERROR is came.status
    assert came.error.startswith(said)
    assert came.generation is None


def test_an_endpoint_that_is_not_there_is_an_error(started, one):
    """A refused connection is the request's failure."""
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", model="m")
    came = started({"a": endpoint}).ask("a", one())

    assert Status.ERROR is came.status
    assert came.error.startswith("endpoint can't be reached: ")


@pytest.mark.parametrize("model", ["a", "reasoning", "uncounted", "until-close"])
@pytest.mark.parametrize("prompt", ["text", "messages", "blocks"])
def test_every_kind_of_prompt_and_stream_is_read(
    endpoints, started, one, model, prompt
):
    """Text, chat and token ids; with reasoning, without usage, without a length."""
    prompts = {
        "text": "how so",
        "messages": '[{"role": "user", "content": "how so"}]',
        "blocks": TokenBlocks(length_tokens=20_000),
    }
    request = one(**{"text": None, prompt: prompts[prompt]})
    made = started(endpoints(model)).ask(model, request).generation

    assert 4 == made.output_tokens
    assert ("so so " if model == "reasoning" else "so so so so ") == made.answer
    known = {"text": 2, "blocks": 20_000}
    if model != "uncounted":
        assert 7 == made.prompt_tokens
    elif prompt in known:
        assert known[prompt] == made.prompt_tokens


def test_the_key_stays_in_the_process_that_sends(
    endpoints, started, one, monkeypatch, capfd
):
    """A key reaches the endpoint, and nothing that the caller gets or prints."""
    monkeypatch.setenv("SOME_KEY", KEY)
    arms = endpoints("telltale", api_key_env="SOME_KEY")
    came = started(arms).ask("telltale", one())

    assert "endpoint answered 401: wrong key: Bearer " + "*" * len(KEY) == came.error
    assert KEY not in f"{arms}{came}" + "".join(capfd.readouterr())


def test_a_key_that_is_missing_is_said_at_the_start(endpoints, started, monkeypatch):
    """An unset variable is an error of its own, before anything is sent."""
    monkeypatch.delenv("SOME_KEY", raising=False)

    with pytest.raises(ArmError, match="environment variable SOME_KEY, which is not"):
        started(endpoints("a", api_key_env="SOME_KEY"))


def test_a_process_that_dies_is_said(endpoints, started, one):
    """Who offers or waits learns in one sentence that nothing is sent any more."""
    sender = started(endpoints("mute"))
    sender.begin(time.monotonic())
    sender.offer(0, one(), ["mute"])
    os.kill(sender._process.pid, signal.SIGKILL)

    with pytest.raises(ArmError, match="is gone"):
        sender.taken(20)
    with pytest.raises(ArmError, match="is gone"):
        sender.offer(1, one(), ["mute"])


def test_what_is_dropped_is_never_sent(port, endpoints, started, one):
    """After a drop only what was in flight comes back, and new offers are sent."""
    sender = started(endpoints("a"))
    sender.begin(time.monotonic())
    dropped = one(0.5, session_id="s")
    sender.offer(0, dropped, ["a"])
    sender.offer(1, one(0.5, session_id="s", turn=1), ["a"])
    sender.drop()
    sender.offer(2, one(0.6, session_id="s", turn=2), ["a"])

    assert [2] == [delivery.index for delivery in sender.taken(20)]
    assert f"{dropped.request_id}-a" not in token_server.stamps(port)


def test_nothing_taken_is_an_empty_list(endpoints, started):
    """Waiting for what doesn't come ends when the time is up."""
    assert [] == started(endpoints("a")).taken(0.01)


def test_a_sender_closes_twice_and_unstarted(endpoints):
    """Closing is always right."""
    sender = EndpointSender(
        endpoints("a"), timeout_s=1, max_in_flight=1, on_overload="shed"
    )
    sender.close()
    with sender:
        pass
    sender.close()


def test_the_process_that_sends_is_small():
    """It loads none of the libraries that take memory and seconds."""
    heavy = "{'torch', 'ray', 'pyarrow', 'scipy', 'numpy', 'pydantic'}"
    code = "import sys, canary.arms.endpoint.process as p; "
    code += f"sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert (0, "") == (result.returncode, result.stderr)
