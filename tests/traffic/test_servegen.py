import gzip
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from canary.errors import TrafficError
from canary.traffic.formats import read_trace

Write = Callable[..., Path]
CLIENT = Path(__file__).parents[2] / "replay" / "servegen-m-mid-client64"
HISTOGRAMS = {"input_tokens": "{100: 0.5, 200: 0.5}", "output_tokens": "{7: 1.0}"}


def client(
    write: Write, *windows: str, dataset: object = None, prefix: str = ""
) -> Path:
    lengths = {"0": HISTOGRAMS} if dataset is None else dataset
    write(json.dumps(lengths), f"client/{prefix}dataset.json")
    return write("\n".join(windows) + "\n", f"client/{prefix}trace.csv").parent


def test_the_shipped_client_is_near_what_was_measured() -> None:
    """Count and quantiles are those of the rate process and its histograms."""
    rows = read_trace(CLIENT).rows
    prompts = np.array([row.prompt_tokens for row in rows])
    outputs = np.array([row.output_tokens for row in rows])

    # 39,093 on average; for gaps of variation about 1 the deviation is about 200.
    assert abs(len(rows) - 39_093) < 600
    expected = [3556, 12118, 37940]
    assert np.allclose(expected, np.percentile(prompts, [50, 90, 99]), rtol=0.04)
    expected = [964, 2190, 4068]
    assert np.allclose(expected, np.percentile(outputs, [50, 90, 99]), rtol=0.04)
    long = np.mean(prompts >= 32 * 1024)
    assert 0.014 < long < 0.018


def test_the_shipped_client_follows_its_rate() -> None:
    """Each day has as many requests as its windows' rates make."""
    windows = np.genfromtxt(CLIENT / "trace.csv", delimiter=",", usecols=(0, 1))
    daily = np.bincount((windows[:, 0] // 86_400).astype(int), windows[:, 1] * 600)
    rows = read_trace(CLIENT).rows
    # The trace begins with its first request, less than a minute into the first day.
    days = [int(row.arrival_s // 86_400) for row in rows]
    found = np.bincount(days, minlength=14)

    assert 14 == len(daily)
    assert np.all(np.abs(found - daily) < 5 * np.sqrt(daily))


def test_the_seed_decides_the_rows() -> None:
    """The same seed gives the same rows, folder or file; another gives others."""
    first = read_trace(CLIENT, seed=1)
    again = read_trace(CLIENT / "trace.csv", format="servegen", seed=1)
    other = read_trace(CLIENT, seed=2)

    assert "servegen" == first.format
    assert first.rows == again.rows
    assert first.sha256 == again.sha256 == other.sha256
    assert first.rows != other.rows


def test_rows_are_the_same_on_every_machine() -> None:
    """The rows of seed 0 are a constant: no library or platform changes them."""
    rows = read_trace(CLIENT).rows
    numbers = [
        (round(row.arrival_s * 1e6), row.prompt_tokens, row.output_tokens)
        for row in rows
    ]

    expected = "09bfccb461bcc9b5ce134d2e56037f8d90cd24ddd1e81cbd491adcfb53055005"
    assert expected == hashlib.sha256(repr(numbers).encode()).hexdigest()


@pytest.mark.parametrize("pattern", ["Gamma", "Weibull"])
@pytest.mark.parametrize("cv", [0.5, 1.0, 2.5])
def test_gaps_have_the_rate_and_variation(
    write: Write, pattern: str, cv: float
) -> None:
    """Whatever the variation, a window holds what its rate says."""
    rows = read_trace(client(write, f"0,50,{cv},{pattern},1,1")).rows
    gaps = np.diff([row.arrival_s for row in rows])

    # One window of 600 s; four deviations of the count and of the variation.
    assert abs(len(rows) - 30_000) < 4 * cv * math.sqrt(30_000)
    assert abs(gaps.std() / gaps.mean() - cv) < 0.12 * cv
    assert {100, 200} == {row.prompt_tokens for row in rows}
    assert {7} == {row.output_tokens for row in rows}


def test_windows_without_lengths_give_no_arrivals(write: Write) -> None:
    """An empty histogram stands for no data: no request, and the loss is said."""
    lengths = {"0": HISTOGRAMS, "600": {**HISTOGRAMS, "output_tokens": "{}"}}
    windows = ("0,1,1,Gamma,1,1", "600,2,1,Gamma,1,1", "1200,0,0,,0,0")
    trace = read_trace(client(write, *windows, dataset=lengths))

    assert trace.rows[-1].arrival_s < 600
    assert "about 1,200 requests of windows without lengths" in trace.warnings[1]


def test_clients_of_one_folder_are_one_trace(write: Write) -> None:
    """Files that begin alike belong together; each client draws for itself."""
    client(write, "0,1,1,Gamma,1,1", prefix="chunk-0-")
    folder = client(write, "0,1,1,Gamma,1,1", prefix="chunk-1-")
    path = folder / "chunk-1-dataset.json"
    path.with_name("chunk-1-dataset.json.gz").write_bytes(
        gzip.compress(path.read_bytes())
    )
    path.unlink()
    both = read_trace(folder).rows
    one = read_trace(folder / "chunk-0-trace.csv").rows

    assert len(both) > 1.5 * len(one)
    assert len({row.arrival_s for row in both}) > 0.99 * len(both)


@pytest.mark.parametrize(
    ("windows", "dataset", "message"),
    [
        (["0,1,1,Gamma,1,1", "0,1,1,Gamma,1,1"], None, "csv:2: windows are not in"),
        (["0,1,1,Gamma,1,1", "x"], None, "trace.csv:2: expected 6 fields, got 1"),
        (["0,1,1,Pareto,1,1"], None, "the pattern is 'Pareto', neither Gamma nor"),
        (["0,-1,1,Gamma,1,1"], None, "the rate is not a number from 0 on"),
        (["0,1,0,Gamma,1,1"], None, "cv is 0, not above 0"),
        (["0,0,0,,0,0"], None, "no window has both a rate and lengths"),
        (["0,1e9,1,Gamma,1,1"], None, "add up to 600,000,000,000 requests"),
        (["0,1,1,Gamma,1,1"], {}, "not a JSON object of windows"),
        (["0,1,1,Gamma,1,1"], {"0": {}}, "window '0': input_tokens is missing"),
        (["0,1,1,Gamma,1,1"], {"x": HISTOGRAMS}, "the window is not a number"),
        (
            ["0,1,1,Gamma,1,1"],
            {"0": {**HISTOGRAMS, "input_tokens": "__import__('os').getcwd()"}},
            "input_tokens is not a dict of tokens",
        ),
        (
            ["0,1,1,Gamma,1,1"],
            {"0": {**HISTOGRAMS, "input_tokens": "{1.5: 1}"}},
            "holds 1.5, which is no length",
        ),
        (
            ["0,1,1,Gamma,1,1"],
            {"0": {**HISTOGRAMS, "input_tokens": "{1: -1}"}},
            "holds -1, which is no probability",
        ),
    ],
)
def test_broken_clients(
    write: Write, windows: list[str], dataset: object, message: str
) -> None:
    """Each fault is one sentence with its place; no literal is ever executed."""
    folder = client(write, *windows, dataset=dataset)

    with pytest.raises(TrafficError, match=message):
        read_trace(folder, format="servegen")


def test_a_rate_process_alone_is_not_enough(write: Write) -> None:
    """Without its dataset a client has no lengths: what to put where is said."""
    path = write("0,1,1,Gamma,1,1\n", "trace.csv")

    with pytest.raises(TrafficError, match=r"put the client's dataset\.json beside it"):
        read_trace(path)
