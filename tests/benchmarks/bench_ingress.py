"""What shadow traffic costs: the ingress's answers, and the primary behind NGINX.

Run by `make bench`. Sends prompts of mixed lengths, each at its planned time whatever
the answers do, and counts from that time: first 500 a second straight to an ingress,
then 100 a second through NGINX, with the mirror off and on in turn. Needs `nginx`.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import uvloop
from shadow import CHAT, Ingress, chat, running_nginx, running_primary

LENGTHS_TOKENS = (500, 2000, 8000, 30_000)
WEIGHTS = (60, 30, 8, 2)
QUANTILES = (0.5, 0.99)


def bodies(seed: int, count: int) -> list[bytes]:
    """Return chat requests: most are short, one in fifty has 30,000 tokens."""
    rng = random.Random(seed)
    made = {tokens: chat("word" * tokens) for tokens in LENGTHS_TOKENS}
    return [made[t] for t in rng.choices(LENGTHS_TOKENS, WEIGHTS, k=count)]


async def _send(url: str, rate: float, seconds: float, seed: int) -> list[float]:
    took_s: list[float] = []
    requests = bodies(seed, int(rate * seconds))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(body: bytes, due_s: float) -> None:
            await asyncio.sleep(due_s - time.monotonic())
            async with session.post(url + CHAT, data=body) as response:
                await response.read()
                assert response.status in {200, 202}
            took_s.append(time.monotonic() - due_s)

        zero_s = time.monotonic() + 0.5
        planned = enumerate(requests)
        await asyncio.gather(*(one(b, zero_s + n / rate) for n, b in planned))
    return took_s


def send(url: str, *, rate: float, seconds: float, seed: int) -> list[float]:
    """Return how long each answer took, from when its request was due."""
    return uvloop.run(_send(url, rate, seconds, seed))


def shown(took_s: list[float]) -> str:
    """Return the quantiles for people."""
    ordered = sorted(took_s)
    at = {q: 1000 * ordered[int(q * (len(ordered) - 1))] for q in QUANTILES}
    return ", ".join(f"p{100 * q:.0f} {value_ms:.2f} ms" for q, value_ms in at.items())


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=8.0)
    seconds = parser.parse_args().seconds
    if shutil.which("nginx") is None:
        sys.exit("nginx is missing; install it with apt-get install nginx-light")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ingress = Ingress(folder)
        stack.callback(ingress.stop)
        send(ingress.url, rate=100, seconds=1, seed=0)  # warm
        took_s = send(ingress.url, rate=500, seconds=seconds, seed=1)
        spooled = ingress.total("spooled") / ingress.total("received")
        say(f"ingress at 500/s: {shown(took_s)}; {spooled:.1%} spooled")

        primary_port = stack.enter_context(running_primary())
        off = ("mirror /_canary;", "mirror off;")
        urls = {}
        for name, changes in {"mirror off": [off], "mirror on": []}.items():
            prefix = folder / name.replace(" ", "-")
            prefix.mkdir()
            urls[name] = stack.enter_context(
                running_nginx(
                    prefix,
                    primary_port=primary_port,
                    ingress_port=ingress.port,
                    changes=changes,
                )
            )
        found: dict[str, list[float]] = {name: [] for name in urls}
        for block in range(6):
            order = list(urls) if block % 2 else list(reversed(urls))
            for name in order:
                part = send(urls[name], rate=100, seconds=seconds / 3, seed=block)
                found[name] += part
        for name, took in found.items():
            say(f"primary behind NGINX at 100/s, {name}: {shown(took)}")


if __name__ == "__main__":
    main()
