"""When nothing comes any more: which windows that closes, with which labels they are measured, and what waits for what."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.core.monitors import Monitor, Window
from daemon.monitors.followed import Followed, Standing
from tests.monitors.logs import Lab, Logs, Record, record, topic_plan

ROWS = Monitor("rows", "churn", Window(rows=12), segments=("plan",))
EARLY = Monitor("early", "churn", Window(every=timedelta(seconds=30)), coverage=0.5)
Name = tuple[str, int]


def predictions(times: Sequence[int], name: str = "r") -> list[Record]:
    """A prediction at each of these seconds."""
    return [
        record({"id": f"{name}{n}", "at": at, "version": "1", "yhat": n % 2, "p": 0.5, "age": n % 5, "plan": "a"}, at)
        for n, at in enumerate(times)
    ]


def labels(count: int, at: int, name: str = "r", first: int = 0) -> list[Record]:
    """Labels that were written at this second."""
    return [record({"id": f"{name}{n}", "y": n % 2}, at) for n in range(first, first + count)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_windows_end_with_the_rows_of_all_partitions(tmp_path: Path, order: Sequence[int]) -> None:
    """Partitions end in different slices: whichever is found quiet first, the last window has the rows of all of them."""
    logs: Logs = {("predictions", n): predictions(range(n, 38 + 12 * n, 3), f"r{n}-") for n in range(3)}
    lab = Lab(topic_plan(tmp_path, ROWS, labels=""), logs)
    owner = lab.owners[0]
    for name in logs:
        owner.poll(name, 100)
    owner.store()
    for number in [*order, *order]:
        owner.close(("predictions", number), lab.far(owner)["predictions"])
        owner.store()
        lab.close_slices()

    windows = [event["window"] for event in lab.store.of("drift.measured")]

    assert [window["closed_by"] for window in windows] == ["rows", "rows", "idle"]
    assert sum(window["rows"] for window in windows) == sum(map(len, logs.values()))


def test_a_window_has_the_labels_of_the_slice_that_closed_it(tmp_path: Path) -> None:
    """However far labels are joined when a window is closed, its performance is measured on the same of them."""
    logs: Logs = {
        ("predictions", 0): predictions([*range(20), 65, 90, 120]),
        ("labels", 0): [*labels(12, 55), *labels(8, 65, first=12), *labels(1, 130)],
    }
    found = []
    for cuts in ((21, 2), (23, 0)):  # what there is of predictions when the first labels are joined, and the rest
        lab = Lab(topic_plan(tmp_path, EARLY), logs)
        owner = lab.owners[0]
        owner.poll(("labels", 0), 100)
        for cut in cuts:
            owner.poll(("predictions", 0), cut)
            owner.store()
            lab.close_slices()
        lab.finish()
        found.append([(event["window"]["rows"], event["labelled"]) for event in lab.store.of("performance.measured")])

    assert found[0] == found[1]
    assert found[0][0] == (20, 20)


def test_labels_do_not_wait_for_a_partition_that_brings_none(tmp_path: Path) -> None:
    """Predictions are over, and labels come on one of two partitions: they are joined, and nothing of them is left behind."""
    logs: Logs = {
        ("predictions", 0): predictions(range(24)),
        ("labels", 0): labels(24, 5000),
        ("labels", 1): [],
    }
    lab = Lab(topic_plan(tmp_path, Monitor("rows", "churn", Window(rows=12))), logs)

    lab.finish()

    assert [event["labelled"] for event in lab.store.of("performance.measured")] == [20, 4]
    assert not [key for key in lab.store.states if "/slice/" in key]


def test_the_frontier_of_a_stream(tmp_path: Path) -> None:
    """Idle labels are closed up to the furthest of all, idle predictions up to theirs; labels wait only for what comes."""
    plan = topic_plan(tmp_path, ROWS)
    stream = Followed(plan, 0, datetime(2026, 3, 1, tzinfo=UTC))

    def frontier(*heads: tuple[Name, int, bool]) -> Any:
        for (topic, partition), complete, idle in heads:
            of = 2 if topic == "labels" else 1
            stream.stand(Standing(topic, partition, of, complete, "", complete, -1, idle))
        return stream.frontier

    going = frontier((("predictions", 0), 50, False), (("labels", 0), 90, False), (("labels", 1), 70, True))
    assert going == ({"predictions": 50, "labels": 90}, 50)
    assert frontier((("predictions", 0), 60, True)) == ({"predictions": 60, "labels": 90}, 70)
