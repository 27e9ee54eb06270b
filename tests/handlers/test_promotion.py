"""Promotion, the soak after it, and the way back from each of their moments."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daemon.core.calls import Call, Done, Failed, Inconclusive, Working
from daemon.core.runs import UNDO_STEP
from handlers import canary, promote, rollback, soak

CANARY = {"steps": [10, 50], "each": "2m", "look": "1m", "guards": ["error_rate"], "soak": "1h"}


@pytest.fixture
def after_canary(world: Any, call: Any, make_block: Any) -> Any:
    """The world after a canary of version 2 passed; `given` has its outputs, `feed` measures a minute of traffic."""

    def feed() -> None:
        shares = world.split.weights
        arms = {
            f"v{version}": make_block(round(4 * share), **(world.of if version == "2" else {}))
            for version, share in shares.items()
        }
        world.measured(**arms)

    world.of, world.feed = {}, feed
    feed()
    outcome = world.drive(canary.run, call("canary", CANARY, {"version": "2"}), feed)
    assert isinstance(outcome, Done)
    world.given = {"version": "2", **outcome.outputs}
    world.changes.clear()
    return world


def later(call: Any, world: Any, verb: str, inputs: dict[str, Any], given: dict[str, Any], **more: Any) -> Call:
    """A call of a later step of the same run, with an hour to go."""
    return call(verb, inputs, given, deadline=world.now + timedelta(hours=4), **more)


def undo(call: Any, world: Any, given: dict[str, Any]) -> Call:
    """The rollback with which the run machine undoes the run."""
    deadline = world.now + timedelta(minutes=15)
    return call("rollback", {}, given, step=UNDO_STEP, deadline=deadline)


@pytest.fixture
def promoted(after_canary: Any, call: Any) -> Any:
    """The world after the promotion, with the holdback on version 1."""
    outcome = after_canary.drive(promote.run, later(call, after_canary, "promote", {}, after_canary.given))
    assert isinstance(outcome, Done)
    after_canary.given |= outcome.outputs
    after_canary.changes.clear()
    return after_canary


def test_the_alias_moves_first_then_the_traffic(after_canary: Any, call: Any) -> None:
    """A promotion before a soak keeps the holdback on the old champion, and notes where to go back to."""
    outcome = after_canary.drive(promote.run, later(call, after_canary, "promote", {}, after_canary.given))

    assert isinstance(outcome, Done)
    assert after_canary.changes == ["alias champion 2", "shift {'2': 95.0, '1': 5.0}"]
    assert after_canary.versions["2"].tags["driftd.previous"] == "1"
    assert outcome.outputs == {"promoted": "2", "previous": "1", "epoch": after_canary.split.epoch}


@pytest.mark.parametrize("operation", range(4))
def test_a_promotion_survives_a_crash_after_any_operation(after_canary: Any, call: Any, operation: int) -> None:
    """Alias and traffic end where they belong, and neither moves twice."""
    after_canary.crash_after = operation

    outcome = after_canary.drive(promote.run, later(call, after_canary, "promote", {}, after_canary.given))

    assert after_canary.crash_after is None
    assert isinstance(outcome, Done)
    assert after_canary.changes == ["alias champion 2", "shift {'2': 95.0, '1': 5.0}"]


def test_an_alias_that_somebody_else_moved_is_left(after_canary: Any, call: Any) -> None:
    """When the alias no longer points to what the run's pin saw, the promotion fails and touches nothing."""
    after_canary.aliases["champion"] = "7"

    outcome = promote.run(later(call, after_canary, "promote", {}, after_canary.given), after_canary)

    assert isinstance(outcome, Failed)
    assert "not 1" in outcome.why
    assert after_canary.changes == []


def test_a_version_that_is_not_ready_is_not_promoted(after_canary: Any, call: Any) -> None:
    """A challenger that stopped answering after its canary is never made champion."""
    after_canary.loaded["2"] = False

    outcome = after_canary.drive(
        promote.run, call("promote", {}, after_canary.given, deadline=after_canary.now + timedelta(minutes=1))
    )

    assert isinstance(outcome, Failed)
    assert after_canary.aliases["champion"] == "1"


