"""Windows of partitioned logs follow from the logs alone: not from who read them, in which portions, or who was killed."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from daemon.core.monitors import Monitor, Window
from daemon.monitors import join, partials
from daemon.monitors.plan import Champion
from daemon.monitors.slices import BEFORE, Frontier, Head, Slicing
from tests.monitors.logs import FIELDS, Lab, Logs, Record, record, topic_plan

ROWS = Monitor("rows", "churn", Window(rows=12), segments=("plan",))
TIME = Monitor("time", "churn", Window(every=timedelta(seconds=30), min_rows=3), reference="trailing", trailing=2)


def naive(times: Sequence[int], slicing: Slicing) -> list[bool]:
    """Which rows are late, row by row."""
    late = []
    largest = BEFORE
    for time in times:
        end = (time // slicing.size + 1) * slicing.size
        late.append(largest > BEFORE and end + slicing.lateness <= largest)
        largest = max(largest, time)
    return late


@given(
    times=st.lists(st.integers(-50, 200), max_size=40), cuts=st.lists(st.integers(0, 40)), lateness=st.integers(0, 25)
)
def test_lateness_follows_from_the_log_alone(times: list[int], cuts: list[int], lateness: int) -> None:
    """However a partition's rows are portioned, the same are late, and a late row is told of in a slice that is open."""
    slicing = Slicing(10, lateness)
    frontier = Frontier()
    late: list[bool] = []
    borders = sorted({0, len(times), *(cut for cut in cuts if cut < len(times))})
    for start, stop in itertools.pairwise(borders):
        complete = frontier.complete(slicing)
        judged, frontier = frontier.judge(np.array(times[start:stop], np.int64), slicing)
        late += judged.late.tolist()
        assert (judged.starts >= complete).all()

    assert naive(times, slicing) == late
    assert frontier.watermark == max(times, default=BEFORE)


def test_a_closure_makes_rows_of_its_slices_late() -> None:
    """What comes for a slice that was closed because nothing came is late, also when the log has not reached its end."""
    head = Head("t", 0, 7).close(50)

    judged, _ = head.frontier.judge(np.array([30, 49, 50, 20]), Slicing(10, 5))

    assert judged.late.tolist() == [True, True, False, True]
    assert judged.starts.tolist() == [50, 50, 50, 50]
    assert head.position == 8
    assert head.close(40) == head
    assert Head.from_json(head.to_json()) == head


# -- any order of everything


def logs(chance: random.Random, partitions: int) -> Logs:
    """A topic of predictions and one of labels; times wander, some jump back, some records are rubbish."""
    made: dict[tuple[str, int], list[Record]] = {}
    ids: list[tuple[str, int]] = []
    for partition in range(partitions):
        time = chance.randint(0, 20)
        log = made["predictions", partition] = []
        for row in range(chance.choice([0, 20, 120])):
            time += chance.choice([0, 0, 1, 1, 2, 5, 14])
            at = time - chance.choice([0, 0, 0, 0, 3, 9, 22])
            name = f"r{partition}-{row}"
            ids.append((name, time))
            values = {
                "id": name, "at": at, "version": chance.choice(["1", "1", "1", "2", None]), "yhat": row % 2,
                "p": row % 10 / 10, "who": f"u{chance.randrange(30)}", "ms": row, "age": row % 5, "plan": "ab"[row % 2],
            }  # fmt: skip
            log.append(record(values, time) if chance.random() < 0.98 else (time * 1000, b"{rubbish"))
    ids.sort(key=lambda one: one[1] + chance.choice([0, 10, 40]))
    for partition in range(2):
        mine = ids[partition::2]
        made["labels", partition] = [record({"id": n, "y": chance.randrange(2)}, time + 5) for n, time in mine]
    return made


def moves(chance: random.Random, count: int) -> list[tuple[str, int, int, int]]:
    """What happens, in which order: (what, owner, partition, how much)."""
    what = ["poll"] * 12 + ["store"] * 4 + ["close"] * 3 + ["kill", "kill closer"]
    return [
        (chance.choice(what), chance.randrange(3), chance.randrange(10), chance.randint(1, 25)) for _ in range(count)
    ]


def play(lab: Lab, happened: Sequence[tuple[str, int, int, int]]) -> None:
    """Do what a list of moves says."""
    names = sorted(lab.logs)
    for what, owner, partition, much in happened:
        match what:
            case "poll":
                lab.owners[owner].poll(names[partition % len(names)], much)
            case "store":
                lab.owners[owner].store()
            case "kill":
                lab.owners[owner] = lab.owner()
            case "close":
                lab.close_slices(much)
            case "kill closer":
                lab.open_closer()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), partitions=st.integers(1, 3), separate=st.booleans(), units=st.booleans())
