import json
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from canary.attention import Dense, SlidingWindow, check, speed
from canary.attention.check import BARS, RULES, Refusal, check_kernels
from canary.attention.kernels import KERNELS
from canary.attention.speed import LENGTHS_TOKENS, PATTERNS, Speed, pays_from
from canary.cli import app
from canary.doctor import examine
from canary.doctor_words import render

ROWS = tuple(
    Speed(
        device="cpu",
        dtype="float32",
        pattern=pattern,
        rule=pattern,
        tokens=tokens,
        ran="blocked",
        dense_ms=10.0 * tokens / 1024,
        sparse_ms=sparse_ms,
        problem=None,
    )
    for pattern, times_ms in (("narrow", (20.0, 10.0, 8.0)), ("wide", (9.0, 20.0, 40)))
    for tokens, sparse_ms in zip((1024, 2048, 4096), times_ms, strict=True)
)
SPEED = speed.speed
"""Itself: what `examine` finds under its name is the rows above."""


@pytest.fixture(autouse=True, scope="module")
def no_stopwatch():
    """Wall-clock times are no matter of tests: the same rows each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "speed", lambda device: ROWS if device == "cpu" else ())
        yield


@pytest.fixture(scope="module")
def found(no_stopwatch):  # noqa: ARG001 - patched before
    return examine()


@pytest.fixture
def few_rules(monkeypatch):
    rules = {"dense": Dense(), "sliding_window": SlidingWindow(window=100)}
    monkeypatch.setattr(check, "RULES", rules)


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments], terminal_width=120)


def printed(found, width):
    file = StringIO()
    render(found, Console(file=file, width=width))
    return file.getvalue()


def test_every_pattern_agrees_with_the_reference(found):
    """Each kernel that runs here, in all phases and dtypes, against its bar."""
    wrong = [each for each in found.checks if each.disagrees or each.problem]
    checked = {
        (each.kernel, each.pattern, each.phase)
        for each in found.checks
        if each.device == "cpu" and each.dtype == "float32"
    }

    assert not wrong
    assert found.agrees
    assert 14 == len(RULES)
    for pattern in RULES:
        for phase in ("prefill", "chunk", "decode"):
            assert ("auto", pattern, phase) in checked
            assert ("blocked", pattern, phase) in checked
        for phase in ("prefill", "chunk"):
            assert ("flex", pattern, phase) in checked
    assert all(each.bar == BARS[each.dtype] for each in found.checks)


@pytest.mark.parametrize("width", [80, 100])
def test_the_tables_are_read_at_usual_widths(found, width):
    """No line of a table is wider than the console, and no number is cut."""
    said = printed(found, width)
    tables, _, sentences = said.rpartition("dense, ms")

    assert max(len(line) for line in tables.splitlines()) <= width
    assert "…" not in said
    assert "Every kernel that runs here agrees with the reference." in sentences
    for pattern in RULES:
        assert f"\n {pattern} " in said


def test_what_a_kernel_is_not_made_for_is_said_once(found):
    """One sentence a reason, however many checks it rules out."""
    limits = found.limits

    assert "sdpa can't run sparse patterns here: it computes all pairs." in limits
    if not torch.cuda.is_available():
        assert "fused can't run here: it is a CUDA kernel." in limits
        assert "xformers can't run here: it has no operator for the CPU." in limits
        assert {"auto", "blocked", "flex", "sdpa"} == {c.kernel for c in found.checks}
    assert len(set(limits)) == len(limits)


def test_refusals_are_put_together_by_reason(found):
    """Patterns, phases, dtypes and devices are named where not all are meant."""
    cuda = "cuda:0"
    told = (
        ("xformers isn't installed", None, None, "bfloat16"),
        ("xformers isn't installed", None, None, "float32"),
        ("xformers knows softmax only", "relu", "prefill", "float32"),
        ("xformers knows softmax only", "relu", "chunk", "float32"),
        ("xformers knows softmax only", "relu", "decode", "float32"),
        ("xformers knows softmax only", "soft_threshold", "chunk", "float32"),
        ("xformers has no call for a chunk", "tri_shape", "chunk", "float32"),
        ("xformers merges parts in bfloat16 only", None, None, "float32"),
    )
    refusals = tuple(
        Refusal(
            kernel="xformers",
            device=cuda,
            dtype=dtype,
            pattern=pattern,
            phase=phase,
            reason=reason,
        )
        for reason, pattern, phase, dtype in told
    )
    ran = next(c for c in found.checks if c.dtype == "float32")
    more = [replace(ran, device=cuda, dtype=dtype) for dtype in ("bfloat16", "float32")]
    found = replace(
        found,
        refusals=refusals,
        checks=(*(c for c in found.checks if c.device == "cpu"), *more),
        devices=(
            *found.devices[:1],
            replace(found.devices[0], device=cuda, compiles=True),
        ),
    )

    install = "`pip install xformers==0.0.35`"
    assert [
        f"xformers can't run on cuda:0: it isn't installed; {install}",
        "xformers can't run relu and soft_threshold on cuda:0: it knows softmax only.",
        "xformers can't run tri_shape in chunk on cuda:0: it has no call for a chunk.",
        "xformers can't run in float32 on cuda:0: it merges parts in bfloat16 only.",
    ] == found.limits


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("phase", ["prefill", "chunk", "decode"])
def test_no_choice_of_blocks_or_heads_is_a_near_tie(dtype, phase):
    """Inputs moved by 1e-4 of themselves choose the same; rounding is far below."""
    tensors = check._tensors(*check._LENGTHS[phase], "cpu", dtype)
    q, k, v = (x.double() for x in tensors)
    chance = torch.Generator().manual_seed(0)

    def chosen(rule, q, k):
        look = check._look((q, k, v))
        rule = rule.in_call(look)
        if rule.mixes:
            return rule.sparse_heads(look)
        return rule.mask(look).visible(q.device)

    choosing = [rule for rule in RULES.values() if rule.chooses or rule.mixes]
    assert 4 == len(choosing)
    for rule in choosing:
        exact = chosen(rule, q, k)
        if rule.mixes:
            assert 0 < exact.sum() < exact.numel()
        assert torch.equal(exact, chosen(rule, tensors[0], tensors[1]))
        for _ in range(5):
            moved = (
                x * (1 + 1e-4 * torch.randn(x.shape, generator=chance)) for x in (q, k)
            )
            assert torch.equal(exact, chosen(rule, *moved))


@pytest.mark.usefixtures("few_rules")
def test_json_says_what_was_checked_against_which_bar():
    """Versions, checks, speed and limits, under the names that programs read."""
    result = doctor("--json")
    found = json.loads(result.stdout)

    assert 0 == result.exit_code
    assert "canary.doctor/1" == found["schema"]
    assert found["agrees"]
    assert {
        "python",
        "torch",
        "ray",
        "triton",
        "xformers",
        "cudnn",
        "c++ compiler",
    } == set(found["versions"])
    first = found["speed"][0]
    assert (0.5, False) == (first["times_faster"], first["pays"])
    assert len(ROWS) == len(found["speed"])
    assert {"dense", "sliding_window(window=100)"} == {
        each["rule"] for each in found["checks"]
    }


@pytest.mark.usefixtures("few_rules")
@pytest.mark.parametrize("lie", [lambda out: out * 1.02, lambda out: out / 0])
def test_a_kernel_that_computes_something_else_is_found_out(monkeypatch, lie):
    """A wrong kernel, be it not a number, makes the doctor exit 5 and name it."""
    honest = KERNELS["blocked"]
    monkeypatch.setitem(KERNELS, "blocked", lambda *given: lie(honest(*given)))
    found = doctor("--json")

    def refuse(constant):
        raise AssertionError(constant)

    checks = json.loads(found.stdout, parse_constant=refuse)["checks"]

    assert 5 == found.exit_code
    assert {"auto", "blocked"} == {c["kernel"] for c in checks if c["disagrees"]}


@pytest.mark.usefixtures("few_rules")
def test_a_disagreement_is_told_in_words(monkeypatch):
    """People read what disagrees, marked in the table, and what not to trust."""
    monkeypatch.setitem(KERNELS, "blocked", lambda q, *_: q)
    found = doctor()

    assert 5 == found.exit_code
    assert "disagree with the reference: don't trust runs from here." in found.stdout
    assert "blocked disagrees on cpu in float32: dense, sliding_window." in found.stdout
    assert "! " in next(
        line for line in found.stdout.splitlines() if line.startswith(" dense ")
    )


@pytest.mark.usefixtures("few_rules")
def test_a_kernel_that_cannot_run_is_told_but_no_disagreement(monkeypatch):
    """What torch can't do here is said in a sentence, and the exit code stays 0."""

    def broken(*_):
        raise RuntimeError("no such instruction on this card\nand a long trace")

    monkeypatch.setitem(KERNELS, "flex", broken)
    result = doctor()

    assert 0 == result.exit_code
    assert "flex can't run on cpu in float32: no such instruction" in result.stdout
    assert "long trace" not in result.stdout
    assert "fails" in result.stdout


