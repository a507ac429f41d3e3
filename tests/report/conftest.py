"""A made-up run of five policies, one per verdict, as real as a fixture can be."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from canary.decision import (
    Control,
    ControlStatus,
    Decision,
    GateResult,
    GateStatus,
    Look,
    Route,
    Validity,
    Verdict,
)
from canary.evidence.observation import Observation, Status, to_table
from canary.policy.model import Policy, variant_name
from canary.report import ReportData
from canary.wording import (
    because_continue,
    because_inconclusive,
    because_promote,
    because_rollback,
    control_reasons,
)

SPAN_S = 95.0
THRESHOLD = math.log(20)
QUANTILE_THRESHOLD = math.log(1 / 0.045)
WINDOW = {"pattern": "sliding_window", "window": 256}
LOCAL_GLOBAL = {"pattern": "local_global", "window": 512, "global_tokens": 256}
LAYERED = {
    "layers": {"0-2": {"pattern": "sliding_window", "window": 256}, "3": "dense"}
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What an arm of the made-up run is like: how fast, and right how often by task."""

    attention: object
    factor: float
    right: dict[str, float]
    kernel: str


ARMS = (
    Arm(
        attention="dense",
        factor=1.0,
        right={"contracts": 0.99, "code": 1.0, "chat": 0.99},
        kernel="sdpa[dense]",
    ),
    Arm(
        attention=WINDOW,
        factor=0.83,
        right={"contracts": 0.02, "code": 0.12, "chat": 0.4},
        kernel="blocked[sliding_window(window=256)]",
    ),
    Arm(
        attention=LOCAL_GLOBAL,
        factor=0.9,
        right={"contracts": 0.99, "code": 0.6, "chat": 0.96},
        kernel="blocked[local_global(window=512,global_tokens=256)]",
    ),
    Arm(
        attention=LAYERED,
        factor=0.86,
        right={"contracts": 0.99, "code": 0.99, "chat": 0.99},
        kernel="blocked[sliding_window(window=256)]+sdpa[dense]",
    ),
)


def make_policy(name: str, attention: object, gates: list[dict[str, Any]]) -> Policy:
    return Policy.model_validate(
        {
            "version": 1,
            "name": name,
            "baseline": {"model": "reference", "attention": "dense"},
            "candidate": {"model": "reference", "attention": attention},
            "traffic": {
                "source": "replay/azure-conversation.csv.gz",
                "speed": {"baseline_load": "60%"},
                "limit": {"prompt_tokens": "3k"},
            },
            "validation": ["replay/validation/contracts.jsonl"],
            "regimes": [1024, 2048],
            "gates": gates,
            "decision": {
                "min_duration": "10s",
                "max_duration": "10m",
                "min_pairs": 100,
                "look_every": "10s",
                "block": "request",
            },
        }
    ).model_copy(update={"sha256": "ab" * 32})


def gate(name: str, **changes: object) -> GateResult:
    """An accuracy gate that holds, changed as the case needs it."""
    values: dict[str, Any] = {
        "name": name,
        "metric": "accuracy",
        "task": None,
        "regime": None,
        "quantile": None,
        "over_s": None,
        "effect": "difference",
        "unit": "share",
        "limit": -0.05,
        "at_least": True,
        "estimate": 0.002,
        "lower": -0.021,
        "upper": 0.018,
        "baseline": 0.991,
        "candidate": 0.993,
        "log_e_hold": 4.21,
        "log_e_broken": -6.3,
        "units": 210,
        "units_needed": 155,
        "status": GateStatus.HOLDS,
        "threshold_hold": THRESHOLD,
    }
    return GateResult(**values | changes)


def ratio_gate(name: str, **changes: object) -> GateResult:
    """A latency gate that holds, changed as the case needs it."""
    values: dict[str, Any] = {
        "metric": "latency",
        "quantile": 0.5,
        "effect": "ratio",
        "unit": "s",
        "limit": 1.25,
        "at_least": False,
        "estimate": 0.871,
        "lower": 0.842,
        "upper": 0.906,
        "baseline": 0.1624,
        "candidate": 0.1415,
        "log_e_hold": 35.2,
        "log_e_broken": -4.4,
        "units": 640,
        "units_needed": 96,
        "threshold_hold": QUANTILE_THRESHOLD,
    }
    return gate(name, **values | changes)


