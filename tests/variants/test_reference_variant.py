import itertools
from pathlib import Path

import pytest
import torch

from canary.attention import attend, pattern
from canary.errors import ArmError, AttentionError, CanaryError
from canary.policy.model import VariantSpec
from canary.traffic.request import Request, TokenBlocks
from canary.traffic.validation import read_validation
from canary.variants import build
from canary.variants.checkpoint import load_shipped
from canary.variants.scoring import score

VALIDATION = Path(__file__).parents[2] / "replay" / "validation"
WINDOW = {"pattern": "sliding_window", "window": 256}
LOCAL_GLOBAL = {"pattern": "local_global", "window": 256, "global_tokens": 256}
LAST_DENSE = {"layers": {"0-2": WINDOW, "rest": "dense"}}
CONTRACT = (
    '" amber - 01 " means 11 22 33 . \\n the term " basil - 02 " shall mean 44 55 66 . '
    "\\n each annual report of the vendor sends a client , and the invoice keeps the "
    'service . \\n Q : what does " basil - 02 " mean ? A :'
)


def variant(attention="dense", **options):
    spec = VariantSpec(model="reference", attention=attention)
    return build(spec, **{"device": "cpu", **options})


def question(text=CONTRACT, *, stop=(".",), max_output_tokens=8):
    return Request(
        request_id="q",
        kind="quality",
        arrival_s=0.0,
        max_output_tokens=max_output_tokens,
        text=text,
        target=("44 55 66",),
        stop=stop,
    )


def traffic(length_tokens, max_output_tokens, request_id="t"):
    return Request(
        request_id=request_id,
        kind="latency",
        arrival_s=0.0,
        max_output_tokens=max_output_tokens,
        blocks=TokenBlocks(length_tokens=length_tokens, seed=5),
    )


def shipped_questions(task, number):
    (shipped,) = read_validation([VALIDATION / f"{task}.jsonl"])
    for item in shipped.items[:number]:
        request = Request(
            request_id=item.id,
            kind="quality",
            arrival_s=0.0,
            max_output_tokens=item.max_tokens,
            text=item.input + item.answer_prefix,
            target=item.target,
            stop=item.stop,
        )
        yield request, item


def right(candidate, task, number):
    return sum(
        score(candidate.generate(request).answer, item.target, item.scorer)
        for request, item in shipped_questions(task, number)
    )


def test_an_answer_ends_before_its_stop_string():
    """The answer is what stands before the stop string, whose token was made too."""
    made = variant().generate(question())

    assert "44 55 66" == made.answer
    assert 4 == made.output_tokens
    assert 1 + len(CONTRACT.split()) == made.prompt_tokens


def test_an_answer_without_stop_string_has_all_its_tokens():
    """Without a stop string, or with one that doesn't come, the limit ends it."""
    reference = variant()

    unstopped = reference.generate(question(stop=(), max_output_tokens=5))
    never = reference.generate(question(stop=("zephyr zephyr",), max_output_tokens=2))

    assert unstopped.answer.startswith("44 55 66 .")
    assert 5 == len(unstopped.answer.split()) == unstopped.output_tokens
    assert "44 55" == never.answer


@pytest.mark.parametrize(("length", "outputs"), [(1, 1), (300, 1), (300, 7)])
def test_traffic_gets_exactly_the_recorded_tokens(length, outputs):
    """A request of kind latency reads and writes as many tokens as were recorded."""
    made = variant().generate(traffic(length, outputs))

    assert (length, outputs) == (made.prompt_tokens, made.output_tokens)
    assert made.answer is None


def test_time_is_taken_from_the_given_clock():
    """The clock is read at the call, at the first token and at the end, never else."""
    ticks = itertools.count(100.0)

    made = variant(clock=lambda: next(ticks)).generate(traffic(20, 5))

    assert (1.0, 2.0) == (made.first_token_s, made.end_s)
    assert 103.0 == next(ticks)


def test_kernels_and_density_say_what_ran():
    """Each kernel is named once in order of use; density is the mean over layers."""
    dense = variant().generate(traffic(512, 2))
    mixed = variant(LAST_DENSE).generate(traffic(512, 2))

    window_share = (256 * 257 / 2 + 256 * 256) / (512 * 513 / 2)
    assert (("sdpa[dense]",), 1.0) == (dense.kernels, dense.density)
    assert ("blocked[sliding_window(window=256)]", "sdpa[dense]") == mixed.kernels
    assert pytest.approx((3 * window_share + 1) / 4) == mixed.density