def test_a_dead_champion_gets_no_holdback(after_canary: Any, call: Any) -> None:
    """When the old champion no longer answers, all traffic goes to the healthy side."""
    after_canary.loaded["1"] = False

    after_canary.drive(promote.run, later(call, after_canary, "promote", {}, after_canary.given))

    assert after_canary.split.weights == {"2": 100.0}


def test_a_promotion_without_a_canary_takes_all_the_traffic(world: Any, call: Any) -> None:
    """A run of `promote` alone loads the version, moves the alias and the whole traffic, and keeps the old one loaded."""
    world.loaded["0"] = True

    outcome = world.drive(promote.run, call("promote", {}, {"version": "2"}))

    assert isinstance(outcome, Done)
    assert world.changes == ["deploy 2", "alias champion 2", "shift {'2': 100.0}", "retire 0"]


def test_a_clean_soak_takes_the_holdback_away(promoted: Any, call: Any) -> None:
    """After its time, with traffic seen and no guard worse, the new champion has everything."""
    outcome = promoted.drive(soak.run, later(call, promoted, "soak", {"duration": "1h"}, promoted.given), promoted.feed)

    assert isinstance(outcome, Done)
    assert promoted.split.weights == {"2": 100.0}
    assert outcome.outputs["soaked"] > 20_000


def test_a_version_that_goes_bad_in_the_soak_is_rejected(promoted: Any, call: Any) -> None:
    """Errors that begin after the promotion are seen against the holdback, and bar the version."""
    promoted.of = {"failed": 20}

    outcome = promoted.drive(soak.run, later(call, promoted, "soak", {"duration": "1h"}, promoted.given), promoted.feed)

    assert isinstance(outcome, Failed)
    assert outcome.quarantine
    assert outcome.barred["digest"] == "digest-2"
    assert promoted.split.weights == {"2": 95.0, "1": 5.0}


def test_a_soak_without_requests_is_inconclusive(promoted: Any, call: Any) -> None:
    """A soak in which nothing was measured proves nothing."""
    ends = promoted.now + timedelta(hours=2)
    outcome = promoted.drive(soak.run, call("soak", {"duration": "1h"}, promoted.given, deadline=ends))

    assert isinstance(outcome, Inconclusive)


def test_a_soak_concludes_nothing_from_what_was_measured_long_ago(promoted: Any, call: Any) -> None:
    """After an outage its time is up, but what was answered meanwhile is measured first: here, that the version went bad."""
    one = later(call, promoted, "soak", {"duration": "1h"}, promoted.given)
    first = soak.run(one, promoted)
    promoted.feed()
    second = soak.run(replace(one, state=first.state), promoted)
    promoted.now += timedelta(hours=1)
    third = soak.run(replace(one, state=second.state), promoted)
    promoted.of = {"failed": 200}
    for _ in range(30):
        promoted.feed()
    outcome = promoted.drive(soak.run, replace(one, state=third.state), promoted.feed)

    assert isinstance(third, Working)
    assert "lately" in third.note
    assert isinstance(outcome, Failed)
    assert outcome.quarantine


def test_a_soak_survives_a_crash_after_its_shift(promoted: Any, call: Any) -> None:
    """The shift to the whole traffic is adopted when its outcome was lost."""
    promoted.crash_after = 0

    outcome = promoted.drive(soak.run, later(call, promoted, "soak", {"duration": "1h"}, promoted.given), promoted.feed)

    assert promoted.crash_after is None
    assert isinstance(outcome, Done)
    assert promoted.changes == ["shift {'2': 100.0}"]


def test_a_promoted_version_is_rolled_back_with_its_alias(promoted: Any, call: Any) -> None:
    """The undo after a promotion returns traffic and alias, proves it by the prediction log, and unloads the version."""
    promoted.served_by = {"1": 500}

    outcome = promoted.drive(rollback.run, undo(call, promoted, promoted.given))

    assert isinstance(outcome, Done)
    assert promoted.changes == ["shift {'1': 100.0}", "alias champion 1", "retire 2"]
    assert outcome.outputs["verified"] == "proven"
    assert outcome.outputs["restored"] == "1"


