"""What is said about broken policies, word for word (the files in golden/)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from canary.policy.load import load_policies, load_policy
from canary.policy.model import variant_name

HERE = Path(__file__).parent

Write = Callable[..., Path]
FaultsOf = Callable[..., list[str]]
Golden = Callable[[str, str], None]

NUMBERS = [
    *("1e-3", "1e3", "1.0e3", "017", "1_0.5", "'1,5'", "'1.1'", "1:30", "0x10", "110%"),
    *("off", "true", "[1.1]", "2026-11-23", ".nan", "-.Inf", "1.0e+999", "1" * 5000),
    *("~", "''", '"1\\n2"', "1.1\u00a0", '"\\uD800"', "0", "-1.5"),
]
TRUTHS = ["yes", "on", "True", "'true'", "1", "[]"]
SYNTAX = [
    "",
    "# nothing\n",
    "- 1\n",
    "version\n",
    "a: 1\n---\nb: 2\n",
    "a:\n\tb: 1\n",
    "a: b: 1\n",
    "a: 1\n  b: 2\n",
    "a:\n  b: 1\n c: 2\n",
    "a: 'b\n",
    "a: [1, 2\n",
    "a: >=128k\n",
    "{a: >=128k}\n",
    "a: @b\n",
    "a: 1\nb\n",
    "a: b\u0007\n",
    b"a: 1\nb: \xff\n",
    b"\xff\xfea\x00:\x00",
    "[" * 100,
    "# " + "x" * 2**20,
]
KEYS = [
    "? [a, b]\n: 1",
    "'': 1",
    "<<: {name: x}",
    "name: x",
    "exends: x.yaml",
    "economics: {gpu_hour: 3}",
    "loop: true",
    "model: x",
    "places: {}",
    "5: 5",
    '"a\\0b": 1',
]
WINDOW = "{pattern: sliding_window, window: 256}"
CHANGES = [
    ("2x", "2"),
    ("2x", "2x\n  loop: sometimes"),
    ("2x", "2x\n  sample: 0%"),
    ("2x", "2x\n  sample: 150%"),
    ("2x", "2x\n  sample: 10"),
    ("2x", "2x\n  sample: {1k-2k: 10%}"),
    ("2x", "2x\n  sample: {1k-4k: 10%, rest: 100%}"),
    ("2x", "2x\n  sample: {1k-2k: 10, rest: 100%}"),
    ("2x", "2x\n  rate: 2"),
    ("2x", "2x\n  rate: 0/s"),
    ("2x", "{baseline_load: 60%}\n  rate: 2/s"),
    ("2x", "2x\n  tick_spread: 3"),
    ("2x", "2x\n  crop: 10m"),
    ("2x", "2x\n  crop: {form: 10m}"),
    ("2x", "2x\n  crop: {for: 0s}"),
    ("2x", "2x\n  columns: ts"),
    ("2x", "2x\n  columns: {time: ts}"),
    ("2x", "2x\n  columns: {arrival: 5}"),
    ("2x", "2x\n  format: azure\n  columns: {arrival: ts}"),
    ("2x", "2x\n  on_overload: shed"),
    ("2x", "2x\n  max_in_flight: 0"),
    ("2x", "1x\n  follow: true"),
    ("2x", "1x\n  follow: true\n  max_output_tokens: 16\n  loop: true"),
    ("2x", "1x\n  follow: true\n  max_output_tokens: 16\n  format: azure"),
    ("2x", "2x\n  follow: true\n  max_output_tokens: 16"),
    ("{model: reference}", "{model: 'http://localhost:8000/v1', served_model: a}"),
    ("{model: reference}", "{model: reference, served_model: a}"),
    ("{model: reference}", "{model: reference, api_key_env: KEY}"),
    ("2x", "[2x]"),
    ("2x", "2x\n  timeout: 90"),
    ("2x", "0x"),
    ("2x", "{baseline_load: 0%}"),
    ("2x", "{baseline_load: 60}"),
    ("2x", "{}"),
    ("  source: trace.csv", "  folow: true"),
    ("trace.csv", "''"),
    (WINDOW, "5"),
    (WINDOW, "''"),
    (WINDOW, "[dense]"),
    (WINDOW, "dense"),
    (WINDOW, "{pattern: dense}"),
    (WINDOW, "{pattern: sliding_window}"),
    (WINDOW, "{layers: {0-9: dense, 2: dense}}"),
    (WINDOW, "{layers: {0-2: dense}}"),
    (WINDOW, "{pattern: sliding_window, window: }"),
    ("{model: reference}", "{model: refrence}"),
    ("{model: reference}", "{}"),
    ("version: 1", "version: true"),
    ("version: 1", "version: 1.0"),
    ("version: 1", "version: 2"),
    ("window-256", "Window-256"),
    ("window-256", "256"),
    ("[contracts.jsonl]", "[]"),
    ("[contracts.jsonl]", "[contracts.jsonl, 5]"),
    ("[1k, 2k]", "[2k, 2k]"),
    ("[1k, 2k]", "[1k, 2k]\naa_control: 10"),
    ("[1k, 2k]", "[1k, 2k]\naa_control: never"),
    ("[1k, 2k]", "[1k, 2k]\nbudget: 300"),
    ("[1k, 2k]", "[1k, 2k]\nbudget: {gpu_hours: 0}"),
    ("[1k, 2k]", "[1k, 2k]\nbudget: {gpu_hour: 3}"),
    ("[1k, 2k]", "1k"),
    ("[1k, 2k]", "[1k, 2k]\nplacement: H200"),
    ("[1k, 2k]", "[1k, 2k]\nplacement: {gpu: [H200]}"),
    ("[1k, 2k]", "[1k, 2k]\nplacement: {gpu: NVIDIA H200}"),
    ("[1k, 2k]", "[1k, 2k]\nplacement: {sharing: both}"),
    ("[1k, 2k]", "[1k, 2k]\nplacement: {swap_every: daily}"),
    ("[1k, 2k]", "[1k, 2k]\nplacement: {swap_every: 0s}"),
    ("[1k, 2k]", "[1k, 2k]\nplacement: {swap_every: 5s}"),
    ("[1k, 2k]", "[1k, 2k]\nplacement: {sharing: interleaved, swap_every: 2h}"),
    ("[1k, 2k]", "[1k, 2k]\nplacement: {replicas: 0}"),
    ("[1k, 2k]", "[1k, 2k]\nplacement: {replicas: two, swap: 1h}"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: daily"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: {only: 5}"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: {only: 'Mon-Fry 08:00-20:00 UTC'}"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: {only: 'Mon 08:00-24:30 UTC'}"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: {only: 'Mon 08:00-20:00 Europe/Berln'}"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: {only: 'Mon 08:00-20:00 ??'}"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: {only: 'daily 08:00-08:00 UTC'}"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: {ony: 'daily 08:00-20:00 UTC'}"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: {start: 2026-12-01}"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: {start: 2026-12-01T08:00}"),
    ("[1k, 2k]", "[1k, 2k]\nschedule: {start: 2026-13-01T08:00Z}"),
    (
        "decision:\n  min_duration: 10s",
        "schedule: {only: 'Sun 08:00-08:10 UTC'}\ndecision:\n  min_duration: 20m",
    ),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {promoted: {command: [./act.sh]}}"),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {promote: ./act.sh}"),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {promote: {}}"),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {promote: {command: ./act.sh}}"),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {promote: {command: []}}"),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {promote: {command: ['']}}"),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {invalid: {webhook: ftp://example.org}}"),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {invalid: {webhook: 'https://'}}"),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {invalid: {webhook: 'https://a:b@example.org'}}"),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {rollback: {command: [a], token_env: TOKEN}}"),
    ("[1k, 2k]", "[1k, 2k]\nhooks: {rollback: {webhook: 'http://a', token: x}}"),
    ("1k-2k", "1k-4k"),
    ("1k-2k", '">2k"'),
    ("regime: 1k-2k", "task: code"),
    ("metric: accuracy", "metric: agreement"),
    ("metric: accuracy", "metric: agrement"),
    ("metric: accuracy, task: contracts", "metric: output_tokens"),
    ("metric: accuracy, task: contracts, margin: 5%", "metric: output_tokens"),
    ("metric: accuracy", "metric: [accuracy]"),
    ("margin: 5%", "margin: 0.05"),
    ("margin: 5%", "margin: 101%"),
    ("margin: 5%", "margin: 0%"),
    ("margin: 5%", "margin: 5%, over: 2s"),
    ("quantile: p99", "quantile: p0"),
    ("quantile: p99, max_ratio: 1.1", "over: 2s"),
    ("min_duration: 10s", "min_duration: 10"),
    ("min_duration: 10s", "min_duration: 2h"),
    ("max_duration: 30m", "max_duration: 0s"),
    ("look_every: 5s", "block: auto"),
    ("look_every: 5s", "look_every: 5s\n  mode: fixed"),
    ("look_every: 5s", "look_every: 2h\n  mode: fixed"),
    ("look_every: 5s", "look_every: 31m"),
    ("look_every: 5s", "mode: once"),
    ("look_every: 5s", "look_every: 5s\n  inference: sample"),
    ("metric: accuracy, task: contracts", "metric: errors, inference: set"),
    ("metric: accuracy, task: contracts", "metric: errors, quantil: p50"),
    ("look_every: 5s", "look_every: 5s\n  block: never"),
    ("look_every: 5s", "look_every: 5s\n  block: 10"),
    ("look_every: 5s", "look_every: 5s\n  block: [10m]"),
    ("look_every: 5s", "look_every: 5s\n  block: 0s"),
    ("look_every: 5s", "look_every: 5s\n  block: 5s"),
    ("look_every: 5s", "look_every: 5s\n  block: 125s"),
    ("look_every: 5s", "look_every: 5s\n  block: 600500ms"),
    ("look_every: 5s", "look_every: 5s\n  block: 9999d"),
    ("look_every: 5s", "look_every: 5s\n  block: 160s"),
    ("max_duration: 30m", "max_duration: 119s\n  block: 10s"),
    ("look_every: 5s", "alpha: 0%"),
    ("look_every: 5s", "harm_alpha: 51%"),
    ("min_pairs: 100", "min_pairs: 100.0"),
    ("min_pairs: 100", "min_pairs: 0"),
    ("min_pairs: 100", "min_pairs: !!int '100'"),
]


@pytest.mark.parametrize("name", ["broken", "contradictions"])
def test_every_fault_is_named_at_once_and_in_our_words(
    name: str, faults_of: FaultsOf, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A badly broken policy yields all its faults, with places, in a fixed wording."""
    monkeypatch.chdir(HERE / "golden")

    faults = faults_of(Path(f"{name}.yaml"))

    golden(f"{name}.txt", "\n".join(faults) + "\n")


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("numbers", [("max_ratio: 1.1", f"max_ratio: {text}") for text in NUMBERS]),
        ("truths", [("speed: 2x", f"loop: {text}") for text in TRUTHS]),
        ("changes", CHANGES),
    ],
)
def test_one_wrong_value_yields_one_sentence(
    name: str,
    cases: list[tuple[str, str]],
    good: str,
    faults_of: FaultsOf,
    golden: Golden,
) -> None:
    """One change that breaks a good policy is said once, and nothing else is."""
    lines = []
    for old, new in cases:
        faults = faults_of(good.replace(old, new))
        lines += [f"{_short(new)}", *(f"    {fault}" for fault in faults)]

    assert [] == [case for case in cases if case[0] not in good]
    golden(f"{name}.txt", "\n".join(lines) + "\n")


