"""How faithfully requests are sent, by the stamps of the server that gets them.

Run it: ``python tests/benchmarks/bench_sending.py [a] [b] [c] [d]``; it takes four
minutes on two cores, which the server shares with the two processes that send. Every
bar stands beside the best of four other load generators on the same task.

The schedule is a declared zero plus arrivals. "Lag" is how much later than that the
last byte of a request was at the server; "error" is the client's time from send to
first token less the server's from that last byte to the write of the token.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import token_server

from canary.arms.endpoint.base import Delivery, Endpoint, Sent
from canary.arms.endpoint.sender import EndpointSender
from canary.traffic.formats import read_trace
from canary.traffic.request import Request, TokenBlocks

# ruff: noqa: T201 - a script's output
TRACE = Path(__file__).parents[2] / "replay" / "mooncake-conversation.jsonl.gz"
TICK_S = 3.0
AHEAD_S = 10.0
TIMEOUT_S = 30.0


@dataclass
class Measured:
    """What was planned, what came back, what the server knows, and what it took.

    CPU and memory are those of this process and the one that sends, `others` the share
    of the machine that neither they nor the servers used, but somebody did.
    """

    requests: Sequence[Request]
    zero_s: float
    deliveries: dict[int, Delivery]
    truth: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    cpu_s: float = 0.0
    peak_mib: float = 0.0
    others: float = 0.0

    def sent(self, arm: str) -> list[Sent]:
        """Return an arm's answers in the order of the plan."""
        return [self.deliveries[i].answers[arm] for i in range(len(self.requests))]

    def stamps_s(self, arm: str) -> np.ndarray:
        """Return the server's arrival, first and last token, from zero, by request."""
        truth = self.truth[arm]
        rows = [truth[f"{request.request_id}-{arm}"] for request in self.requests]
        return np.array(rows, float) - self.zero_s

    def lags_ms(self, arm: str) -> np.ndarray:
        """Return how late each request was at the server."""
        due_s = np.array([request.arrival_s for request in self.requests])
        return (self.stamps_s(arm)[:, 0] - due_s) * 1e3

    def own_lags_ms(self, arm: str) -> np.ndarray:
        """Return how late the sender says that it was."""
        return np.array([sent.send_lag_s for sent in self.sent(arm)]) * 1e3

    def ttft_errors_ms(self, arm: str) -> np.ndarray:
        """Return the client's time to the first token less the server's."""
        made = [sent.completion.generation for sent in self.sent(arm)]
        stamps_s = self.stamps_s(arm)
        truth_s = stamps_s[:, 1] - stamps_s[:, 0]
        return (np.array([each.first_token_s for each in made]) - truth_s) * 1e3

    def out_of_order(self, arm: str) -> int:
        """Count requests that were there before one that was due earlier."""
        due_s = [request.arrival_s for request in self.requests]
        there = np.array(due_s)[np.argsort(self.stamps_s(arm)[:, 0], kind="stable")]
        return int(np.sum(np.diff(there) < 0))


def send(
    requests: Sequence[Request],
    servers: dict[str, tuple[str, ...]],
    *,
    max_in_flight: int = 2000,
) -> Measured:
    """Send all requests to servers with these options, and measure."""
    began_s, busy_s, all_s = time.monotonic(), _busy_s(), _cpu_s()
    with ExitStack() as stack:
        ports = {
            arm: stack.enter_context(token_server.running(*options))
            for arm, options in servers.items()
        }
        endpoints = {
            arm: Endpoint(url=f"http://127.0.0.1:{port}/v1", model="tokens")
            for arm, port in ports.items()
        }
        before_s = _cpu_s()
        with EndpointSender(
            endpoints,
            timeout_s=TIMEOUT_S,
            max_in_flight=max_in_flight,
            on_overload="queue",
        ) as sender:
            found = _drive(sender, requests, list(servers))
        # The process that sends has ended and counts by now; the servers haven't.
        found.cpu_s, found.peak_mib = _cpu_s() - before_s, _peak_mib()
        found.truth = {arm: token_server.stamps(port) for arm, port in ports.items()}
    theirs_s = _busy_s() - busy_s - (_cpu_s() - all_s)
    machine_s = (time.monotonic() - began_s) * (os.cpu_count() or 1)
    # Linux counts everybody's time in ticks, which may come to less than ours.
    found.others = max(0.0, theirs_s) / machine_s
    return found


