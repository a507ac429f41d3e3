"""Arms in real Ray actors on this machine."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from ray.cluster_utils import Cluster

from canary.arms.base import ArmDiedError, ArmsLostError
from canary.arms.causes import Cause
from canary.arms.ray import ray_cluster, start_ray_arms
from canary.arms.ray.placement import MODEL_LABEL
from canary.errors import ArmError
from canary.evidence.pairs import CONTROL_ARM
from canary.policy.model import VariantSpec
from canary.policy.placement import Placement
from canary.testing import ScriptedVariant
from canary.traffic.request import Request

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A node that claims to have four cards, which Ray hands out by number."""
    labels = {MODEL_LABEL: "H200"}
    head = {"num_cpus": 2, "num_gpus": 4, "labels": labels, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        with ray_cluster(started.address):
            yield
    finally:
        started.shutdown()


def build(spec):
    """A variant that takes its process with it when it is asked for q1."""
    if spec.attention == "broken":
        raise ValueError("the weights are missing")

    def service_s(request):
        if request.request_id == "q1":
            os._exit(1)
        if request.request_id == "hangs":
            time.sleep(3600)
        return 0.1

    return ScriptedVariant(service_s=service_s)


class OnACard(ScriptedVariant):
    """Says which card its process was given."""

    def describe(self):
        """Return what CUDA would go by."""
        return super().describe() | {"card": os.environ["CUDA_VISIBLE_DEVICES"]}


def on_a_card(spec):
    """A variant that tells its card."""
    del spec
    return OnACard()


def shaky(folder, spec):
    """As `build`; but the second time that b is loaded, its process dies of it."""
    if spec.attention != "dense":
        loads = folder / "loads"
        before = loads.read_text() if loads.exists() else ""
        loads.write_text(before + ".")
        if before == ".":
            os._exit(1)
    return build(spec)


def ask(request_id):
    return Request(
        request_id=request_id,
        kind="quality",
        arrival_s=0.0,
        max_output_tokens=2,
        text="what ?",
        target=("42",),
    )


def test_a_dead_actor_is_known_and_comes_back():
    """The death of a process is told from an answer, and a restart serves again."""
    arm = start_ray_arms(
        {"a": VariantSpec(model="reference")}, build=build, timeout_s=60.0
    )[0].arms["a"]
    before = arm.serve(ask("q0"))

    with pytest.raises(ArmDiedError) as caught:
        arm.serve(ask("q1"))
    arm.restart()
    after = arm.serve(ask("q2"))
    arm.close()

    assert before.status == after.status == "ok"
    assert (0, 0, 1) == (before.epoch, caught.value.completion.epoch, after.epoch)
    assert before.peak_memory_bytes > 0
    assert caught.value.completion.status == "error"
    assert "process died" in caught.value.completion.error


def test_a_hanging_actor_is_given_up_and_comes_back(monkeypatch):
    """Nobody waits for ever: the request is a timeout, and a restart serves again."""
    monkeypatch.setattr("canary.arms.ray.arm._HANG_S", 0.5)
    specs = {"a": VariantSpec(model="reference")}
    arm = start_ray_arms(specs, build=build, timeout_s=0.5)[0].arms["a"]

    with ThreadPoolExecutor(1) as other:
        asked = other.submit(arm.serve, ask("hangs"))
        told = arm.describe()
        with pytest.raises(ArmDiedError) as caught:
            asked.result()
    arm.restart()
    after = arm.serve(ask("q2"))
    again = arm.describe()
    arm.close()

    assert caught.value.cause is Cause.DEADLINE
    assert caught.value.completion.status == "timeout"
    assert "over 0.5 s" in caught.value.completion.error
    assert ("ok", 1) == (after.status, after.epoch)
    assert ("scripted", "exclusive") == (told["model"], told["sharing"])
    assert told["node_id"] == again["node_id"]
    assert told["pid"] != again["pid"]


def test_what_takes_the_place_away_ends_all_arms_and_rebuilds_them(tmp_path):
    """An answer of an earlier actor is refused; then all arms begin anew, together, and
    one that dies while it loads gets another try."""
    specs = {
        "a": VariantSpec(model="reference"),
        "b": VariantSpec(model="reference", attention="sliding_window(window=256)"),
    }
    sets = start_ray_arms(specs, build=partial(shaky, tmp_path), timeout_s=60.0)
    arms = sets[0].arms
    first = {name: arm.describe()["pid"] for name, arm in arms.items()}
    arms["a"]._epoch += 1  # as if its actor were the one before

    with pytest.raises(ArmsLostError, match="stale answer: a is at epoch 1, not 0"):
        arms["a"].serve(ask("q0"))
    arms["a"].restart()
    after = [arm.serve(ask("q0")) for arm in arms.values()]
    then = {name: arm.describe()["pid"] for name, arm in arms.items()}
    for arm in arms.values():
        arm.close()

    assert [("ok", 2), ("ok", 2)] == [(one.status, one.epoch) for one in after]
    assert not set(first.values()) & set(then.values())


def test_a_variant_that_cannot_be_loaded_is_one_sentence():
    """What is wrong with the variant reaches the user, not Ray's wrapping of it."""
    broken = VariantSpec(model="reference", attention="broken")

    with pytest.raises(
        ArmError, match=r"arm b can't be started: .*weights are missing"
    ):
        start_ray_arms({"b": broken}, build=build, timeout_s=60.0)


SPECS = {
    "dense": VariantSpec(model="reference"),
    "window": VariantSpec(model="reference", attention="sliding_window(window=256)"),
    CONTROL_ARM: VariantSpec(model="reference"),
}


def cards(one):
    """The card that each arm of a set says it has."""
    return {name: arm.describe()["card"] for name, arm in one.arms.items()}


def test_sets_have_cards_of_their_own_and_arms_change_places_on_them():
    """Two arms and a copy, twice: four cards; the copy stays with the candidate."""
    sets = start_ray_arms(
        SPECS, build=on_a_card, timeout_s=60.0, placement=Placement(replicas=2)
    )
    before = [cards(one) for one in sets]
    sets[0].arrange(1)
    moved = cards(sets[0])
    answer = sets[0].arms["window"].serve(ask("q0"))
    sets[0].arrange(2)
    back = cards(sets[0])
    lanes = {name: sets[0].lane(name) for name in SPECS}
    for one in sets:
        for arm in one.arms.values():
            arm.close()

    assert {"0", "1", "2", "3"} == {card for one in before for card in one.values()}
    assert all(one["window"] == one[CONTROL_ARM] != one["dense"] for one in before)
    first = before[0]
    assert (first["dense"], first["window"]) == (moved["window"], moved["dense"])
    assert moved["window"] == moved[CONTROL_ARM]
    assert ("ok", 1) == (answer.status, answer.epoch)
    assert first == back
    assert 2 == sets[0].arrangements
    assert lanes["window"] == lanes[CONTROL_ARM] != lanes["dense"]


def test_a_card_that_is_not_the_pinned_model_is_refused():
    """A label is what somebody has written; the driver knows better, or nothing."""
    with pytest.raises(
        ArmError, match="to run on a GPU of the model H200, but its dri"
    ):
        start_ray_arms(
            SPECS, build=on_a_card, timeout_s=60.0, placement=Placement(gpu="H200")
        )