def looks(gates: tuple[GateResult, ...], verdict: Verdict) -> tuple[Look, ...]:
    """Evidence that grows towards what the gates end with."""
    count = 9

    def grown(end: float, step: int) -> float:
        wave = 0.35 * math.sin(2.1 * step) if step < count else 0.0
        return end * (step / count) ** 1.4 + wave

    return tuple(
        Look(
            elapsed_s=SPAN_S * step / count,
            pairs=95 * step,
            verdict=verdict if step == count else Verdict.CONTINUE,
            log_e_hold=tuple(grown(g.log_e_hold, step) for g in gates),
            log_e_broken=tuple(grown(g.log_e_broken, step) for g in gates),
        )
        for step in range(1, count + 1)
    )


def make_decision(
    policy: Policy,
    verdict: Verdict,
    because: tuple[str, ...],
    gates: tuple[GateResult, ...],
    **changes: object,
) -> Decision:
    baseline, candidate = variant_name(policy.baseline), variant_name(policy.candidate)
    serve = candidate if verdict is Verdict.PROMOTE else baseline
    kernels = {variant_name_of(arm.attention): [arm.kernel] for arm in ARMS}
    broken = [gate.log_e_broken for gate in gates]
    values: dict[str, Any] = {
        "run": "demo-20261123",
        "policy": policy.name,
        "policy_sha256": policy.sha256,
        "verdict": verdict,
        "because": because,
        "elapsed_s": SPAN_S,
        "action": f"replace {baseline} by {candidate}"
        if verdict is Verdict.PROMOTE
        else f"keep {baseline}",
        "pairs": 855,
        "units": 797,
        "gates": gates,
        "validity": Validity(
            valid=True,
            reasons=(),
            void_share=0.0,
            missing_baseline=0,
            missing_candidate=0,
            baseline_load=0.58,
            kernels={arm: kernels[arm] for arm in (baseline, candidate)},
            devices={arm: ["cpu"] for arm in (baseline, candidate)},
        ),
        "routing": (
            Route(
                regime="<1k", serve=serve, pairs=410, why=f"the verdict is {verdict}"
            ),
            Route(
                regime="1k-2k", serve=serve, pairs=395, why=f"the verdict is {verdict}"
            ),
            Route(regime=">=2k", serve=baseline, pairs=50, why="too few requests"),
        ),
        "log_e_rollback": float(np.logaddexp.reduce(broken)) - math.log(len(broken)),
        "threshold_rollback": QUANTILE_THRESHOLD,
        "baseline": baseline,
        "candidate": candidate,
        "looks": looks(gates, verdict),
    }
    return Decision(**values | changes)


def variant_name_of(attention: object) -> str:
    return variant_name(
        Policy.model_validate(
            {
                "version": 1,
                "name": "x",
                "baseline": {"model": "reference", "attention": attention},
                "candidate": {"model": "reference", "attention": "dense"},
                "traffic": {"source": "x"},
                "gates": [{"metric": "accuracy", "margin": "5%"}],
            }
        ).baseline
    )


def promoted() -> tuple[Policy, Decision]:
    policy = make_policy(
        "sparse-but-last-layer",
        LAYERED,
        [
            {"metric": "accuracy", "task": "contracts", "margin": "5%"},
            {"metric": "latency", "quantile": "p50", "max_ratio": 1.25},
            {"metric": "errors", "margin": "2%"},
        ],
    )
    gates = (
        gate("accuracy contracts", task="contracts"),
        ratio_gate("latency p50"),
        gate(
            "errors",
            metric="errors",
            limit=0.02,
            at_least=False,
            estimate=0.0,
            lower=-0.0038,
            upper=0.0041,
            baseline=0.0012,
            candidate=0.0012,
            units=855,
            units_needed=262,
        ),
    )
    because = because_promote(gates)
    return policy, make_decision(policy, Verdict.PROMOTE, because, gates)


def rolled_back() -> tuple[Policy, Decision]:
    policy = make_policy(
        "window-global-code",
        LOCAL_GLOBAL,
        [
            {"metric": "accuracy", "task": "code", "margin": "5%"},
            {"metric": "latency", "quantile": "p50", "max_ratio": 1.25},
        ],
    )
    gates = (
        gate(
            "accuracy code",
            task="code",
            estimate=-0.392,
            lower=-0.541,
            upper=-0.243,
            baseline=1.0,
            candidate=0.608,
            log_e_hold=-19.4,
            log_e_broken=11.7,
            units=60,
            units_needed=60,
            status=GateStatus.BROKEN,
        ),
        ratio_gate("latency p50", estimate=0.904, lower=0.871, upper=0.943),
    )
    because = because_rollback(gates)
    return policy, make_decision(policy, Verdict.ROLLBACK, because, gates)


