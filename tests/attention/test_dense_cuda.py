"""Dense attention on CUDA: which of torch's kernels runs, by name, at which lengths."""

from itertools import pairwise

import pytest
import torch

from canary.attention import (
    Dense,
    SlidingWindow,
    attend,
    padded_length,
    warm_lengths,
)


def test_lengths_are_few_whole_blocks_and_not_much_longer():
    """Eight lengths an octave beyond 1k, multiples of 128, at most an eighth longer."""
    for tokens in (1, 127, 128, 129, 1000, 1025, 4097, 8191, 8192, 8193, 100_000):
        length = padded_length(tokens)
        assert 0 == length % 128
        assert tokens <= length <= max(tokens * 9 / 8, tokens + 127)
        assert length == padded_length(length)


def test_warm_lengths_are_all_that_prompts_are_padded_to():
    """No prompt of up to the most tokens runs at a length that wasn't warmed."""
    lengths = warm_lengths(8192)

    assert set(lengths) == {padded_length(tokens) for tokens in range(1, 8193)}
    assert all(shorter < longer for shorter, longer in pairwise(lengths))
    assert 32 == len(lengths)


def tensors(q_len, kv_len, dtype, heads=4):
    return [
        torch.randn(1, tokens, heads, 64, device="cuda", dtype=dtype).transpose(1, 2)
        for tokens in (q_len, kv_len, kv_len)
    ]


@pytest.mark.parametrize(
    ("dtype", "prefill", "decode"),
    [
        (torch.bfloat16, "sdpa(cudnn)[dense]", "sdpa(flash)[dense]"),
        (torch.float16, "sdpa(cudnn)[dense]", "sdpa(flash)[dense]"),
        (torch.float32, "sdpa(efficient)[dense]", "sdpa(efficient)[dense]"),
        (torch.float64, "sdpa(math)[dense]", "sdpa(math)[dense]"),
    ],
)
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_kernel_that_runs_on_cuda_is_named(dtype, prefill, decode):
    """CuDNN reads and flash decodes in half precision; others are named as well."""
    for q_len, kv_len, name in ((300, 300, prefill), (1, 333, decode)):
        q, k, v = tensors(q_len, kv_len, dtype)
        with torch.profiler.profile() as profile:
            out, evidence = attend(q, k, v, Dense())
        exact, _ = attend(
            q.double(), k.double(), v.double(), Dense(), backend="reference"
        )
        called = {event.key for event in profile.key_averages()}

        assert name == str(evidence)
        inner = name.partition("(")[2].partition(")")[0]
        assert inner == "math" or any(inner in key for key in called)
        torch.testing.assert_close(out.double(), exact, rtol=3e-2, atol=3e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_auto_on_cuda_picks_by_what_is_hidden():
    """A window longer than the prompt is read densely, a shorter one by tiles."""
    rule = SlidingWindow(window=256)
    names = [
        attend(*tensors(q_len, kv_len, torch.bfloat16), rule)[1].name
        for q_len, kv_len in ((256, 256), (300, 300), (40, 300), (1, 300))
    ]

    assert ["sdpa(cudnn)", "fused", "fused", "blocked(flash)"] == names
