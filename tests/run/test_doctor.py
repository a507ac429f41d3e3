import json

import pytest
from typer.testing import CliRunner

from canary.attention.check import BARS
from canary.attention.kernels import KERNELS
from canary.cli import app


def doctor(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments], terminal_width=120)


def test_a_sound_machine_passes():
    """All kernels agree on the CPU; auto's choice and what is missing are told."""
    result = doctor()

    assert 0 == result.exit_code
    assert "Every kernel that runs here agrees with the reference." in result.stdout
    assert "cpu    prefill dense          sdpa" in result.stdout


def test_json_says_what_was_checked_against_which_bar():
    """Each kernel, pattern, dtype and phase has its error, its bar and what ran."""
    found = json.loads(doctor("--json").stdout)
    checked = {
        (check["kernel"], check["pattern"], check["dtype"], check["phase"])
        for check in found["checks"]
        if check["device"] == "cpu"
    }

    assert found["agrees"]
    assert "canary.doctor/1" == found["schema"]
    assert {"python", "torch", "ray", "triton", "c++ compiler"} == set(
        found["versions"]
    )
    for kernel in ("auto", "blocked", "flex"):
        for pattern in ("dense", "sliding_window", "local_global"):
            for phase in ("prefill", "chunk"):
                assert (kernel, pattern, "float32", phase) in checked
    assert ("sdpa", "dense", "bfloat16", "decode") in checked
    assert all(check["bar"] == BARS[check["dtype"]] for check in found["checks"])


@pytest.mark.parametrize("lie", [lambda out: out * 1.02, lambda out: out / 0])
def test_a_kernel_that_computes_something_else_is_found_out(monkeypatch, lie):
    """A wrong kernel, be it not a number, makes the doctor exit 5 and name it."""
    honest = KERNELS["blocked"]
    monkeypatch.setitem(KERNELS, "blocked", lambda *given: lie(honest(*given)))
    found = doctor("--json")
    wrong = {
        check["kernel"]
        for check in json.loads(found.stdout)["checks"]
        if check["disagrees"]
    }

    assert 5 == found.exit_code
    assert {"auto", "blocked"} == wrong


def test_a_disagreement_is_told_in_words(monkeypatch):
    """People read how many checks disagree, and what not to trust."""
    monkeypatch.setitem(KERNELS, "blocked", lambda q, *_: q)
    found = doctor()

    assert 5 == found.exit_code
    assert "disagree with the reference: don't trust runs from here." in found.stdout


def test_a_kernel_that_cannot_run_is_told_but_no_disagreement(monkeypatch):
    """What torch can't do here is said in a sentence, and the exit code stays 0."""

    def broken(*_):
        raise RuntimeError("no such instruction on this card\nand a long trace")

    monkeypatch.setitem(KERNELS, "flex", broken)
    result = doctor()

    assert 0 == result.exit_code
    assert "flex can't run on cpu in float32: no such instruction" in result.stdout
    assert "long trace" not in result.stdout