def controls() -> tuple[Control, ...]:
    """One of each status."""
    slow = Control(
        metric="latency",
        column="service_s",
        effect="ratio",
        quantile=None,
        over_s=None,
        tolerance=1.118,
        estimate=1.4,
        lower=1.31,
        upper=1.52,
        pairs=240,
        log_e_differs=41.5,
        status=ControlStatus.DIFFERS,
    )
    slow_share = dataclasses.replace(
        slow,
        metric="ttft",
        column="ttft_send_s",
        effect="difference",
        over_s=0.5,
        tolerance=0.01,
        estimate=0.004,
        lower=-0.012,
        upper=0.021,
        log_e_differs=-0.4,
        status=ControlStatus.UNKNOWN,
    )
    right = dataclasses.replace(
        slow_share,
        metric="accuracy",
        column="score",
        over_s=None,
        tolerance=0.025,
        estimate=0.0,
        lower=-0.02,
        upper=0.02,
        pairs=58,
        log_e_differs=-1.2,
        status=ControlStatus.AGREES,
    )
    return slow, slow_share, right


def inconclusive() -> tuple[Policy, Decision]:
    policy = make_policy(
        "tail-latency",
        LAYERED,
        [
            {"metric": "latency", "quantile": "p99", "max_ratio": 1.1},
            {"metric": "accuracy", "task": "chat", "margin": "5%"},
            {"metric": "ttft", "over": "500ms", "margin": "2%"},
        ],
    )
    reason = "640 requests so far bound the baseline's p99 on one side only: 1,200 are "
    gates = (
        ratio_gate(
            "latency p99",
            quantile=0.99,
            limit=1.1,
            estimate=0.93,
            lower=None,
            upper=None,
            baseline=0.812,
            candidate=0.755,
            log_e_hold=0.0,
            log_e_broken=0.0,
            units_needed=5400,
            status=GateStatus.INSUFFICIENT,
            reason=f"{reason}needed for a finite bound",
        ),
        gate(
            "accuracy chat",
            task="chat",
            estimate=-0.017,
            lower=-0.093,
            upper=0.036,
            log_e_hold=1.1,
            log_e_broken=-1.2,
            units=58,
            units_needed=171,
            status=GateStatus.UNDECIDED,
        ),
        gate(
            "ttft over 0.5s",
            metric="ttft",
            over_s=0.5,
            limit=0.02,
            at_least=False,
            estimate=-0.031,
            lower=-0.052,
            upper=-0.012,
            baseline=0.084,
            candidate=0.053,
            log_e_hold=9.9,
            units=640,
            units_needed=201,
        ),
    )
    because = because_inconclusive(gates, (), "end of traffic")
    return policy, make_decision(policy, Verdict.INCONCLUSIVE, because, gates)


def invalid() -> tuple[Policy, Decision]:
    policy = make_policy(
        "plain-window",
        WINDOW,
        [{"metric": "accuracy", "task": "contracts", "margin": "5%"}],
    )
    reason = "31 of 886 requests (3.5%) were void or shed, more than 1%"
    gates = (
        gate(
            "accuracy contracts",
            task="contracts",
            estimate=None,
            lower=None,
            upper=None,
            baseline=None,
            candidate=None,
            log_e_hold=0.0,
            log_e_broken=0.0,
            units=0,
            units_needed=None,
            status=GateStatus.INSUFFICIENT,
            reason="no request of this kind has been answered by both arms yet",
        ),
    )
    reasons = (reason, *control_reasons(controls()))
    base = make_decision(policy, Verdict.INVALID, reasons, gates)
    validity = Validity(
        valid=False,
        reasons=reasons,
        void_share=0.035,
        missing_baseline=0,
        missing_candidate=4,
        baseline_load=None,
        kernels=base.validity.kernels,
        devices={},
        control_share=0.25,
        control_pairs=240,
        control=controls(),
    )
    return policy, make_decision(
        policy, Verdict.INVALID, reasons, gates, validity=validity, routing=()
    )


def undecided() -> tuple[Policy, Decision]:
    policy = make_policy(
        "latency-only",
        WINDOW,
        [{"metric": "latency", "quantile": "p50", "max_ratio": 0.85}],
    )
    gates = (
        ratio_gate(
            "latency p50",
            limit=0.85,
            estimate=0.833,
            lower=0.804,
            upper=0.872,
            log_e_hold=2.2,
            units=70,
            units_needed=98,
            status=GateStatus.UNDECIDED,
        ),
    )
    because = because_continue(gates, ("90 of at least 100 pairs",))
    return policy, make_decision(
        policy, Verdict.CONTINUE, because, gates, pairs=90, elapsed_s=11.0
    )