SERVERS = """\
version: 1
name: servers
baseline: {model: 'http://dense:8000/v1', served_model: llama}
candidate: {model: 'http://sparse:8000/v1', served_model: llama}
traffic: {source: trace.csv}
gates: [{metric: errors, margin: 1%}]
decision: {min_duration: 1h, max_duration: 7d}
"""
SERVER_CHANGES = [
    ("source: trace.csv", "source: trace.csv, speed: {baseline_load: 60%}"),
    ("metric: errors, margin: 1%", "metric: memory, quantile: p50, max_ratio: 1.1"),
    ("'http://sparse:8000/v1', served_model: llama", "'http://sparse:8000/v1'"),
    ("'http://sparse:8000/v1', served_model: llama", "reference"),
    ("'http://sparse:8000/v1'", "'http://dense:8000/v1'"),
    ("'http://sparse:8000/v1'", "'http://sparse:8000/v1', attention: dense"),
    ("http://sparse", "http://me:pa55word@sparse"),
    ("sparse:8000/v1", "sparse:8000/v1?key=pa55word"),
    ("source: trace.csv", "source: trace.csv, on_overload: drop"),
    ("traffic:", "placement: {gpu: H200}\ntraffic:"),
]


def test_what_servers_can_not_be_asked_is_one_sentence(
    faults_of: FaultsOf, write: Callable[..., Path], golden: Golden
) -> None:
    """A good policy on servers passes; each thing that they can't do is said once."""
    lines = []
    for old, new in SERVER_CHANGES:
        faults = faults_of(SERVERS.replace(old, new))
        lines += [_short(new), *(f"    {fault}" for fault in faults)]

    names = [variant_name(load_policy(write(SERVERS)).candidate)]
    assert ["llama@sparse:8000"] == names
    golden("servers.txt", "\n".join(lines) + "\n")
    assert "pa55word" not in "".join(line for line in lines if line[0] == " ")