def test_an_undo_needs_nothing_of_the_steps_before(after_canary: Any, call: Any) -> None:
    """A canary that failed gave no outputs: the pin on the version says where to go back to."""
    outcome = after_canary.drive(rollback.run, undo(call, after_canary, {"version": "2"}))

    assert isinstance(outcome, Done)
    assert after_canary.split.weights == {"1": 100.0}


@pytest.mark.parametrize("operation", range(3))
def test_a_rollback_survives_a_crash_after_any_operation(promoted: Any, call: Any, operation: int) -> None:
    """Traffic and alias are back whatever operation the crash follows, and nothing is done twice."""
    promoted.served_by = {"1": 500}
    promoted.crash_after = operation

    outcome = promoted.drive(rollback.run, undo(call, promoted, promoted.given))

    assert promoted.crash_after is None
    assert isinstance(outcome, Done)
    assert promoted.changes == ["shift {'1': 100.0}", "alias champion 1", "retire 2"]


@pytest.mark.parametrize(
    ("served", "verified"),
    [({}, "unverified"), ({"1": 49}, "unverified"), ({"1": 50}, "proven"), ({"1": 2000, "2": 3}, "proven")],
    ids=["no requests", "too few", "enough", "a few that were on their way"],
)
def test_a_rollback_is_proven_by_requests_only(promoted: Any, call: Any, served: dict[str, int], verified: str) -> None:
    """Without enough logged requests on the restored version a rollback is done, and says that it is unverified."""
    promoted.served_by = served

    outcome = promoted.drive(rollback.run, undo(call, promoted, promoted.given))

    assert isinstance(outcome, Done)
    assert outcome.outputs["verified"] == verified


def test_a_log_that_cannot_say_leaves_a_rollback_unverified(promoted: Any, call: Any) -> None:
    """When requests could not be logged, the rollback is done all the same, and not called proven."""
    promoted.away = {"log"}

    outcome = promoted.drive(rollback.run, undo(call, promoted, promoted.given))

    assert isinstance(outcome, Done)
    assert outcome.outputs["verified"] == "unverified"
    assert promoted.split.weights == {"1": 100.0}


def test_a_log_that_disagrees_with_the_control_plane_is_a_failure(promoted: Any, call: Any) -> None:
    """When requests still go to the rejected version although the split says otherwise, a person is needed."""
    promoted.served_by = {"1": 500, "2": 60}

    outcome = promoted.drive(rollback.run, undo(call, promoted, promoted.given))

    assert isinstance(outcome, Failed)
    assert "60 of 560" in outcome.why


def test_a_dead_last_known_good_gets_no_traffic(promoted: Any, call: Any) -> None:
    """When the version to go back to does not load, traffic is kept on the one that answers, and a person is needed."""
    promoted.loaded["1"] = False

    outcome = promoted.drive(rollback.run, undo(call, promoted, promoted.given))

    assert isinstance(outcome, Failed)
    assert promoted.split.weights == {"2": 100.0}
    assert "does not become ready" in outcome.why


def test_a_last_known_good_that_was_unloaded_is_loaded_again(promoted: Any, call: Any) -> None:
    """The way back works after 100 percent too, when the old version is no longer deployed."""
    promoted.split = promoted.split.shifted({"2": 100}, promoted.split.epoch, "run1/soak")
    promoted.loaded.pop("1")
    promoted.served_by = {"1": 500}

    outcome = promoted.drive(rollback.run, undo(call, promoted, promoted.given))

    assert isinstance(outcome, Done)
    assert promoted.changes[:2] == ["deploy 1", "shift {'1': 100.0}"]


def test_an_undo_leaves_what_a_person_changed(promoted: Any, call: Any) -> None:
    """When a person gave the version all the traffic meanwhile, the undo does not take it away but asks."""
    promoted.split = promoted.split.shifted({"2": 100}, promoted.split.epoch, "operator/ann")

    outcome = promoted.drive(rollback.run, undo(call, promoted, promoted.given))

    assert isinstance(outcome, Failed)
    assert promoted.split.weights == {"2": 100.0}


