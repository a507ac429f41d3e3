"""ServeGen's clients: a rate process and histograms of lengths, drawn into requests.

A client is two files. ``trace.csv`` (no header) says for each window of time when it
starts, its mean rate in requests/s, the coefficient of variation of its gaps, and their
distribution, Gamma or Weibull (its two last columns, fitted parameters, follow from
these and are not read). ``dataset.json`` says for each of its own, longer windows how
long inputs and outputs were: a Python dict literal in a JSON string, tokens to
probability, ``{}`` where nothing was seen.

Source: Xiang et al., ServeGen, arXiv 2505.09999; data of alibaba/ServeGen.

The sampler. Let L(t) be the integral of the rate. Gaps of mean 1 and the window's
variation are drawn one after the other on the scale of L and mapped back to time, so
that a window holds as many requests as its rate says, whatever its variation; a gap
that begins in a window has that window's shape. The first gap of all is cut to a
uniform share of itself, for the process began before the trace. A gamma gap is the
inverse of the regularised incomplete gamma function at a uniform number, a Weibull one
(-ln(1-u))**(1/k) over its mean. Gaps are whole multiples of 2**-20 of the mean gap and
arrivals whole microseconds, so that the last bits of a library's functions don't
matter. Input and output lengths are drawn independently, for their joint distribution
is not published. All uniform numbers come from the raw bits of numpy's Philox.
"""

import ast
import itertools
import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv

from canary.errors import TrafficError
from canary.traffic.lines import LineFile
from canary.traffic.published import csv_fields
from canary.traffic.rows import MAX_TOKENS, RawRow, RowError
from canary.traffic.seeds import stable_uniforms

PATTERNS = ("Gamma", "Weibull")
LENGTHS = ("input_tokens", "output_tokens")

_LITERAL = re.compile(r"[-+0-9eE.:,{}\s]*")
_GRID = 2**20
_MOST_REQUESTS = 10**8
_MOST_CV = 100.0
_LAST_WINDOW_S = 600.0

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time with one rate; no requests come where `rate_rps` is 0."""

    start_s: float
    rate_rps: float
    cv: float
    pattern: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Lengths in ascending order and the share of requests up to each."""

    tokens: Ints
    share: Floats

    def at(self, uniform: Floats) -> Ints:
        """Return the quantiles."""
        return self.tokens[np.searchsorted(self.share[:-1], uniform, side="right")]


@dataclass(frozen=True, slots=True)
class Client:
    """What two files say of one client; `lengths` by the start of their window.

    `name` is what their names begin with, if anything, and tells clients of one folder
    apart, also in the seed; `path` is the trace's.
    """

    name: str
    path: str
    windows: tuple[Window, ...]
    lengths: dict[float, tuple[Histogram, Histogram] | None]
    sha256: tuple[str, str]

    def lengths_at(self, start_s: float) -> tuple[Histogram, Histogram] | None:
        """Return the histograms of the window that holds this time."""
        starts = list(self.lengths)
        at = bisect_right(starts, start_s) - 1
        return self.lengths[starts[at]] if at >= 0 else None


def looks_like_servegen(line: bytes) -> bool:
    """Return whether the line is a window of a client's rate."""
    try:
        window_row(line)
    except RowError:
        return False
    return True


def window_row(line: bytes) -> Window:
    """Read ``0,0.035,0.82,Gamma,1.47,16.4``."""
    fields = csv_fields(line)
    if len(fields) != 6:
        raise RowError(f"expected 6 fields, got {len(fields)}")
    start_s, rate_rps, cv = (
        _number(name, text)
        for name, text in zip(("the window", "the rate", "cv"), fields[:3], strict=True)
    )
    pattern = fields[3].strip()
    if not rate_rps:
        return Window(start_s, 0.0, 1.0, pattern)
    if pattern not in PATTERNS:
        raise RowError(f"the pattern is {pattern!r}, neither {' nor '.join(PATTERNS)}")
    if not 0 < cv <= _MOST_CV:
        raise RowError(f"cv is {cv:g}, not above 0 and up to {_MOST_CV:g}")
    return Window(start_s, rate_rps, cv, pattern)


