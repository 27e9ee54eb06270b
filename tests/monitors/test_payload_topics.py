"""Windows of the payload logger's events on topics follow from the logs alone, and are those of the plain records."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.core.monitors import Monitor, Window
from daemon.monitors.slices import Head
from tests.monitors.logs import Lab, Logs, Record, topic_plan
from tests.monitors.payloads import FIELDS, START, call, line, moment, payload_plan
from tests.monitors.test_slices import moves, play

ROWS = Monitor("rows", "churn", Window(rows=12), segments=("plan",))
TIME = Monitor("time", "churn", Window(every=timedelta(seconds=30), min_rows=3))
BASE = round(START.timestamp())


def events(chance: random.Random, partitions: int) -> Logs:
    """A topic of events, halves of a call some records apart; some are missing, twice, rubbish or no predictions."""
    made: dict[tuple[str, int], list[Record]] = {("labels", 0): []}
    for partition in range(partitions):
        time = 0.0
        came: list[tuple[float, bytes]] = []
        for number in range(chance.choice([0, 20, 100])):
            time += chance.choice([0, 0.5, 1, 5, 14])
            name = chance.choice([f"c{partition}-{number}"] * 9 + ["same"])
            rows = [{"age": chance.randrange(9), "plan": chance.choice("ab")} for _ in range(chance.randint(1, 3))]
            asked, answered = call(name, time, rows, endpoint=chance.choice("1112"))
            if chance.random() < 0.1:
                asked = chance.choice([b"rubbish", line("request", name, time, b""), line("request", name, time, {})])
            for event in (asked, answered):
                came += [(time + chance.choice([0, 0, 3, 9]), event)] * chance.choice([1] * 12 + [0, 2])
            if chance.random() < 0.5:
                label = json.dumps({"id": f"{name}/0", "y": chance.randrange(2)}).encode()
                made["labels", 0].append((round((BASE + time + 5) * 1000), label))
        came.sort(key=lambda one: one[0])
        made["predictions", partition] = [(round((BASE + at) * 1000), event) for at, event in came]
    return made


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), partitions=st.integers(1, 3))
def test_no_order_of_reading_storing_and_dying_changes_a_window(tmp_path: Path, seed: int, partitions: int) -> None:
    """Any owners, portions, checkpoints and kills between the halves of a call: the same events and the same bytes."""
    chance = random.Random(seed)
    written = events(chance, partitions)
    made = payload_plan(tmp_path, ROWS, TIME, within=8.0)
    calm = Lab(made, written).finish()

    lab = Lab(made, written, owners=3)
    play(lab, moves(chance, 200))
    store = lab.finish(7, chance)

    assert calm.measured() == store.measured()
    for key in calm.states:
        if key.endswith("/halves"):
            assert calm.states[key] == store.states[key]


def heads(lab: Lab) -> list[Head]:
    """The stored heads of the predictions' partitions."""
    found = (json.loads(blob) for key, blob in lab.store.states.items() if key.endswith("/head"))
    return [head for head in map(Head.from_json, found) if head.topic == "predictions"]


def test_events_measure_what_plain_records_measure(tmp_path: Path) -> None:
    """Event for event, number for number."""
    chance = random.Random(3)
    paired: list[Record] = []
    plain: list[Record] = []
    for number in range(300):
        rows = [{"age": chance.randrange(9), "plan": chance.choice("ab")} for _ in range(1 + number % 3)]
        at = round((BASE + number) * 1000)
        paired += [(at, event) for event in call(f"c{number}", number, rows, endpoint="1")]
        for row, values in enumerate(rows):
            record: dict[str, Any] = {
                "id": f"c{number}/{row}", "time": moment(number + 0.05).replace("789Z", "Z"), "ce.endpoint": "1",
                "ce.metadata.x-user": "u1", "prediction.score": values["age"] / 100, "prediction.label": values["age"] % 2, **values,
            }  # fmt: skip
            plain.append((at, json.dumps(record).encode()))
    one = Lab(payload_plan(tmp_path, ROWS, TIME, labels=""), {("predictions", 0): paired})
    other = Lab(topic_plan(tmp_path, ROWS, TIME, labels="", fields=FIELDS), {("predictions", 0): plain})

    found, expected = one.finish(), other.finish()

    assert len(found.of("drift.measured")) > 30
    assert found.measured()[0] == expected.measured()[0]
    assert found.problems == []


def test_halves_of_one_call_in_two_partitions_are_counted_and_told(tmp_path: Path) -> None:
    """Both events of a call need one key; where they have none, nothing is measured, and why is said."""
    calls = [call(f"c{number}", number, [{"age": 1, "plan": "a"}]) for number in range(100)]
    logs: Logs = {
        ("predictions", half): [(round((BASE + number) * 1000), both[half]) for number, both in enumerate(calls)]
        for half in (0, 1)
    }
    lab = Lab(payload_plan(tmp_path, ROWS, labels=""), logs)

    store = lab.finish()

    assert [(head.rows, head.unpaired) for head in heads(lab)] == [(0, 100), (0, 100)]
    assert lab.closer.figures()["unpaired"] == 200
    told = {(problem.where, problem.reason.partition(":")[0]) for problem in store.problems}
    assert told == {
        ("predictions/0", "requests came without a response"),
        ("predictions/1", "responses came without a request"),
    }


@pytest.mark.parametrize("portion", [1, 1000])
def test_one_row_of_a_unit_counts_for_a_test_however_many_it_asked_for(tmp_path: Path, portion: int) -> None:
    """Rows of one request have places of their own, so that the first of a unit is one row."""
    rows = [{"age": 1, "plan": "a"}] * 5
    log = [(round((BASE + n) * 1000), event) for n in range(4) for event in call(f"c{n}", n, rows, endpoint="1")]
    lab = Lab(payload_plan(tmp_path, ROWS, labels=""), {("predictions", 0): log})

    lab.finish(portion)

    windows = [event["window"] for event in lab.store.of("drift.measured")]
    assert (windows[0]["first"] >> 16, windows[-1]["last"] >> 16) == (0, 19)
