"""Serving sides that take their time: a split under way, and what a finished change leaves to be tidied."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daemon.core.calls import Done, Working
from daemon.core.errors import Unavailable
from daemon.core.runs import UNDO_STEP
from handlers import promote, rollback


def test_a_promotion_waits_until_the_serving_side_is_tidy(world: Any, call: Any) -> None:
    """It goes on looking while something is left, and is done when nothing is."""
    left = ["the model moves in", "the model moves in"]
    world.settle = lambda _target: left.pop() if left else ""

    outcome = world.drive(promote.run, call("promote", {}, {"version": "2"}))

    assert isinstance(outcome, Done)
    assert not left
    assert world.changes == ["deploy 2", "alias champion 2", "shift {'2': 100.0}"]
    assert not [answer for answer in outcome.answers if answer.operation == "settle"]


def test_a_promotion_is_not_taken_back_for_what_is_left_over(world: Any, call: Any) -> None:
    """The new version has the traffic: when its time is nearly up it is done, and says what is left."""
    world.settle = lambda _target: "the model moves in"

    outcome = world.drive(
        promote.run, call("promote", {}, {"version": "2"}, deadline=world.now + timedelta(minutes=10))
    )

    assert isinstance(outcome, Done)
    assert [answer.result["left"] for answer in outcome.answers if answer.operation == "settle"] == [
        "the model moves in"
    ]


def test_a_rollback_is_proven_though_something_is_left_over(world: Any, call: Any) -> None:
    """What is left is in its words; traffic is back all the same."""
    assert isinstance(world.drive(promote.run, call("promote", {}, {"version": "2"})), Done)
    world.served_by = {"1": 500}
    world.settle = lambda _target: "version 1 is not the newest revision yet"
    undo = call("rollback", {}, {"version": "2"}, step=UNDO_STEP, deadline=world.now + timedelta(minutes=5))

    outcome = world.drive(rollback.run, undo)

    assert isinstance(outcome, Done)
    assert outcome.outputs["verified"] == "proven"
    assert "left over: version 1 is not the newest revision yet" in outcome.outputs["why"]


def test_a_rollback_undoes_a_split_that_has_not_come_yet(
    world: Any, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All traffic is still on the champion, but another split is written and may come any moment: it is taken back."""
    world.loaded["2"] = True
    outcome = promote.run(call("promote", {}, {"version": "2"}), world)
    assert isinstance(outcome, Done)
    world.split = world.split.shifted({"1": 100}, world.split.epoch, "run1/call-promote")
    real, pending = world.traffic, [True]

    def traffic(target: str) -> Any:
        return replace(real(target), wanted={"2": 100.0}) if pending[0] else real(target)

    def shift(target: str, weights: Any, epoch: int, by: str) -> Any:
        pending[0] = False
        return real_shift(target, weights, epoch, by)

    real_shift = world.shift
    monkeypatch.setattr(world, "traffic", traffic)
    monkeypatch.setattr(world, "shift", shift)
    world.served_by = {"1": 500}
    undo = call("rollback", {}, {"version": "2"}, step=UNDO_STEP, deadline=world.now + timedelta(minutes=5))

    outcome = world.drive(rollback.run, undo)

    assert isinstance(outcome, Done)
    assert not pending[0], "the split that was under way was not taken back"


def test_a_promotion_whose_split_takes_its_time_goes_on_with_it(
    world: Any, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unavailable so far: the same call comes again, asks for the same split, and is done when it has come."""
    world.loaded["2"] = True
    real_shift, late = world.shift, [True, True]

    def shift(target: str, weights: Any, epoch: int, by: str) -> Any:
        made = real_shift(target, weights, epoch, by)
        if late:
            late.pop()
            raise Unavailable("kserve", "shift", "under way")
        return made

    monkeypatch.setattr(world, "shift", shift)
    first = promote.run(call("promote", {}, {"version": "2"}), world)
    assert not isinstance(first, Done | Working)

    outcome = world.drive(promote.run, call("promote", {}, {"version": "2"}))

    assert isinstance(outcome, Done)
    assert world.split.weights == {"2": 100.0}