def test_what_is_no_policy_at_all_is_said_in_one_sentence(
    faults_of: FaultsOf, golden: Golden
) -> None:
    """Text that YAML can't read, or that is no mapping, yields one fault, located."""
    faults = {text: faults_of(text) for text in SYNTAX}
    lines = [f"{_short(text)}\n    {said[0]}" for text, said in faults.items()]

    assert {1} == {len(said) for said in faults.values()}
    golden("syntax.txt", "\n".join(lines) + "\n")


def test_keys_that_do_not_belong_are_refused(
    good: str, faults_of: FaultsOf, golden: Golden
) -> None:
    """A key that a policy doesn't have, or has twice, never passes in silence."""
    faults = {text: faults_of(good + text) for text in KEYS}
    lines = [f"{_short(text)}\n    {said[0]}" for text, said in faults.items()]

    assert {1} == {len(said) for said in faults.values()}
    golden("keys.txt", "\n".join(lines) + "\n")


def _short(text: str | bytes) -> str:
    shown = ascii(text)
    return shown if len(shown) < 80 else f"{shown[:20]}..."


@pytest.mark.parametrize(
    ("text", "number"), [("2", 2.0), ("1.0e-3", 0.001), (".5", 0.5), ("+1.5e+1", 15.0)]
)
def test_plain_numbers_are_numbers(
    text: str, number: float, good: str, write: Write
) -> None:
    """A decimal number needs no special form."""
    (policy,) = load_policies([write(good.replace("1.1", text))])

    assert number == policy.gates[1].max_ratio