def make_observations(seed: int = 7) -> pa.Table:
    """Rows of 640 timed and 330 scored requests on every arm."""
    generator = np.random.default_rng(seed)
    rows: list[Observation] = []
    for index in range(640):
        tokens = int(np.clip(generator.lognormal(6.75, 0.75), 40, 3000))
        stall = 3.0 if generator.random() < 0.02 else 1.0
        rows += _timed_rows(generator, index, tokens, stall)
    for index in range(330):
        task = ("contracts", "code", "chat")[0 if index < 210 else 1 + index % 2]
        tokens = int(generator.integers(900, 1200 if task == "contracts" else 2600))
        rows += _scored_rows(generator, index, task, tokens)
    return to_table(rows)


def _timed_rows(
    generator: np.random.Generator, index: int, tokens: int, stall: float
) -> list[Observation]:
    rows = []
    shared = 0.02 + 7e-5 * tokens + 6e-9 * tokens**2
    shared *= stall * generator.lognormal(0, 0.18)
    for arm in ARMS:
        speed = (
            1
            if arm.factor == 1
            else arm.factor * (1.1 - 0.08 * math.log2(tokens / 400))
        )
        service = shared * speed * generator.lognormal(0, 0.04)
        failed = index == 333 and arm.factor == 1
        rows.append(
            Observation(
                request_id=f"t{index:04d}",
                arm=variant_name_of(arm.attention),
                arrived_s=SPAN_S * index / 641,
                status=Status.ERROR if failed else Status.OK,
                prompt_tokens=tokens,
                kind="latency",
                ttft_s=None if failed else service * 1.2,
                latency_s=None if failed else service * (1.4 + 0.3 * (index % 3)),
                service_s=service,
                output_tokens=20,
                kernel=arm.kernel,
                device="cpu",
            )
        )
    return rows


def _scored_rows(
    generator: np.random.Generator, index: int, task: str, tokens: int
) -> list[Observation]:
    draw = generator.random()
    return [
        Observation(
            request_id=f"q{index:04d}",
            arm=variant_name_of(arm.attention),
            arrived_s=SPAN_S * index / 331,
            status=Status.OK,
            prompt_tokens=tokens,
            kind="quality",
            task=task,
            group=f"{task}-{index}",
            score=float(draw < arm.right[task]),
            kernel=arm.kernel,
            device="cpu",
        )
        for arm in ARMS
    ]


def make_run() -> dict[str, Any]:
    return {
        "schema": "canary.run/1",
        "run": "demo-20261123",
        "created": "2026-11-23T20:51:07+00:00",
        "command": "canary run policies/*.yaml --seed 1 --out reports/demo",
        "seed": 0,
        "where": "Ray on this machine",
        "versions": {
            "canary": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "ray": "2.60.0",
            "numpy": "2.4.6",
        },
        "machine": {
            "cpu": "AMD EPYC 9R14",
            "cores": 2,
            "memory_bytes": 16 * 2**30,
            "os": "Linux-6.1-x86_64",
        },
        "speed": 1.83,
        "plan": {
            "sha256": "c0" * 32,
            "requests": 970,
            "latency_requests": 640,
            "quality_requests": 330,
            "span_s": 95.2,
            "notes": [
                "1,204 of 9,683 rows of the trace are used, prompts up to 3k.",
                "Prompts are seeded token blocks of the recorded lengths.",
            ],
        },
        "source": {
            "path": "replay/azure-conversation.csv.gz",
            "format": "azure",
            "sha256": "5e" * 32,
            "rows": 9683,
            "bad_rows": 0,
        },
        "validation": [
            {
                "path": "replay/validation/contracts.jsonl",
                "sha256": "1d" * 32,
                "items": 210,
                "groups": 210,
            }
        ],
        "arms": {
            variant_name_of(arm.attention): {
                "device": "cpu",
                "dtype": "float32",
                "torch": "2.13.0",
                "threads": 2,
                "weights_sha256": "77" * 32,
                "peak_memory_bytes": 512 * 2**20,
            }
            for arm in ARMS
        },
        "policies": dict.fromkeys(
            ("sparse-but-last-layer", "window-global-code", "tail-latency"), "ab" * 32
        ),
        "ended": "end of traffic",
        "elapsed_s": 95.2,
        "wall_s": 121.4,
        "answered": 2428,
        "late_p99_s": 0.0012,
        "peak_memory_bytes": 3 * 2**30,
    }


@pytest.fixture(scope="session")
def report_data() -> ReportData:
    """Five policies of one run, one for each verdict."""
    cases = [promoted(), rolled_back(), inconclusive(), invalid(), undecided()]
    return ReportData(
        run=make_run(),
        policies=tuple(policy for policy, _ in cases),
        decisions=tuple(decision for _, decision in cases),
        observations=make_observations(),
    )
