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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.core.monitors import Monitor, Window
from daemon.monitors.slices import BEFORE, Frontier, Head, Slicing
from tests.monitors.logs import Lab, Logs, Record, record, topic_plan

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
def test_no_order_of_reading_storing_and_dying_changes_a_window(
    tmp_path: Path, seed: int, partitions: int, separate: bool, units: bool
) -> None:
    """Any owners, portions, checkpoints and kills: the same events in the same order, and the same bytes in the store."""
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
    store = lab.finish(portion=7)

    for expected, found in zip(calm.measured()[:2], store.measured()[:2], strict=True):
        assert [event.id for event in expected] == [event.id for event in found]
    assert calm.measured() == store.measured()
    total = sum(len(log) for (topic, _), log in written.items() if topic == "predictions")
    heads = [Head.from_json(state) for state in _heads(lab)]
    assert total == sum(head.rows + head.malformed for head in heads if head.topic == "predictions")


def _heads(lab: Lab) -> list[dict[str, Any]]:
    """The stored heads of all partitions."""
    return [json.loads(blob) for key, blob in lab.store.states.items() if key.endswith("/head")]