def test_decoding_one_by_one_says_what_reading_at_once_says():
    """The cached greedy answer has the likeliest word at each place of the text."""
    reference = variant(WINDOW)
    made = reference.generate(question(stop=(), max_output_tokens=6))

    words = made.answer.split()
    for number in range(1, 6):
        so_far = " ".join([CONTRACT, *words[:number]])
        again = reference.generate(question(so_far, stop=(), max_output_tokens=1))
        assert words[number] == again.answer


def test_threads_are_given_back():
    """Decoding on one thread leaves the process's number of threads as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        variant().generate(traffic(20, 3))
        after = torch.get_num_threads()
    finally:
        torch.set_num_threads(before)

    assert 3 == after


def test_a_variant_says_what_it_is():
    """Device, number type, torch, threads and weights are told as text."""
    facts = variant(LAST_DENSE).describe()

    assert ("cpu", "float32", torch.__version__) == (
        facts["device"],
        facts["dtype"],
        facts["torch"],
    )
    assert str(torch.get_num_threads()) == facts["threads"]
    assert 64 == len(facts["weights_sha256"])
    assert "0-2:sliding_window(window=256)+rest:dense" == facts["attention"]


def test_what_cannot_run_is_refused_when_built():
    """Unknown models, devices and incomplete patterns fail before any request."""
    with pytest.raises(ArmError, match="no model 'llama' ships"):
        build(VariantSpec(model="llama"))
    with pytest.raises(ArmError, match="device 'tpu9' can't be used here"):
        variant(device="tpu9")
    with pytest.raises(AttentionError, match="layer 3"):
        variant({"layers": {"0-2": WINDOW}})


def test_an_unknown_word_is_an_error_not_an_answer():
    """A text that the model can't read raises instead of being read approximately."""
    with pytest.raises(CanaryError, match="'lorem'"):
        variant().generate(question("lorem ipsum"))


@pytest.mark.parametrize("task", ["contracts", "code", "chat", "hops"])
def test_dense_answers_the_shipped_questions(task):
    """Served one by one, the dense model answers what ships."""
    assert 6 == right(variant(), task, 6)


def test_what_patterns_lose_depends_on_the_task():
    """A window loses contracts; globals hold them but not code; a dense layer both."""
    window, globals_, last = variant(WINDOW), variant(LOCAL_GLOBAL), variant(LAST_DENSE)

    assert 0 == right(window, "contracts", 6)
    assert 6 == right(globals_, "contracts", 6)
    assert right(globals_, "code", 12) <= 8
    assert 6 == right(last, "contracts", 6) == right(last, "code", 6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("attention", ["dense", LOCAL_GLOBAL, LAST_DENSE])
def test_cuda_answers_as_the_cpu_does(attention):
    """In bfloat16 on CUDA the answers to shipped questions are those of the CPU."""
    here, there = variant(attention), variant(attention, device="cuda")

    for task in ("contracts", "code"):
        for request, _ in shipped_questions(task, 6):
            assert here.generate(request).answer == there.generate(request).answer
    assert there.describe()["device"].startswith("cuda")


def test_a_table_for_another_model_is_refused_when_the_arm_is_built(tmp_path):
    """Not at each request, as an error of the arm's."""
    file = tmp_path / "heads.tsv"
    file.write_text("1\t0\n0\t1\n")
    attention = {
        "pattern": "head_table",
        "table_file": str(file),
        "sparse": {"pattern": "sliding_window", "window": 64},
    }

    with pytest.raises(AttentionError, match="2 layers, and none is layer 2"):
        variant(attention)


def test_a_window_keeps_no_more_than_it_sees_and_answers_alike():
    """Tokens decoded from a bounded cache are those of a cache that keeps all."""
    model = load_shipped(dtype=torch.float32, device=torch.device("cpu"))
    rule = pattern({"pattern": "local_global", "window": 40, "global_tokens": 8})
    ids = torch.randint(1, 300, (1, 130), generator=torch.Generator().manual_seed(2))

    def read(bands, steps):
        cache = model.cache(capacity_tokens=130, bands=bands)
        with torch.inference_mode():
            out = [
                model(
                    ids[:, low:high],
                    lambda q, k, v, _: attend(q, k, v, rule)[0],
                    cache,
                )
                for low, high in steps
            ]
        return torch.cat(out, 1), cache.bytes

    steps = [(0, 70), (70, 100), *((n, n + 1) for n in range(100, 130))]
    whole, all_bytes = read([None] * 4, [(0, 130)])
    kept, kept_bytes = read([rule.kept()] * 4, steps)

    torch.testing.assert_close(kept, whole, rtol=1e-4, atol=2e-3)
    assert kept_bytes * 130 == all_bytes * 48