@example(seed=7987820, partitions=1, separate=True, units=False)
def test_no_order_of_reading_storing_and_dying_changes_a_window(
    tmp_path: Path, seed: int, partitions: int, separate: bool, units: bool
) -> None:
    """Any owners, portions, checkpoints and kills, any end: the same events in the same order, the same bytes in the store."""
    chance = random.Random(seed)
    written = logs(chance, partitions)
    made = topic_plan(tmp_path, ROWS, TIME)
    if not units:
        made = topic_plan(tmp_path, ROWS, TIME, fields=made.fields.model_copy(update={"unit": None}))
    if not separate:
        made = topic_plan(tmp_path, ROWS, TIME, labels="", fields=made.fields.model_copy(update={"label": "yhat"}))
        written = {name: log for name, log in written.items() if name[0] == "predictions"}
    calm = Lab(made, written).finish()

    lab = Lab(made, written, owners=3)
    play(lab, moves(chance, 200))
    store = lab.finish(7, chance)

    for expected, found in zip(calm.measured()[:2], store.measured()[:2], strict=True):
        assert [event.id for event in expected] == [event.id for event in found]
    assert calm.measured() == store.measured()
    if not separate:
        assert calm.events == store.events
    total = sum(len(log) for (topic, _), log in written.items() if topic == "predictions")
    heads = [Head.from_json(state) for state in _heads(lab)]
    assert total == sum(head.rows + head.malformed for head in heads if head.topic == "predictions")


def _heads(lab: Lab) -> list[dict[str, Any]]:
    """The stored heads of all partitions."""
    return [json.loads(blob) for key, blob in lab.store.states.items() if key.endswith("/head")]


def test_what_waits_is_bounded_and_what_is_given_up_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times more predictions without labels than may wait: memory and store keep the bound, the rest is counted."""
    monkeypatch.setattr(partials, "WAITING", 30)
    monkeypatch.setattr(join.LabelJoin.__init__, "__defaults__", (100, 50))
    monkeypatch.setattr(join, "BLOCK", 20)
    made = topic_plan(tmp_path, ROWS, labels="", fields=FIELDS.model_copy(update={"unit": None}))
    rows = [
        record({"id": f"r{n}", "at": n / 5, "version": "1", "yhat": 1, "p": 0.5, "age": 1, "plan": "a"}, n)
        for n in range(3000)
    ]
    lab = Lab(made, {("predictions", 0): rows})
    sizes = []
    for _ in range(30):
        lab.owners[0].poll(("predictions", 0), 100)
        lab.owners[0].store()
        lab.close_slices()
        sizes.append(sum(map(len, lab.store.states.values())))

    figures = lab.closer.figures()

    assert figures["rows"] == 3000
    assert figures["waiting"] <= 120
    assert figures["dropped"] >= 1000  # a slice has 50 rows and room for 30
    assert figures["evicted"] >= 3000 - figures["dropped"] - 120 - 100
    assert max(sizes[15:]) < 1.2 * max(sizes[5:15])
    assert any("lower join_rate" in problem.reason for problem in lab.store.problems)


def test_another_champion_begins_new_windows(tmp_path: Path) -> None:
    """Sums that were held against the old champion's reference are left out; rows of the new one are measured."""
    made = topic_plan(tmp_path, ROWS, labels="")
    rows = [
        record(
            {"id": f"r{n}", "at": n, "version": "1" if n < 100 else "2", "yhat": 1, "p": 0.5, "age": 1, "plan": "a"}, n
        )
        for n in range(200)
    ]
    lab = Lab(made, {("predictions", 0): rows})
    lab.owners[0].poll(("predictions", 0), 95)
    lab.owners[0].store()
    lab.close_slices()
    newer = Champion("2", "", "", "none was logged")
    lab.closer.champion("churn", newer)
    lab.champions.set("churn", newer)
    lab.owners[0].monitors["predictions", 0].refresh()
    while lab.owners[0].poll(("predictions", 0), 20):
        lab.owners[0].store()
        lab.close_slices()

    windows = [event["window"] for event in lab.store.of("drift.measured")]

    assert any("1 -> 2" in note for note in lab.closer.take_notes())
    before = [window for window in windows if window["end"] < "1970-01-01T00:01:40"]
    assert [window["rows"] for window in before] == [20] * 4
    assert {window["rows"] for window in windows[len(before) :]} == {20}


def test_a_record_that_is_rubbish_has_a_letter_of_its_own(tmp_path: Path) -> None:
    """However the log is portioned, each record that cannot be read is one problem and one letter, by its position."""
    made = topic_plan(tmp_path, ROWS, labels="")
    rows = [record({"id": f"r{n}", "at": n, "yhat": 1}, n) for n in range(20)]
    rows[3] = (3000, b"{rubbish")
    rows[17] = record({"at": 17, "yhat": 1}, 17)
    wheres = []
    for portion in (1, 5, 20):
        lab = Lab(made, {("predictions", 0): rows})
        lab.finish(portion)
        wheres.append([(problem.where, problem.dead_letter) for problem in lab.store.problems])

    assert wheres[0] == wheres[1] == wheres[2]
    assert [where for where, _ in wheres[0]] == ["predictions/0@3", "predictions/0@17"]
    assert [Path(letter).is_file() for _, letter in wheres[0]] == [True, True]