def read_client(name: str, trace: str, dataset: str) -> Client:
    """Read a client's two files.

    Raises:
        TrafficError: One can't be read, or is not what it should be; the place is told.
    """
    lines = LineFile(trace)
    windows: list[Window] = []
    for number, line in lines:
        try:
            windows.append(window_row(line))
        except RowError as error:
            raise TrafficError(f"{trace}:{number}: {error}") from None
        if len(windows) > 1 and windows[-1].start_s <= windows[-2].start_s:
            raise TrafficError(f"{trace}:{number}: windows are not in order of time")
    lines.refuse_empty(empty=not windows)
    lengths, sha256 = _read_dataset(dataset)
    return Client(name, trace, tuple(windows), lengths, (lines.sha256, sha256))


def sample(client: Client, seed: int) -> tuple[Iterator[RawRow], tuple[str, ...]]:
    """Return the client's requests in order, and what about them would mislead.

    Raises:
        TrafficError: No window has both a rate and lengths, or there are too many
            requests to be meant.
    """
    widths_s = _widths_s(client.windows)
    lengths = [client.lengths_at(window.start_s) for window in client.windows]
    rates = [
        window.rate_rps if known else 0.0
        for window, known in zip(client.windows, lengths, strict=True)
    ]
    total = math.fsum(map(math.prod, zip(rates, widths_s, strict=True)))
    if total > _MOST_REQUESTS:
        raise TrafficError(
            f"{client.path}: its rates add up to {total:,.0f} requests; are they in "
            "requests per second?"
        )
    if not total:
        raise TrafficError(f"{client.path}: no window has both a rate and lengths")
    lost = math.fsum(
        window.rate_rps * width_s
        for window, width_s, known in zip(
            client.windows, widths_s, lengths, strict=True
        )
        if not known
    )
    drawn = f"drawn (seed {seed}) from rates that make {total:,.0f} requests on average"
    said = [f"{drawn}, not recorded; input and output lengths are independent"]
    if lost:
        gone = f"about {lost:,.0f} requests of windows without lengths are left out"
        said.append(gone)
    return _requests(client, rates, widths_s, lengths, seed), tuple(said)


def _requests(
    client: Client,
    rates_rps: Sequence[float],
    widths_s: Sequence[float],
    lengths: Sequence[tuple[Histogram, Histogram] | None],
    seed: int,
) -> Iterator[RawRow]:
    begin = 0
    due: int | None = None
    for number, (window, rate_rps, width_s, known) in enumerate(
        zip(client.windows, rates_rps, widths_s, lengths, strict=True)
    ):
        if known is None or not rate_rps:
            continue
        end = begin + round(rate_rps * width_s * _GRID)
        names = ("servegen", client.name, seed, number)
        if due is None:
            (gap,) = _gaps(window, 1, *names, "first")
            (share,) = stable_uniforms(1, *names, "cut")
            due = begin + int(gap * share)
        at, due = _passed(window, due, begin, end, names)
        seconds = window.start_s + (at - begin) / _GRID / rate_rps
        inputs, outputs = (
            histogram.at(stable_uniforms(len(at), *names, what)).tolist()
            for histogram, what in zip(known, LENGTHS, strict=True)
        )
        for second, prompt, output in zip(seconds, inputs, outputs, strict=True):
            yield RawRow(round(second * 1e6) * 1000, prompt, output)
        begin = end


def _passed(
    window: Window, due: int, begin: int, end: int, names: tuple[int | str, ...]
) -> tuple[Ints, int]:
    """Return the events of a window, and the first one after it, on the grid of L."""
    if due >= end:
        return np.empty(0, np.int64), due
    mean = (end - max(begin, due)) / _GRID
    size = int(mean + 8 * (1 + window.cv) * math.sqrt(mean + 1)) + 8
    while True:
        gaps = _gaps(window, size, *names)
        at = np.cumsum(np.concatenate([[due], gaps]))
        if at[-1] >= end:
            first_after = int(np.searchsorted(at, end))
            return at[:first_after], int(at[first_after])
        size *= 2