def _drive(
    sender: EndpointSender, requests: Sequence[Request], arms: list[str]
) -> Measured:
    zero_s = time.monotonic() + 2.0
    sender.begin(zero_s)
    offered, deliveries = 0, dict[int, Delivery]()
    while len(deliveries) < len(requests):
        now_s = time.monotonic() - zero_s
        while offered < len(requests) and (
            requests[offered].arrival_s < now_s + AHEAD_S
        ):
            sender.offer(offered, requests[offered], arms)
            offered += 1
        for delivery in sender.taken(0.05):
            deliveries[delivery.index] = delivery
    return Measured(requests, zero_s, deliveries)


def _cpu_s() -> float:
    used = (resource.getrusage(w) for w in (_SELF, _CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def _busy_s() -> float:
    """Return the CPU seconds that everybody has used, as Linux counts them."""
    user, nice, system = Path("/proc/stat").read_text().split()[1:4]
    return (int(user) + int(nice) + int(system)) / os.sysconf("SC_CLK_TCK")


def _peak_mib() -> float:
    return sum(resource.getrusage(w).ru_maxrss for w in (_SELF, _CHILDREN)) / 1024


_SELF, _CHILDREN = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN


def request(
    index: int, arrival_s: float, tokens: int, *, ids: Sequence[str] = (), answer=16
) -> Request:
    """Return a request with so long a prompt and answer, in tokens."""
    return Request(
        request_id=f"r{index}",
        kind="latency",
        arrival_s=arrival_s,
        max_output_tokens=answer,
        blocks=TokenBlocks(length_tokens=tokens, block_ids=tuple(ids)),
    )


def bar(name: str, value: float, limit: float, unit: str, others: str) -> None:
    """Print what was measured against what is asked, and what others reach."""
    verdict = "ok" if value <= limit else "NOT MET"
    print(f"  {name:30}{value:9.3f} {unit:4} bar {limit:g} ({others})  {verdict}")


def table(title: str, found: Measured, arm: str) -> None:
    """Print how the delays are distributed."""
    print(f"{title}; others used about {found.others:.0%} of the machine")
    print(f"  {'ms':30}{'p50':>9}{'p90':>9}{'p99':>9}{'max':>9}")
    for name, values in (
        ("lag", found.lags_ms(arm)),
        ("lag by the sender's own stamps", found.own_lags_ms(arm)),
        ("TTFT error", found.ttft_errors_ms(arm)),
    ):
        cells = (f"{np.quantile(values, p):9.3f}" for p in (0.5, 0.9, 0.99, 1))
        print(f"  {name:30}{''.join(cells)}")


def trace_at_15() -> None:
    """(a) 900 rows of a real trace, their times scaled to 15 requests/s.

    The trace counts ticks of 3 s, so that up to 28 requests bear one time. They are
    sent both so and spread evenly within their ticks.
    """
    rows = read_trace(TRACE).rows[:900]
    scale = len(rows) / 15 / (rows[-1].arrival_s - rows[0].arrival_s)
    spread = np.random.default_rng(0).uniform(0, TICK_S, len(rows))
    for how, within_s in (("spread in its ticks", spread), ("in bursts", 0 * spread)):
        at_s = [
            (row.arrival_s + part_s) * scale
            for row, part_s in zip(rows, within_s, strict=True)
        ]
        requests = [
            request(i, at_s[i], rows[i].prompt_tokens, ids=rows[i].block_ids)
            for i in np.argsort(at_s, kind="stable")
        ]
        found = send(requests, {"dense": ("--ttft-ms", "100", "--per-token-ms", "10")})
        table(f"(a) 900 rows of a real trace at 15 requests/s, {how}", found, "dense")
        _trace_bars(found)


def _trace_bars(found: Measured) -> None:
    lags_ms = found.lags_ms("dense")
    errors_ms = np.abs(found.ttft_errors_ms("dense"))
    bar("p99 lag", np.quantile(lags_ms, 0.99), 2, "ms", "2.4")
    bar("max lag", lags_ms.max(), 5, "ms", "5.0")
    bar("out of order", found.out_of_order("dense"), 0, "", "0")
    bar("p99 TTFT error", np.quantile(errors_ms, 0.99), 1.5, "ms", "2.9")
    per_thousand_s = found.cpu_s / len(found.requests) * 1e3
    bar("CPU per 1,000 requests", per_thousand_s, 4, "s", "4.7")
    bar("peak memory", found.peak_mib, 400, "MiB", "617")


def cold_step() -> None:
    """(b) From 20 to 1,200 requests/s at once, short prompts."""
    arrivals_s = [i / 20 for i in range(60)] + [3 + i / 1200 for i in range(4800)]
    requests = [request(i, at_s, 64, answer=2) for i, at_s in enumerate(arrivals_s)]
    found = send(requests, {"dense": ("--ttft-ms", "20", "--per-token-ms", "5")})
    table("(b) from 20 to 1,200 requests/s at once, short prompts", found, "dense")
    lags_ms = found.lags_ms("dense")[60:]
    lost = sum(sent.completion.generation is None for sent in found.sent("dense"))
    bar("p99 lag after the step", np.quantile(lags_ms, 0.99), 20, "ms", "111")
    bar("lost", lost, 0, "", "0")


def long_prompts() -> None:
    """(c) Prompts of 32,000 tokens."""
    requests = [
        request(i, i / 10, 32_000, ids=[f"{i}.{j}" for j in range(62)])
        for i in range(300)
    ]
    found = send(requests, {"dense": ("--ttft-ms", "100", "--per-token-ms", "10")})
    table("(c) prompts of 32,000 tokens at 10 requests/s", found, "dense")
    errors_ms = np.abs(found.ttft_errors_ms("dense"))
    bar("p99 TTFT error", np.quantile(errors_ms, 0.99), 2, "ms", "2.5")


def stall() -> None:
    """(d) One of two servers stands still for 2 s; 4 in flight are allowed."""
    requests = [request(i, i / 20, 1_000) for i in range(400)]
    calm = ("--ttft-ms", "50", "--per-token-ms", "5")
    found = send(
        requests,
        {"dense": calm, "sparse": (*calm, "--stall-at", "5", "--stall-for", "2")},
        max_in_flight=4,
    )
    print("(d) the server of sparse stands still for 2 s, 4 in flight allowed")
    due_s = np.array([request.arrival_s for request in requests])
    for arm in ("dense", "sparse"):
        sent = found.sent(arm)
        ours_s = [each.queue_s + each.completion.service_s for each in sent]
        p90_s = np.quantile(ours_s, 0.9)
        truth_s = np.quantile(found.stamps_s(arm)[:, 2] - due_s, 0.9)
        print(f"  {arm}: p90 from the arrival {p90_s:.3f} s, true {truth_s:.3f} s")
        bar(f"{arm} p90 off by", abs(p90_s / truth_s - 1) * 100, 1, "%", "-")
        waited_s = max(each.queue_s for each in sent)
        print(f"  {arm}: longest wait for room {waited_s:.3f} s")


SCENARIOS: dict[str, Callable[[], None]] = {
    "a": trace_at_15,
    "b": cold_step,
    "c": long_prompts,
    "d": stall,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or SCENARIOS:
        SCENARIOS[name]()
