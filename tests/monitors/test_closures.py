"""Lulls: slices that were closed because nothing came are stored, so measuring again gives the same panes and windows."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.core.events import Event
from daemon.core.monitors import Monitor, Window
from daemon.core.panes import to_bytes
from daemon.intake import Batch
from daemon.monitors import join
from daemon.monitors.partials import Partial
from daemon.monitors.slices import BEFORE, Head
from tests.monitors.logs import FIELDS, Lab, Logs, Store, record, topic_plan
from tests.monitors.test_slices import ROWS, TIME, logs

Slices = dict[str, tuple[Any, ...]]
"""Per state key of a slice: rows, late rows, and the panes."""


class Recorder(Store):
    """A store that remembers what each slice was when it was stored last."""

    def __init__(self) -> None:
        super().__init__()
        self.slices: Slices = {}

    def take(self, batch: Batch) -> None:
        """See Store."""
        super().take(batch)
        for state in batch.states:
            if "/slice/" in state.key and state.blob is not None:
                partial = Partial.of(state.blob)
                panes = {key: to_bytes(pane) for key, pane in partial.panes.items()}
                self.slices[state.key] = (partial.rows, partial.late, panes)


def recorded(lab: Lab) -> Recorder:
    """The lab with a store that remembers."""
    lab.store = Recorder()
    lab.owners = [lab.owner()]
    lab.open_closer()
    return lab.store


def heads(store: Store) -> list[Head]:
    """Where the partitions stand, as stored."""
    return [Head.from_json(json.loads(blob)) for key, blob in sorted(store.states.items()) if key.endswith("/head")]


def live(lab: Lab, chance: random.Random) -> None:
    """Read with lulls: now and then a partition, or all of them, bring nothing for long, also in the middle of a slice."""
    names = sorted(lab.logs)
    for _ in range(60):
        owner = lab.owners[0]
        match chance.choice(["poll"] * 8 + ["store", "store", "close", "lull", "lull of all", "kill"]):
            case "poll":
                owner.poll(chance.choice(names), chance.randint(1, 15))
            case "store":
                owner.store()
            case "close":
                lab.close_slices()
            case "kill":
                lab.owners[0] = lab.owner()
            case "lull":
                owner.close(chance.choice(names), _far(lab.store))
                owner.store()
            case _:
                for name in names:
                    owner.close(name, _far(lab.store))
                owner.store()
                lab.close_slices()
    lab.finish(9)


def _far(store: Store) -> int:
    return max((head.complete for head in heads(store)), default=BEFORE)


def read_again(lab: Lab, closures: Sequence[Head], portion: int) -> None:
    """Read the logs from their starts, closing at the places that were stored and nowhere else."""
    owner = lab.owners[0]
    for head in closures:
        name = (head.topic, head.partition)
        for place, time in head.closures:
            monitor = owner.monitors.get(name) or owner.open(name)
            while monitor.head.place < place:
                owner.poll(name, min(place - monitor.head.place, portion))
            owner.close(name, time)
            owner.store()
        while owner.poll(name, portion):
            pass
        owner.store()


def close_again(lab: Lab, events: Sequence[Event]) -> None:
    """Take the slices one by one, and close windows for idleness behind those rows behind which they were closed before."""
    idle = {
        (e.data["monitor"], e.data["segment"], *(e.data["window"][name] for name in ("last", "rows", "late")))
        for e in events
        if e.type == "drift.measured" and e.data["window"]["closed_by"] == "idle"
    }
    closer = lab.closer
    closer.take({key: blob for key, blob in lab.store.states.items() if key.startswith("part/")})
    while closer._next(closer._of("predictions"), closer._complete("predictions")) is not None:
        closer.step()
        tracks = closer._tracks["churn"]
        for monitor, segment in sorted(tracks):
            track = tracks[monitor, segment]
            if (monitor, segment, track._pane.last, track._pane.rows, track._late) in idle:
                closer._events += track.close("idle", closer._samples)
    lab.store.take(closer.checkpoint())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), partitions=st.integers(1, 3))
def test_measuring_again_from_stored_closures_gives_the_same_panes_and_windows(
    tmp_path: Path, seed: int, partitions: int
) -> None:
    """Logs, closures and idle windows as stored: every slice of every partition, and every window, has the same numbers."""
    chance = random.Random(seed)
    written = {name: log for name, log in logs(chance, partitions).items() if name[0] == "predictions"}
    made = topic_plan(tmp_path, ROWS, TIME, labels="", fields=FIELDS.model_copy(update={"label": None}))
    first = Lab(made, written)
    before = recorded(first)
    live(first, chance)

    again = Lab(made, written)
    after = recorded(again)
    read_again(again, heads(before), chance.randint(1, 40))
    close_again(again, before.events)

    assert before.slices == after.slices
    for one, other in zip(heads(before), heads(after), strict=True):
        assert (one.rows, one.late, one.frontier, one.complete) == (
            other.rows,
            other.late,
            other.frontier,
            other.complete,
        )
    assert windows(before.events) == windows(after.events)


def windows(events: Sequence[Event]) -> list[tuple[str, str, str]]:
    """All that was measured of windows, in no order: lulls that close windows come between slices, or behind them."""
    kinds = {"drift.measured", "quality.measured"}
    return sorted(
        (e.type, e.id, json.dumps(dict(e.data), sort_keys=True, default=str)) for e in events if e.type in kinds
    )


def test_labels_that_never_come_leave_memory_and_store_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the predictions get no label: beyond the horizon they are dropped, and the store's rows stay as many as before."""
    monkeypatch.setattr(join, "BLOCK", 32)
    size, horizon = 4000, 100.0
    made = topic_plan(tmp_path, Monitor("rows", "churn", Window(rows=50)), horizon=horizon)
    asked = [
        record(
            {"id": f"r{n}", "at": n / 2, "version": "1", "yhat": n % 2, "p": 0.5, "who": f"u{n % 40}", "age": 1}, n // 2
        )
        for n in range(size)
    ]
    said = [record({"id": f"r{n}", "y": 1}, n // 2 + 20) for n in range(0, size, 2)]
    written: Logs = {("predictions", 0): asked, ("labels", 0): said}
    lab = Lab(made, written)
    kept: list[tuple[int, int, int]] = []
    for _ in range(size // 100):
        lab.owners[0].poll(("predictions", 0), 100)
        lab.owners[0].poll(("labels", 0), 50)
        lab.owners[0].store()
        lab.close_slices()
        figures = lab.closer.figures()
        kept.append((figures["waiting"], len(lab.store.states), sum(map(len, lab.store.states.values()))))

    late = kept[20:]
    assert max(waiting for waiting, _, _ in late) <= 2 * (
        horizon + 60
    )  # two per second, and what is still in its slices
    assert min(waiting for waiting, _, _ in late) >= horizon / 2  # they do wait so long
    assert max(count for _, count, _ in late) <= max(count for _, count, _ in kept[10:20]) + 2
    assert max(much for _, _, much in late) <= 1.1 * max(much for _, _, much in kept[10:20])
    performance = lab.store.of("performance.measured")
    assert len(performance) >= 60
    assert {round(event["coverage"], 1) for event in performance} == {0.5}