def _gaps(window: Window, size: int, *names: int | str) -> Ints:
    """Draw gaps of mean 1, in steps of the grid; none is nothing, so time goes on."""
    uniform = stable_uniforms(size, *names, "gaps")
    if window.pattern == "Gamma":
        shape = 1 / window.cv**2
        gaps = gammaincinv(shape, uniform) / shape
    else:
        shape = _weibull_shape(window.cv)
        gaps = (-np.log1p(-uniform)) ** (1 / shape) / math.gamma(1 + 1 / shape)
    steps: Ints = np.rint(gaps * _GRID).astype(np.int64)
    return np.maximum(steps, 1)


def _weibull_shape(cv: float) -> float:
    """Find k with 1 + cv**2 = gamma(1 + 2/k) / gamma(1 + 1/k)**2, by bisection."""
    wanted = math.log1p(cv**2)

    def excess(shape: float) -> float:
        return math.lgamma(1 + 2 / shape) - 2 * math.lgamma(1 + 1 / shape) - wanted

    low, high = 0.05, 1e4
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return math.sqrt(low * high)


def _widths_s(windows: Sequence[Window]) -> list[float]:
    starts = [window.start_s for window in windows]
    widths = [after - before for before, after in itertools.pairwise(starts)]
    return [*widths, widths[-1] if widths else _LAST_WINDOW_S]


def _read_dataset(
    path: str,
) -> tuple[dict[float, tuple[Histogram, Histogram] | None], str]:
    file = LineFile(path)
    text = b"\n".join(line for _, line in file)
    file.refuse_empty(empty=not text)
    try:
        windows = json.loads(text)
    except (ValueError, RecursionError):
        raise TrafficError(f"{path} is not valid JSON; fetch it again") from None
    if not isinstance(windows, dict) or not windows:
        raise TrafficError(f"{path} is not a JSON object of windows by their start")
    found = {}
    for start, said in windows.items():
        try:
            found[_number("the window", start)] = _window_lengths(said)
        except RowError as error:
            raise TrafficError(f"{path}: window {start[:20]!r}: {error}") from None
    return dict(sorted(found.items(), key=lambda window: window[0])), file.sha256


def _window_lengths(said: object) -> tuple[Histogram, Histogram] | None:
    if not isinstance(said, dict):
        raise RowError("not a JSON object")
    inputs, outputs = (_histogram(name, said.get(name)) for name in LENGTHS)
    return (inputs, outputs) if inputs and outputs else None


def _histogram(name: str, text: object) -> Histogram | None:
    """Read a dict literal, as a literal: nothing in it is ever executed."""
    if not isinstance(text, str):
        raise RowError(f"{name} is missing or not text")
    try:
        literal = ast.literal_eval(text) if _LITERAL.fullmatch(text) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        literal = None
    if not isinstance(literal, dict):
        raise RowError(f"{name} is not a dict of tokens and probabilities")
    for tokens, share in literal.items():
        _check_bin(name, tokens, share)
    # No request has 0 tokens: those are failed ones.
    kept = sorted((tokens, share) for tokens, share in literal.items() if tokens)
    total = math.fsum(share for _, share in kept)
    if not total:
        return None
    shares = np.cumsum([share for _, share in kept]) / total
    return Histogram(np.array([tokens for tokens, _ in kept], np.int64), shares)


def _check_bin(name: str, tokens: object, share: object) -> None:
    whole = isinstance(tokens, int) and not isinstance(tokens, bool)
    if not whole or not 0 <= tokens <= MAX_TOKENS:  # type: ignore[operator]
        raise RowError(f"{name} holds {tokens!r:.40}, which is no length in tokens")
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or not 0 <= share < math.inf:  # type: ignore[operator]
        raise RowError(f"{name} holds {share!r:.40}, which is no probability")


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise RowError(f"{name} is not a number from 0 on")
    return value
