"""The canary: steps while every guard holds, rejection on evidence, and whatever operation a crash follows."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from daemon.core.calls import Call, Done, Failed, Inconclusive, Working
from handlers import canary
from handlers.canary import Canary

INPUTS = {"steps": [10, 50], "each": "10m", "look": "1m", "guards": ["error_rate", "latency_p95", "prediction_shift"]}


@pytest.fixture
def fed(world: Any, make_block: Any) -> Any:
    """The world, with traffic measured once a minute according to the split; `fed.of` says what version 2 is like."""

    def feed() -> None:
        shares = world.split.weights
        arms = {
            f"v{version}": make_block(round(4 * share), **(world.of if version == "2" else {}))
            for version, share in shares.items()
        }
        world.measured(**arms)

    world.of = {}
    world.feed = feed
    feed()
    return world


def test_a_good_version_goes_up_all_steps_and_passes(fed: Any, call: Any) -> None:
    """A version as good as the champion gets 10, then 50 percent, and passes with what the later steps need."""
    outcome = fed.drive(canary.run, call("canary", {**INPUTS, "soak": "1h"}, {"version": "2"}), fed.feed)

    assert isinstance(outcome, Done)
    assert fed.changes == ["deploy 2", "shift {'2': 10.0, '1': 90.0}", "shift {'2': 50.0, '1': 50.0}"]
    assert outcome.outputs["stable"] == "1"
    assert outcome.outputs["soak"] == 3600.0
    assert outcome.outputs["canary"]["epoch"] == fed.split.epoch
    assert outcome.outputs["canary"]["requests"] >= 1000


@pytest.mark.parametrize(
    ("like", "guard"),
    [({"failed": 8}, "error_rate"), ({"slow": 20}, "latency_p95"), ({"shift": True}, "prediction_shift")],
    ids=["fails more", "is slower", "says something else"],
)
def test_a_worse_version_is_rejected_by_the_guard_that_sees_it(
    fed: Any, call: Any, like: dict[str, Any], guard: str
) -> None:
    """A version that is worse in one respect is rejected, quarantined by all that names it, and the evidence is kept."""
    fed.of = like

    outcome = fed.drive(canary.run, call("canary", INPUTS, {"version": "2"}), fed.feed)

    assert isinstance(outcome, Failed)
    assert outcome.quarantine
    assert outcome.barred == {"version": "2", "created": "1700", "digest": "digest-2"}
    assert outcome.answers[0].result["guards"][guard]["finding"] == "worse"
    assert guard in outcome.why


def test_the_pin_is_written_before_any_traffic_is_shifted(fed: Any, call: Any) -> None:
    """Where to go back to is a tag of the version before its first request, whatever comes after."""
    stands = call("canary", INPUTS, {"version": "2"})
    while fed.split.weights == {"1": 100.0}:
        pinned = fed.versions["2"].tags.get("driftd.pin.run1", "")
        outcome = canary.run(stands, fed)
        assert isinstance(outcome, Working)
        stands = replace(stands, state=outcome.state)
        fed.feed()

    assert '"stable": "1"' in pinned


@pytest.mark.parametrize("operation", range(5))
def test_a_crash_after_any_operation_ends_the_same_way(fed: Any, call: Any, operation: int) -> None:
    """However early or late the process dies, the repeated call finds what the first one made and makes nothing twice."""
    fed.crash_after = operation

    outcome = fed.drive(canary.run, call("canary", INPUTS, {"version": "2"}), fed.feed)

    assert fed.crash_after is None
    assert isinstance(outcome, Done)
    assert fed.changes == ["deploy 2", "shift {'2': 10.0, '1': 90.0}", "shift {'2': 50.0, '1': 50.0}"]


def test_every_call_may_come_twice(fed: Any, call: Any) -> None:
    """Each call is made twice with the same state, as after a crash before its outcome was stored."""

    def twice(one: Call, context: Any) -> Any:
        canary.run(one, context)
        return canary.run(one, context)

    outcome = fed.drive(twice, call("canary", INPUTS, {"version": "2"}), fed.feed)

    assert isinstance(outcome, Done)
    assert fed.changes == ["deploy 2", "shift {'2': 10.0, '1': 90.0}", "shift {'2': 50.0, '1': 50.0}"]


def test_a_change_by_somebody_else_is_never_overwritten(fed: Any, call: Any) -> None:
    """When a person changes the split during a canary, the canary fails without a quarantine and leaves the split."""

    def meddle() -> None:
        fed.feed()
        if fed.split.weights.get("2") == 10.0:
            fed.split = fed.split.shifted({"1": 100}, fed.split.epoch, "operator/ann")

    outcome = fed.drive(canary.run, call("canary", INPUTS, {"version": "2"}), meddle)

    assert isinstance(outcome, Failed)
    assert not outcome.quarantine
    assert "operator/ann" in outcome.why
    assert fed.split.weights == {"1": 100.0}


def test_no_traffic_is_no_success(fed: Any, call: Any) -> None:
    """When requests stop, nothing is known: it waits until its deadline and is inconclusive."""
    outcome = fed.drive(canary.run, call("canary", INPUTS, {"version": "2"}))

    assert isinstance(outcome, Inconclusive)
    assert fed.split.weights == {"2": 10.0, "1": 90.0}


def test_nothing_is_concluded_from_what_was_measured_long_ago(fed: Any, call: Any) -> None:
    """Good so far, then an outage in which the version goes bad: it is not promoted before that is measured."""
    stands = call("canary", INPUTS, {"version": "2"})
    while stands.state.get("step", -1) < 1:
        outcome = canary.run(stands, fed)
        assert isinstance(outcome, Working)
        stands = replace(stands, state=outcome.state)
        fed.now += timedelta(seconds=60)
        fed.feed()
    for _ in range(8):
        outcome = canary.run(stands, fed)
        assert isinstance(outcome, Working)
        stands = replace(stands, state=outcome.state)
        fed.now += timedelta(seconds=60)
        fed.feed()
    stands = replace(stands, state=canary.run(stands, fed).state)
    fed.now += timedelta(minutes=30)
    waits = canary.run(stands, fed)
    fed.of = {"failed": 100}
    fed.feed()

    assert isinstance(waits, Working)
    assert "lately" in waits.note
    assert isinstance(fed.drive(canary.run, replace(stands, state=waits.state), fed.feed), Failed)


def test_an_outage_of_the_serving_side_is_unknown_not_bad(fed: Any, call: Any) -> None:
    """While the gateway does not answer the canary waits; when it is back it goes on to its verdict."""
    stands = call("canary", INPUTS, {"version": "2"})
    for _ in range(6):
        outcome = canary.run(stands, fed)
        assert isinstance(outcome, Working)
        stands = replace(stands, state=outcome.state)
        fed.now += timedelta(seconds=60)
        fed.feed()
    fed.away = {"serving"}
    unknown = canary.run(stands, fed)
    fed.away = set()

    assert isinstance(unknown, Working)
    assert "unknown" in unknown.note
    assert unknown.state == stands.state
    assert isinstance(fed.drive(canary.run, replace(stands, state=unknown.state), fed.feed), Done)


def test_a_registry_that_is_away_costs_only_time(fed: Any, call: Any) -> None:
    """MLflow being down at the start is tried again; the canary then runs as if nothing had been."""
    fed.away = {"registry"}

    def back() -> None:
        fed.away = set()
        fed.feed()

    assert isinstance(fed.drive(canary.run, call("canary", INPUTS, {"version": "2"}), back), Done)


def test_a_quarantined_version_gets_no_canary(fed: Any, call: Any) -> None:
    """A version that was rejected before is refused before anything is deployed."""
    fed.barred["2"] = "rejected in run 0"

    outcome = canary.run(call("canary", INPUTS, {"version": "2"}), fed)

    assert isinstance(outcome, Failed)
    assert "rejected in run 0" in outcome.why
    assert fed.changes == []


def test_a_version_that_does_not_load_gets_no_traffic(fed: Any, call: Any) -> None:
    """A version that never becomes ready fails the canary without a quarantine, and the traffic is as it was."""
    fed.broken.add("2")

    outcome = fed.drive(canary.run, call("canary", INPUTS, {"version": "2"}), fed.feed)

    assert isinstance(outcome, Failed)
    assert not outcome.quarantine
    assert fed.split.weights == {"1": 100.0}


def test_a_split_that_exists_already_is_somebody_elses(fed: Any, call: Any) -> None:
    """A canary does not start on traffic that is split: a person must settle that first."""
    fed.loaded["3"] = True
    fed.split = fed.split.shifted({"1": 70, "3": 30}, fed.split.epoch, "operator/ann")

    outcome = fed.drive(canary.run, call("canary", INPUTS, {"version": "2"}), fed.feed)

    assert isinstance(outcome, Failed)
    assert "split already" in outcome.why


def test_a_new_target_first_serves_its_champion(fed: Any, call: Any) -> None:
    """Where nothing is served yet, the alias's version gets the traffic before the challenger is compared with it."""
    fed.split = type(fed.split)("car-loan")
    fed.loaded = {}

    outcome = fed.drive(canary.run, call("canary", INPUTS, {"version": "2"}), fed.feed)

    assert isinstance(outcome, Done)
    assert fed.changes[:3] == ["deploy 1", "deploy 2", "shift {'1': 100.0}"]


def test_inputs_say_what_is_wrong() -> None:
    """Steps that do not rise and guards named twice are mistakes; a guard may carry limits of its own."""
    with pytest.raises(ValidationError, match="steps must rise"):
        Canary(steps=(50, 10))
    with pytest.raises(ValidationError, match="named twice"):
        Canary.model_validate({"guards": ["error_rate", {"error_rate": {"margin": 2}}]})
    chosen = Canary.model_validate({"guards": ["error_rate", {"latency_p95": {"margin": 3}}], "margin": 2}).watched

    assert [(guard.name, guard.margin) for guard in chosen] == [("error_rate", 2), ("latency_p95", 3)]
