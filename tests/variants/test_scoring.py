import subprocess
import sys

import pytest

from canary.variants.scoring import score


@pytest.mark.parametrize(
    ("answer", "target", "scorer", "expected"),
    [
        ("01 02 03", ["01 02 03"], "exact", 1.0),
        ("  01 02\n03 ", ["01 02 03"], "exact", 1.0),
        ("01 02 03 .", ["01 02 03"], "exact", 0.0),
        ("02", ["01", "02"], "exact", 1.0),
        ("", ["01"], "exact", 0.0),
        ("it is 01 or 02", ["01", "02"], "includes_all", 1.0),
        ("it is 01", ["01", "02"], "includes_all", 0.0),
        ("it is 02", ["01", "02"], "includes_any", 1.0),
        ("it is 03", ["01", "02"], "includes_any", 0.0),
        ("it is 01  02", ["01\t02"], "includes_any", 1.0),
    ],
)
def test_an_answer_is_right_or_wrong(answer, target, scorer, expected):
    """Scorers compare up to white space: one target, all of them, or any of them."""
    assert expected == score(answer, target, scorer)


def test_what_cannot_be_scored_is_no_zero():
    """An unknown scorer or an empty target is an error, never a wrong answer."""
    with pytest.raises(ValueError, match="f1"):
        score("01", ["01"], "f1")
    with pytest.raises(ValueError, match="0 targets"):
        score("01", [], "includes_all")


def test_scoring_leaves_torch_alone():
    """Whoever only scores answers, or only asks for `build`, doesn't load torch."""
    code = (
        "import sys, canary.variants, canary.variants.scoring;"
        "sys.exit('torch' in sys.modules)"
    )

    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
