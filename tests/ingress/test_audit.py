import json
import subprocess
import sys

import numpy as np
import pytest
from shadow import CHAT, ROOT, chat, eventually, post

from canary.errors import UsageError
from canary.ingress.audit import biases, read_audit
from canary.ingress.counts import MIB, Counts
from canary.ingress.reasons import Reason

NOBODY: dict[str, float] = {}


def bodies(sizes):
    counts = Counts()
    for size in sizes:
        counts.measure_body(int(size))
    return counts.arrived()


def sizes(seed, *, median_bytes=100_000, sigma=1.3, count=5000):
    """Draw body sizes as they are: lognormal, with a long tail."""
    return np.random.default_rng(seed).lognormal(np.log(median_bytes), sigma, count)


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_at_a_mebibyte_is_seen(seed):
    """Where a proxy drops what is larger, the sample is marked, with what to change."""
    drawn = sizes(seed)
    assert np.any(drawn > MIB)

    (sentence,) = biases(bodies(drawn[drawn <= MIB]), NOBODY)

    assert "between 512 KiB and 1 MiB and none above" in sentence
    assert "client_max_body_size" in sentence


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.3])
@pytest.mark.parametrize("median_bytes", [1000, 30_000, 200_000, 600_000])
def test_a_tail_that_ends_by_itself_is_none(seed, sigma, median_bytes):
    """Lognormal tails, short and long, are not taken for a cut."""
    drawn = sizes(seed, median_bytes=median_bytes, sigma=sigma)

    assert () == biases(bodies(drawn[drawn < 8 * MIB]), NOBODY)


def arrived(**regimes):
    counts = Counts()
    for name, count in regimes.items():
        for _ in range(count):
            counts.spool({"short": "<8k", "long": "32k-128k"}[name], 1)
    return counts


def test_a_regime_that_is_too_rare_is_seen():
    """Below half of the declared share, once there is enough to tell."""
    expected = {"32k-128k": 0.1}

    assert () == biases(arrived(short=450, long=5).arrived(), expected)
    assert () == biases(arrived(short=900, long=60).arrived(), expected)
    (sentence,) = biases(arrived(short=980, long=20).arrived(), expected)
    assert sentence.startswith("32k-128k: 2.00% of what arrived, 10.00% of primary")


def test_what_was_lost_here_is_seen():
    """A full queue or too large a body bends the sample; sampling does not."""
    counts = arrived(short=5000, long=500)
    for _ in range(20):
        counts.drop(Reason.SAMPLING, "32k-128k")
        counts.drop(Reason.KILL_SWITCH, "32k-128k")
    assert () == biases(counts.arrived(), NOBODY)

    for _ in range(20):
        counts.drop(Reason.QUEUE_TOKENS, "32k-128k")
        counts.drop(Reason.TOO_LARGE)
    too_large, lost = biases(counts.arrived(), NOBODY)
    assert too_large.startswith("20 bodies were over --max-body")
    assert lost.startswith("32k-128k: 20 of 560 requests were lost here")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"biased": "no"}'])
def test_what_is_no_audit(text):
    """Unknown is not unbiased: a broken file is told, with what to do."""
    with pytest.raises(UsageError, match="x: no audit can be read from it; remove it"):
        read_audit(text, where="x")


def audit(spool):
    return subprocess.run(
        [
            *(sys.executable, "-m", "canary.cli", "ingress", "--audit"),
            *("--spool", str(spool)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_behind_a_proxy_that_cuts_the_sample_is_marked(start, nginx, tmp_path):
    """NGINX with its own limit: the file, /healthz and the command agree."""
    ingress = start("--expected", ">=128k=40%")
    small = (("client_max_body_size 8m;", "client_max_body_size 1m;"),)
    url = nginx(ingress.port, *small)
    sizes_bytes = [300_000] * 60 + [900_000] * 60 + [1_500_000] * 60
    statuses = [post(url + CHAT, chat("x" * size))[0] for size in sizes_bytes]
    eventually(lambda: ingress.health()["biased"])
    ingress.stop()

    assert [200] * 120 + [413] * 60 == statuses
    found = json.loads((ingress.spool / "audit.json").read_text())
    assert "canary.ingress-audit/1" == found["schema"]
    assert found["biased"]
    assert (
        "60 bodies lie between 512 KiB and 1 MiB and none above" in found["because"][0]
    )
    told = audit(ingress.spool)
    assert (5, "") == (told.returncode, told.stderr)
    assert [f"biased: {why}" for why in found["because"]] == told.stdout.splitlines()
    missing = audit(tmp_path)
    assert (2, "") == (missing.returncode, missing.stdout)
    assert "audit.json: can't be read (No such file or directory)" in missing.stderr


def test_a_spool_that_is_whole_is_called_so(start):
    """Nothing found is exit 0, with how many requests that rests on."""
    ingress = start()
    ingress.became(chat())
    ingress.stop()

    told = audit(ingress.spool)
    assert (0, "no bias found in 1 requests\n") == (told.returncode, told.stdout)