def test_an_undo_after_a_person_took_the_traffic_only_restores_the_alias(promoted: Any, call: Any) -> None:
    """When the version has lost its traffic by somebody else's hand, the split stands and the alias goes back."""
    promoted.split = promoted.split.shifted({"1": 100}, promoted.split.epoch, "operator/ann")

    outcome = promoted.drive(rollback.run, undo(call, promoted, promoted.given))

    assert isinstance(outcome, Done)
    assert promoted.changes == ["alias champion 1", "retire 2"]
    assert outcome.outputs["verified"] == "untouched"


def test_an_undo_of_a_run_that_changed_nothing_changes_nothing(world: Any, call: Any) -> None:
    """A canary that was refused at once made no pin: there is nothing to take back."""
    outcome = world.drive(rollback.run, undo(call, world, {"version": "2"}))

    assert isinstance(outcome, Done)
    assert world.changes == []
    assert outcome.outputs["verified"] == "untouched"


def test_an_undo_outlives_the_deletion_of_its_version(after_canary: Any, call: Any) -> None:
    """When the version was deleted from the registry, and the pin with it, traffic goes to the champion."""
    del after_canary.versions["2"]

    outcome = after_canary.drive(rollback.run, undo(call, after_canary, {"version": "2"}))

    assert isinstance(outcome, Done)
    assert after_canary.split.weights == {"1": 100.0}


def test_an_outage_during_a_rollback_is_waited_out(promoted: Any, call: Any) -> None:
    """A rollback tries until its deadline: a gateway that comes back in time is enough."""
    promoted.away = {"serving"}
    promoted.served_by = {"1": 500}
    tries = iter(range(20))

    def back() -> None:
        if next(tries) == 10:
            promoted.away = set()

    outcome = promoted.drive(rollback.run, undo(call, promoted, promoted.given), back)

    assert isinstance(outcome, Done)
    assert promoted.split.weights == {"1": 100.0}


def test_a_gateway_that_stays_away_leaves_the_run_stuck(promoted: Any, call: Any) -> None:
    """At its deadline a rollback that could not be made fails, which pages."""
    promoted.away = {"serving"}
    asked = replace(undo(call, promoted, promoted.given), deadline=promoted.now + timedelta(seconds=30))

    outcome = promoted.drive(rollback.run, asked)

    assert isinstance(outcome, Failed)
    assert "by its deadline" in outcome.why


def test_a_rule_may_roll_back_to_the_last_good_version(promoted: Any, call: Any) -> None:
    """A rule's own rollback, in another run, goes to the champion before the last promotion."""
    promoted.split = promoted.split.shifted({"2": 100}, promoted.split.epoch, "run1/soak")
    promoted.served_by = {"1": 500}
    asked = call(
        "rollback", {"to": "last_good"}, {}, id="other", run="run2", deadline=promoted.now + timedelta(minutes=15)
    )

    outcome = promoted.drive(rollback.run, asked)

    assert isinstance(outcome, Done)
    assert promoted.changes == ["shift {'1': 100.0}", "alias champion 1", "retire 2"]
    assert promoted.aliases["champion"] == "1"


def test_a_rule_may_not_roll_back_to_nowhere(world: Any, call: Any) -> None:
    """Where nothing was promoted before there is no last good version, and nothing is changed."""
    outcome = world.drive(rollback.run, call("rollback", {"to": "last_good"}))

    assert isinstance(outcome, Failed)
    assert "no last good version" in outcome.why
    assert world.changes == []


def test_a_second_look_at_a_rollback_does_nothing_new(promoted: Any, call: Any) -> None:
    """Each call of a rollback may come twice with the same state."""
    promoted.served_by = {"1": 500}

    def twice(one: Call, context: Any) -> Any:
        first = rollback.run(one, context)
        return rollback.run(one, context) if isinstance(first, Working) else first

    outcome = promoted.drive(twice, undo(call, promoted, promoted.given))

    assert isinstance(outcome, Done)
    assert promoted.changes == ["shift {'1': 100.0}", "alias champion 1", "retire 2"]