@pytest.mark.usefixtures("few_rules")
def test_checks_leave_the_number_of_threads_as_it_was():
    """They compute on one."""
    threads = torch.get_num_threads()
    seen = set()
    honest = KERNELS["blocked"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            KERNELS,
            "blocked",
            lambda *given: seen.add(torch.get_num_threads()) or honest(*given),
        )
        check_kernels("cpu")

    assert {1} == seen
    assert threads == torch.get_num_threads()


@pytest.mark.usefixtures("few_rules")
def test_speeds_are_shown_as_they_are():
    """Slower than dense is below 1, and a pattern that doesn't pay is said not to."""
    lines = [" ".join(line.split()) for line in doctor().stdout.splitlines()]

    assert "narrow 0.50 2.00 5.00 pays from 2k" in lines
    assert "wide 1.11 1.00 1.00 doesn't pay up to 4k" in lines
    assert "dense, ms 10 20 40" in lines


def test_a_pattern_pays_from_where_it_stays_faster():
    """A length at which it does better by chance, before one where not, is no start."""
    narrow, wide = ROWS[:3], ROWS[3:]

    assert 2048 == pays_from(narrow)
    assert 2048 == pays_from(reversed(narrow))
    assert pays_from(wide) is None
    assert pays_from([]) is None


class Stopwatch:
    """A clock that attention moves on: so many seconds a call, by rule."""

    def __init__(self, dense_s, sparse_s):
        self.now = 0.0
        self.calls = []
        self.dense_s, self.sparse_s = dense_s, sparse_s

    def __call__(self):
        """Return the time."""
        return self.now

    def attend(self, q, k, v, rule):
        """Take the time that a call takes."""
        del k, v
        dense = isinstance(rule, Dense)
        self.calls.append((q.shape[2], dense))
        self.now += self.dense_s if dense else self.sparse_s
        return q, SimpleNamespace(name="kernel")


