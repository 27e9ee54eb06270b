"""Workers that run handlers: whatever a handler does becomes an outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from daemon.core.calls import Call, Done, Outcome, Working
from daemon.core.errors import Conflict, Refused, StoreBusy, Unavailable
from daemon.core.runs import State
from daemon.dispatcher import Dispatcher
from daemon.handling import Context
from daemon.verbs import Loaded
from tests.builders import landed, rule, rules, said
from tests.writer.conftest import PATIENCE, VERBS, World

Script = Callable[[Call], Outcome]


class Desk:
    """A real dispatcher over a world, whose verb `train` does as it is told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.does: Script = lambda _call: Done()
        self.made: list[Call] = []
        self.ended: list[str] = []
        verbs = {
            "train": Loaded(VERBS["train"], self._run, self._end),
            "notify": Loaded(VERBS["notify"], self._run, None),
        }
        self.dispatcher = Dispatcher(world.writer, verbs, lambda _call: cast("Context", None), workers=2)
        self.dispatcher.start()

    def _run(self, call: Call, _context: Context) -> Outcome:
        self.made.append(call)
        return self.does(call)

    def _end(self, call: Call, _context: Context) -> None:
        self.ended.append(call.id)


@pytest.fixture
def desk(world: World) -> Iterator[Desk]:
    """A dispatcher at work."""
    made = Desk(world.open(rules(rule(on="data.landed", when=())), workers=0))
    yield made
    made.dispatcher.stop()


def raises(error: Exception) -> Script:
    """A handler that breaks."""

    def run(_call: Call) -> Outcome:
        raise error

    return run


def test_a_handler_runs_and_its_run_ends(desk: Desk) -> None:
    """From event to end without anybody's help."""
    desk.world.submit(landed(1))
    (run,) = desk.world.runs()
    assert desk.world.ended(run.id).state is State.SUCCEEDED
    assert [call.id for call in desk.made] == [run.call_id(0)]


@pytest.mark.parametrize(
    "error", [Unavailable("registry", "get", "away"), Conflict("gateway", "shift", "moved on"), StoreBusy("locked")]
)
def test_a_service_that_is_away_costs_time(desk: Desk, error: Exception) -> None:
    """It is tried again, ever more slowly, and goes on when the service is back."""
    desk.does = raises(error)
    desk.world.submit(landed(1))
    (run,) = desk.world.runs()
    (call,) = desk.world.wait(lambda: [one for one in desk.world.calls_of(run.id) if one.attempt == 1])
    assert (call.status, call.note) == ("due", str(error))
    desk.does = lambda _call: Done()
    desk.world.later(2)
    assert desk.world.ended(run.id).state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (Refused("registry", "get", "no such version"), "no such version"),
        (ZeroDivisionError("1/0"), "ZeroDivisionError: 1/0"),
    ],
)
def test_a_refusal_or_a_fault_fails_the_step(desk: Desk, error: Exception, why: str) -> None:
    """What will never work, and what nobody foresaw, ends the step with its reason, and the worker lives on."""
    desk.does = raises(error)
    desk.world.submit(landed(1))
    (run,) = desk.world.runs()
    ended = desk.world.ended(run.id)
    assert ended.state is State.FAILED
    assert why in ended.why
    desk.does = lambda _call: Done()
    desk.world.submit(landed(2))
    assert desk.world.ended(desk.world.runs()[-1].id).state is State.SUCCEEDED


def test_what_a_cancelled_run_started_is_ended(desk: Desk) -> None:
    """A verb that can end what it started is asked to, once its run has turned away."""
    desk.does = lambda _call: Working(1000)
    desk.world.submit(landed(1))
    (run,) = desk.world.runs()
    desk.world.wait(lambda: desk.made)
    desk.world.submit(said("cancel", run.id))
    desk.world.wait(lambda: [call.status for call in desk.world.calls_of(run.id)] == ["dropped"])
    assert desk.ended == [run.call_id(0)]


def test_there_are_no_more_calls_at_work_than_workers(desk: Desk) -> None:
    """A call is handed out only to a worker that is free."""
    go, at_work = threading.Event(), threading.Semaphore(0)
    most: list[int] = []
    now: list[Any] = []

    def waits(call: Call) -> Outcome:
        now.append(call)
        most.append(len(now))
        at_work.release()
        go.wait(PATIENCE)
        now.remove(call)
        return Done()

    desk.does = waits
    notify = rules(rule(on="data.landed", when=(), model="", steps=(rule().steps[0],)))
    desk.world.writer.load(notify, {})
    desk.world.submit(*(landed(number) for number in range(6)))
    assert at_work.acquire(timeout=PATIENCE)
    assert at_work.acquire(timeout=PATIENCE)
    go.set()
    desk.world.wait(lambda: not desk.world.rows("live_runs"))
    assert (max(most), len(desk.made)) == (2, 6)
