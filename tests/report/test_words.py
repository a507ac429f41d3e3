import dataclasses

from canary.report import ReportData
from canary.report.facts import moment, rules_in_words, shares_device
from canary.report.words import headline, printable, what_would_change, why


def test_headline_counts_verdicts(report_data: ReportData) -> None:
    """Several policies are counted by verdict; one alone is named."""
    decisions = report_data.decisions

    assert "sparse-but-last-layer: promote" == headline(decisions[:1])
    assert "2 promote, 1 rollback" == headline((decisions[0], *decisions[:2]))


def test_final_verdicts_say_so(report_data: ReportData) -> None:
    """Nothing within the run can change a promote or a rollback."""
    for policy, decision in report_data.cases()[:2]:
        (sentence,) = what_would_change(policy, decision)

        assert sentence.startswith("Nothing in this run, the verdict is final.")


def test_what_is_missing_is_counted(report_data: ReportData) -> None:
    """Pairs, time and units that are still missing are each named with their number."""
    policy, decision = report_data.cases()[4]
    early = dataclasses.replace(decision, elapsed_s=4.0)

    short, brief, units = what_would_change(policy, early)

    assert short == "10 more pairs, to reach the policy's 100."
    assert brief == "6 s more, to reach the policy's minimum duration."
    assert units == (
        "latency p50: about 28 more pairs (70 so far), if what follows looks like "
        "what came so far."
    )


def test_what_should_have_been_enough_needs_a_few_more(report_data: ReportData) -> None:
    """A limit on the brink isn't told to need nothing."""
    policy, decision = report_data.cases()[4]
    gate = decision.gates[0]
    brink = dataclasses.replace(gate, units_needed=gate.units)
    late = dataclasses.replace(decision, gates=(brink,), elapsed_s=1e6)

    *_, sentence = what_would_change(policy, late)

    assert "latency p50: a few more pairs (70 so far)" in sentence


def test_evidence_that_would_never_suffice(report_data: ReportData) -> None:
    """Without an estimate of what is needed no number is made up."""
    policy, decision = report_data.cases()[4]
    gate = dataclasses.replace(decision.gates[0], units_needed=None)
    (sentence,) = what_would_change(
        policy, dataclasses.replace(decision, pairs=100, gates=(gate,))
    )

    assert sentence == (
        "latency p50: not more of the same evidence, only a clearer effect or another "
        "limit."
    )


def test_what_a_policy_asks_for_is_said(report_data: ReportData) -> None:
    """How sure it wants to be, how often it looks, and what accuracy is about."""
    policy, decision = report_data.cases()[0]
    rules = policy.decision.model_copy(update={"mode": "fixed", "inference": "set"})
    fixed = policy.model_copy(update={"decision": rules})

    sure, asked = rules_in_words(policy, decision)
    sure_once, asked_once, about = rules_in_words(fixed, decision)

    assert "is at most 5%, however often one looks. If all of them hold" in sure
    assert asked.endswith("it ends after 10 min. It looks every 10 s (9 looks so far).")
    assert "is at most 5%, at its one look. If all of them hold" in sure_once
    assert asked_once.endswith("it ends after 10 min. It looks once, at the end.")
    assert about.startswith("Accuracy is judged on these very questions, not on all")


def test_no_reason_is_said(report_data: ReportData) -> None:
    """A decision without a sentence says that none was recorded."""
    silent = dataclasses.replace(report_data.decisions[0], because=())

    assert "No reason was recorded." == why(silent)


def test_printable_keeps_one_clean_line() -> None:
    """Line breaks and control characters become single spaces, letters stay."""
    assert "a b [31mc é→" == printable("a\r\n\tb \x1b[31mc\x00 é→")


def test_moments() -> None:
    """Times are written out; what is no time is shown as it is."""
    assert "3 May 2026, 09:05 UTC" == moment("2026-05-03T09:05:00+00:00")
    assert "not recorded" == moment(None)
    assert "yesterday" == moment("yesterday")


def test_shared_devices(report_data: ReportData) -> None:
    """Sharing is known only if both arms said where they ran."""
    decision = report_data.decisions[0]
    apart = dataclasses.replace(
        decision,
        validity=dataclasses.replace(
            decision.validity,
            devices={decision.baseline: ["cuda:0"], decision.candidate: ["cuda:1"]},
        ),
    )

    assert shares_device(decision) is True
    assert shares_device(apart) is False
    assert shares_device(report_data.decisions[3]) is None