@pytest.fixture
def timed(monkeypatch):
    """Return a function: what `speed` finds where calls take so long, and the calls."""

    def run(dense_s, sparse_s):
        clock = Stopwatch(dense_s, sparse_s)
        monkeypatch.setattr(speed, "attend", clock.attend)
        return SPEED("cpu", clock=clock), clock

    return run


def test_dense_and_sparse_are_timed_by_turns(timed):
    """Each pattern at each length; milliseconds and their ratio by the given clock."""
    rows, clock = timed(0.020, 0.005)

    assert [
        (tokens, name) for tokens in LENGTHS_TOKENS["cpu"] for name in PATTERNS["cpu"]
    ] == [(row.tokens, row.pattern) for row in rows]
    for row in rows:
        assert 20 == pytest.approx(row.dense_ms)
        assert 5 == pytest.approx(row.sparse_ms)
        assert 4 == pytest.approx(row.times_faster)
        assert row.pays
    between = [n for n, (_, dense) in enumerate(clock.calls) if dense]
    assert {len(PATTERNS["cpu"]) + 1} == {b - a for a, b in pairwise(between)}


@pytest.mark.parametrize(
    ("call_s", "rounds"), [(0.001, 15), (0.02, 5), (0.1, 3), (0.2, 2), (5.0, 1)]
)
def test_slow_calls_are_repeated_less(timed, call_s, rounds):
    """Half a second a length, three rounds unless they take over two seconds."""
    _, clock = timed(call_s, call_s)
    dense = sum(dense for tokens, dense in clock.calls if tokens == 1024)

    assert rounds + 1 == dense


def test_what_cannot_be_timed_is_said(monkeypatch, found):
    """One broken pattern leaves the others their rows; it pays nowhere."""
    monkeypatch.setitem(LENGTHS_TOKENS, "cpu", (1024,))
    clock = Stopwatch(0.1, 0.1)

    def attend(*given):
        if given[-1].name == "tri_shape":
            raise RuntimeError("no room\nat all")
        return clock.attend(*given)

    monkeypatch.setattr(speed, "attend", attend)
    rows = SPEED("cpu", clock=clock)
    broken = next(row for row in rows if row.pattern.startswith("tri_shape"))
    others = [row for row in rows if row is not broken]
    limits = replace(found, speed=rows).limits

    assert (None, None, False) == (broken.sparse_ms, broken.times_faster, broken.pays)
    assert all(row.sparse_ms is not None for row in others)
    assert "At 1024 tokens tri_shape 256 + 64 can't be timed on cpu: no room" in limits
