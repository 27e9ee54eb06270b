"""Partitioned logs as plain Python, a store that keeps what is asked for, and owners that read however a test likes."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daemon.config import Fields
from daemon.core.errors import Fenced
from daemon.core.events import Event
from daemon.core.monitors import Monitor
from daemon.core.problems import Problem
from daemon.intake import Batch
from daemon.monitors.closer import SliceMonitor
from daemon.monitors.evidence import Samples
from daemon.monitors.formats import format_of
from daemon.monitors.partition import Champions, PartitionMonitor, Portion
from daemon.monitors.plan import Champion, ModelPlan, StreamPlan
from daemon.monitors.slices import Head
from daemon.monitors.statekeys import is_part, part_prefix

FIELDS = Fields(
    id="id", time="at", version="version", prediction="yhat", score="p", label="y", unit="who", latency_ms="ms",
    error="error", features={"age": "number", "plan": "category"},
)  # fmt: skip
Record = tuple[int, bytes]
"""When it was written (ms), and its value."""
Log = Sequence[Record]
Logs = Mapping[tuple[str, int], Log]


def record(values: Mapping[str, Any], at: int) -> Record:
    """A record of a log; `at` in seconds."""
    return at * 1000, json.dumps(values).encode()


def topic_plan(home: Path, *monitors: Monitor, **changes: Any) -> StreamPlan:
    """The plan of a stream on the topics `predictions` and `labels`, with some of it changed."""
    made = StreamPlan(
        name="churn", predictions="predictions", labels="labels", pattern="", complete="renamed", stable_for=0.0,
        poll=0.0, fields=FIELDS, privacy={}, join_rate=1.0, horizon=3600.0, idle=60.0,
        dead_letters=str(home / "dead-letters"), models=(ModelPlan("churn", "churn", "binary", monitors),), kind="kafka",
        slice=10.0, lateness=5.0,
    )  # fmt: skip
    return replace(made, **changes)


@dataclass
class Store:
    """As much of a store as a stream needs: takes a batch whole, or refuses it because a progress is elsewhere."""

    progress: dict[str, int] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    batches: int = 0

    def take(self, batch: Batch) -> None:
        """Store a batch. Raises Fenced."""
        for one in batch.progress:
            if self.progress.get(one.partition, 0) != one.expected:
                raise Fenced(one.partition)
        self.progress |= {one.partition: one.position for one in batch.progress}
        for state in batch.states:
            if state.blob is None:
                self.states.pop(state.key, None)
            else:
                self.states[state.key] = state.blob
        self.events += batch.events
        self.problems += batch.problems
        self.batches += 1

    def measured(self) -> tuple[list[Event], list[Event], dict[str, bytes]]:
        """All that must not depend on who read what when: what predictions brought, what labels did, and the states.

        Each in its whole order; between the two there is none: predictions do not wait for labels.
        """
        by_labels = [event for event in self.events if _is_by_labels(event)]
        others = [event for event in self.events if not _is_by_labels(event)]
        return others, by_labels, {key: blob for key, blob in self.states.items() if not is_part(key)}

    def of(self, kind: str, segment: str = "") -> list[Mapping[str, Any]]:
        """The data of the stored events of a type."""
        return [event.data for event in self.events if event.type == kind and event.data.get("segment", "") == segment]


def _is_by_labels(event: Event) -> bool:
    if event.type == "traffic.measured":
        return not any(arm["requests"] for arm in event.data["arms"].values())
    return event.type == "performance.measured"


class Owner:
    """A process that owns partitions: it reads, sums and stores them."""

    def __init__(self, made: StreamPlan, store: Store, logs: Logs, champions: Champions) -> None:
        self._plan = made
        self._store = store
        self._logs = logs
        self._champions = champions
        self.monitors: dict[tuple[str, int], PartitionMonitor] = {}

    def open(self, name: tuple[str, int]) -> PartitionMonitor:
        """Take a partition up from the store."""
        prefix = part_prefix(*name)
        stored = {key: blob for key, blob in self._store.states.items() if key.startswith(prefix)}
        head = Head(*name, 0, of=sum(topic == name[0] for topic, _ in self._logs))
        if f"{prefix}head" in stored:
            head = Head.from_json(json.loads(stored[f"{prefix}head"]))
        decoder = format_of(self._plan, head, stored)
        self.monitors[name] = PartitionMonitor(self._plan, self._champions, head, stored, decoder)
        return self.monitors[name]

    def poll(self, name: tuple[str, int], most: int) -> bool:
        """Read on in a partition; whether there was anything."""
        monitor = self.monitors.get(name) or self.open(name)
        start = monitor.head.offset
        records = self._logs[name][start : start + most]
        if not records:
            return False
        values = [value for _, value in records]
        offsets = range(start, start + len(records))
        monitor.add(Portion(values, offsets, [time for time, _ in records], start + len(records)))
        return True

    def close(self, name: tuple[str, int], time: int) -> None:
        """The partition is idle."""
        (self.monitors.get(name) or self.open(name)).close(time)

    def store(self) -> None:
        """Store everything in one transaction; what somebody else has moved is taken up anew."""
        parts = [monitor.checkpoint() for monitor in self.monitors.values() if monitor.changed]
        batch = Batch(
            progress=tuple(progress for progress, _, _ in parts),
            states=tuple(write for _, writes, _ in parts for write in writes),
            problems=tuple(problem for _, _, problems in parts for problem in problems),
        )
        try:
            self._store.take(batch)
        except Fenced:
            self.monitors.clear()


class Lab:
    """Logs, a store, owners and a closer; `who` measures."""

    def __init__(self, made: StreamPlan, logs: Logs, owners: int = 1, who: Champion | None = None) -> None:
        self.plan = made
        self.logs = logs
        self.store = Store()
        self._who = who or Champion("1", "", "", "none was logged")
        self.champions = Champions(made)
        self.champions.set("churn", self._who)
        self.owners = [self.owner() for _ in range(owners)]
        self.closer = self.open_closer()

    def owner(self) -> Owner:
        """A process that has read nothing yet."""
        return Owner(self.plan, self.store, self.logs, self.champions)

    def open_closer(self) -> SliceMonitor:
        """A closer that goes on from the store."""
        position = self.store.progress.get("windows", 0)
        self.closer = SliceMonitor(self.plan, dict(self.store.states), position, Samples())
        self.closer.champion("churn", self._who)
        return self.closer

    def close_slices(self, most: int = 10**9) -> None:
        """Let the closer take what has become complete, and store it."""
        self.closer.take({key: blob for key, blob in self.store.states.items() if is_part(key)})
        for _ in range(most):
            if not self.closer.step():
                break
        if self.closer.changed:
            self.store.take(self.closer.checkpoint())

    def finish(self, portion: int = 1000, chance: random.Random | None = None) -> Store:
        """Read all logs to their ends, be idle, and close everything; with `chance` in any order, the closer in between."""
        owner = self.owner()
        names = list(self.logs)
        for name in names:
            while owner.poll(name, portion):
                pass
        owner.store()
        for _ in range(2):  # the second time everybody knows how far the others are
            if chance is not None:
                chance.shuffle(names)
            far = self.far(owner)
            for name in names:
                if chance is not None and chance.random() < 0.5:
                    owner.store()
                    self.close_slices()
                    far = self.far(owner)
                owner.close(name, far[name[0]])
            owner.store()
            self.close_slices()
        return self.store

    def far(self, owner: Owner) -> dict[str, int]:
        """By topic up to where idle partitions are closed."""
        heads = [Head(*name, 0) for name in self.logs] + [monitor.head for monitor in owner.monitors.values()]
        predictions = max(head.complete for head in heads if head.topic == self.plan.predictions)
        return {head.topic: max(predictions, head.complete) for head in sorted(heads, key=lambda head: head.complete)}
