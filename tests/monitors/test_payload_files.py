"""Files of the payload logger's events are measured as files of the same predictions are, also when the worker dies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from daemon.core.monitors import Monitor, Window
from daemon.monitors.plan import ModelPlan, StreamPlan
from tests.monitors.lab import Clock, Shelf, drain, land, measure, plan
from tests.monitors.payloads import FIELDS, START, call, moment

MODEL = ModelPlan("churn", "churn", "binary", (Monitor("inputs", "churn", Window(rows=100), segments=("plan",)),))
NOW = Clock(START.timestamp() + 86_400)


def made_in(home: Path, form: str) -> StreamPlan:
    """A stream of files of this format."""
    return plan(home, fields=FIELDS, models=(MODEL,), format=form, labels="", name="churn", idle=60.0)


def rows(count: int) -> list[dict[str, Any]]:
    """Inputs."""
    chance = random.Random(7)
    return [{"age": chance.randrange(90), "plan": chance.choice("abc")} for _ in range(count)]


def calls(count: int) -> list[tuple[bytes, bytes]]:
    """Calls of one to three rows, one a second."""
    inputs = iter(rows(3 * count))
    return [call(f"c{n}", n, [next(inputs) for _ in range(1 + n % 3)]) for n in range(count)]


def records(count: int) -> list[dict[str, Any]]:
    """The same predictions as plain records."""
    inputs = iter(rows(3 * count))
    made = []
    for number in range(count):
        for row in range(1 + number % 3):
            values = next(inputs)
            made.append({
                "id": f"c{number}/{row}", "time": moment(number + 0.05).replace("789Z", "Z"), "ce.metadata.x-user": "u1",
                "prediction.score": values["age"] / 100, "prediction.label": values["age"] % 2, **values,
            })  # fmt: skip
    return made


def land_lines(made: StreamPlan, name: str, lines: Sequence[bytes], order: int) -> None:
    """A file of events."""
    land(made.predictions, name, b"".join(line + b"\n" for line in lines), order)


def shown(shelf: Shelf) -> list[Any]:
    """What was measured."""
    return [(event.type, event.id, event.time, event.data) for event in shelf.events]


def test_events_and_plain_records_of_the_same_predictions_measure_the_same(tmp_path: Path) -> None:
    """Every event, id and number, although halves of calls lie in different files."""
    plain, paired = made_in(tmp_path / "plain", "json"), made_in(tmp_path / "paired", "kserve")
    land(plain.predictions, "p.jsonl", records(300), 1)
    events = [event for asked, answered in calls(300) for event in (asked, answered)]
    for number, at in enumerate(range(0, len(events), 37)):
        land_lines(paired, f"p{number:03}.jsonl", events[at : at + 37], number)

    expected, found = measure(plain, None, NOW), measure(paired, None, NOW)

    assert len([event for event in expected.events if event.type == "drift.measured"]) > 5
    assert _measured(expected) == _measured(found)
    assert found.problems == []


def _measured(shelf: Shelf) -> list[Any]:
    """But traffic, which is told by block, as the order of segments follows from blocks."""
    return sorted((one for one in shown(shelf) if one[0] != "traffic.measured"), key=lambda one: str(one[1]))


@pytest.mark.parametrize("seed", range(3))
def test_a_worker_that_dies_between_two_halves_goes_on_from_the_store(tmp_path: Path, seed: int) -> None:
    """Wherever it is killed: the same events, problems and states as without."""
    chance = random.Random(seed)
    events = [event for asked, answered in calls(200) for event in (asked, answered)]
    events[100:100] = [b"rubbish", call("lost", 50, rows(1))[0]]
    files = [events[at : at + 30] for at in range(0, len(events), 30)]
    shelves = []
    for home in ("calm", "killed"):
        made = made_in(tmp_path / home, "kserve")
        for number, lines in enumerate(files):
            land_lines(made, f"p{number:03}.jsonl", lines, number)
        shelf = Shelf()
        while True:
            session = shelf.open(made, NOW)
            over = drain(session, shelf, lambda: home == "killed" and chance.random() < 0.2)  # noqa: B023
            session.close()
            if over:
                break
        shelves.append(shelf)
    calm, killed = shelves

    assert shown(calm) == shown(killed)
    assert calm.states == killed.states
    assert {one.reason for one in calm.problems} == {one.reason for one in killed.problems}
    assert len(calm.problems) == 2  # the rubbish, and the request without a response


def test_halves_that_wait_at_the_end_are_given_up_when_the_stream_is_idle(tmp_path: Path) -> None:
    """Also when no window is open."""
    made = made_in(tmp_path, "kserve")
    land_lines(made, "p.jsonl", [call("lost", 0, rows(1))[0]], 0)
    shelf, clock = Shelf(), Clock(NOW.seconds)
    session = shelf.open(made, clock)
    drain(session, shelf)
    assert session.figures()["halves"] == 1

    clock.seconds += 61
    drain(session, shelf)
    session.close()

    assert (session.figures()["halves"], session.figures()["unpaired"]) == (0, 1)
    assert ["without a response" in problem.reason for problem in shelf.problems] == [True]
