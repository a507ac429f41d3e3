import pytest

from canary.ingress.settings import (
    REGIMES,
    regime_of,
    regime_shares,
    sample_shares,
    size_bytes,
)


def test_regimes_begin_at_their_boundary():
    """8k is 8,192 tokens, and the first of its regime."""
    lengths = (1, 8191, 8192, 32767, 32768, 131071, 131072)

    assert [REGIMES[n] for n in (0, 0, 1, 1, 2, 2, 3)] == [*map(regime_of, lengths)]


def test_shares_by_regime():
    """One share for all, or each regime's own and one for the rest."""
    assert (0.05,) * 4 == sample_shares("5%")
    assert (0.05, 1.0, 1.0, 0.5) == sample_shares("<8k=5%, >=128k=50%,rest=100%")
    assert {"8k-32k": 0.12} == regime_shares("8k-32k=12%")


@pytest.mark.parametrize(
    ("read", "text", "sentence"),
    [
        (sample_shares, "0.05", "expected a share from 0% to 100%, got '0.05'; write"),
        (sample_shares, "<8k=5%", "8k-32k has no share; add rest=100%"),
        (
            sample_shares,
            "8k=5%",
            "'8k' is no regime; write one of <8k, 8k-32k, 32k-128k",
        ),
        (sample_shares, "<8k=5%,<8k=6%", "<8k stands twice; give it one share"),
        (regime_shares, "rest=5%", "'rest' is no regime"),
        (size_bytes, "8MB", "expected a size with its unit, got '8MB'; write for"),
        (size_bytes, "0MiB", "expected a size with its unit, got '0MiB'; write for"),
    ],
)
def test_what_an_option_cant_be(read, text, sentence):
    """Each mistake is one sentence that says what to write."""
    with pytest.raises(ValueError, match=r"\w") as error:
        read(text)

    assert str(error.value).startswith(sentence)