def test_a_question_about_the_set_needs_an_answer_from_it(
    good: str, faults_of: FaultsOf
) -> None:
    """`inference: set` without a gate on accuracy is a fault, unless one was meant."""
    text = good.replace("decision:", "decision:\n  inference: set")
    accuracy = "metric: accuracy, task: contracts"
    (without,) = faults_of(text.replace(accuracy, "metric: agreement"))
    (misspelt,) = faults_of(text.replace(accuracy, "metric: accurcy"))

    assert without == (
        "policy.yaml:16:14: decision.inference: set is about the accuracy on a "
        "validation set, and no gate asks for it; add {metric: accuracy, margin: 1%} "
        "to gates, or remove it"
    )
    assert "policy.yaml:13:14: gates[0].metric" == misspelt.split(": expected")[0]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(
    good: str, write: Write
) -> None:
    """A file that an editor on Windows saved means the same."""
    (policy,) = load_policies([write(good)])
    text = b"\xef\xbb\xbf" + good.replace("\n", "\r\n").encode()
    (saved,) = load_policies([write(text, "saved.yaml")])

    assert policy.model_dump() == saved.model_dump()
    assert text == saved.text.encode()


def test_faults_of_several_files_come_together(
    good: str, write: Write, faults_of: FaultsOf
) -> None:
    """All files are read before anything is said; the order is that of the call."""
    second = write(good.replace("5%", "5"), "a.yaml")
    first = write(good.replace("2x", "2"), "b.yaml")

    places = [fault.split(": ")[0] for fault in faults_of(first, second)]

    assert ["b.yaml:9:10", "a.yaml:13:49"] == places


def test_files_that_cannot_be_read_are_faults_too(
    tmp_path: Path, faults_of: FaultsOf
) -> None:
    """A missing file, a folder, and a path through a file are named in one error."""
    paths = [tmp_path / "missing.yaml", tmp_path, HERE / "conftest.py" / "x.yaml"]

    assert [
        f"{paths[0]}:1:1: there is no such file; check the path",
        f"{paths[1]}:1:1: this is a folder; name the policy files in it",
        f"{paths[2]}:1:1: this file can't be read: not a directory",
    ] == faults_of(*paths)


def test_a_file_that_gives_nothing_is_a_fault(faults_of: FaultsOf) -> None:
    """A file that can't be read yields a sentence, not a traceback.

    Permissions would show it too, but root may read everything; this file nobody can.
    """
    path = Path("/proc/self/mem")

    assert [f"{path}:1:1: this file can't be read: input/output error"] == faults_of(
        path
    )
