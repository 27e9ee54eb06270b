"""A stream as the supervisor follows it: what is open where, what is wrong, and how far its partitions are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from daemon.core.canonical import content_id
from daemon.core.events import Event
from daemon.monitors.plan import StreamPlan

NOWHERE = -(2**62)
"""Where a partition stands that has brought nothing (slices.BEFORE, which is not imported: it needs numpy)."""


SILENT = timedelta(seconds=15)
"""What a worker has said of how far the logs go counts for so long."""
FOREIGN = timedelta(seconds=15)
"""Partitions that no worker of ours reads are told after so long: members come and go."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Standing(NamedTuple):
    """How far a partition is, as the store has it. Times in µs of event time; `written` in ms since 1970, -1: not known."""

    topic: str
    partition: int
    of: int
    """Partitions of the topic."""
    complete: int
    topic_id: str
    watermark: int
    written: int
    """When the last record that was read had been written."""
    idle: bool
    """Nothing has come since its last closure."""


@dataclass(slots=True)
class Followed:
    """One stream."""

    plan: StreamPlan
    home: int
    """The slot that reads its files, or puts its slices together."""
    brought: datetime
    """When it last brought rows; at first, when the supervisor began."""
    told: datetime | None = None
    """The `brought` of the stall that was reported."""
    problems: dict[tuple[int, str], str] = field(default_factory=dict)
    """Slot and role -> why nothing can be read there."""
    figures: dict[tuple[int, str], Mapping[str, int]] = field(default_factory=dict)
    places: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    """Slot -> which partitions there are, and which of them its worker has, by its last word: `GroupSession.places`; and `at`."""
    ails_since: datetime | None = None
    """Since when it does not reach its broker; None when it does."""
    ails_told: bool = False
    """The store knows that it has not reached its broker for long."""
    foreign_since: datetime | None = None
    """Since when no worker has some of its partitions; None when all are read."""
    skip: dict[str, str] = field(default_factory=dict)
    """Files that cannot be measured, and why: given up when the stream is opened again."""
    heads: dict[tuple[str, int], Standing] = field(default_factory=dict)

    def roles(self, slots: int) -> Iterator[tuple[int, str]]:
        """What must be open, and in which slot."""
        if self.plan.kind == "files":
            yield self.home, "files"
            return
        yield self.home, "windows"
        for slot in range(slots):
            yield slot, "partitions"

    @property
    def role(self) -> str:
        """Of the session that has the windows."""
        return "files" if self.plan.kind == "files" else "windows"

    @property
    def problem(self) -> str:
        """What is wrong now, if anything. May be asked from any thread."""
        return next((problem for problem in list(self.problems.values()) if problem), "")

    def restore_heads(self, states: Mapping[str, bytes]) -> None:
        """Take up what the store says of the partitions."""
        for key, blob in states.items():
            if key.startswith("part/") and key.endswith("/head"):
                self.stand(_standing(orjson.loads(blob)))

    def stand(self, standing: Standing) -> None:
        """A partition is so far now."""
        self.heads[standing.topic, standing.partition] = standing

    @property
    def frontier(self) -> tuple[dict[str, int], int]:
        """By topic up to where its idle partitions are closed, and how far the slowest partition is.

        Predictions are closed up to the furthest of them, labels up to the furthest of both: else the labels of one partition
        would wait for another one that brings none. While no predictions come, labels do not wait for them.
        """
        far: dict[str, int] = {}
        for topic in self._topics:
            far[topic] = max([*far.values(), *(head.complete for head in self._heads(topic))], default=NOWHERE)
        waited = [topic for topic in self._topics if topic == self.plan.labels or not self._is_idle(topic)]
        return far, min(map(self._slowest, waited or self._topics))

    def heard(self, slot: int, places: Mapping[str, Any], now: datetime) -> None:
        """What the worker of a slot says of the partitions."""
        self.places[slot] = {**places, "at": now}

    def went(self, slot: int) -> None:
        """The worker of a slot has ended: what it said is no longer so."""
        self.places.pop(slot, None)

    def look(self, now: datetime) -> None:
        """Note since when something is wrong."""
        if self.plan.kind == "files":
            return
        wrong = any(problem for (_, role), problem in self.problems.items() if role == "partitions")
        self.ails_since = (self.ails_since or now) if wrong else None
        self.ails_told = self.ails_told and wrong
        foreign = not wrong and len(self._places) < len(self._partitions)
        self.foreign_since = (self.foreign_since or now) if foreign else None

    def unreached(self, now: datetime) -> Event:
        """That it has not reached its broker for long."""
        name, since = self.plan.name, self.ails_since or now
        data = {"source": f"stream:{name}", "since": since.isoformat(), "why": self.problem or "it is not read"}
        identity = content_id("unreached", name, since.isoformat())
        return Event(identity, f"stream:{name}", "source.stalled", f"stream:{name}", now, data)

    def shown(self, now: datetime) -> dict[str, Any]:
        """What is wrong, and where its partitions are: the part of the status that is of one shape for every stream.

        `problem`, and of topics also: `assigned` partitions, `lag` in records (None: not known), `age_s` of the oldest
        unread record (None: there is none, or it is not known), `watermark` (ISO 8601; the slowest partition's event time),
        and under `partitions_by_name` the same of each partition.
        """
        if self.plan.kind == "files":
            return {"problem": self.problem}
        places = self._places
        names = sorted({*self._partitions, *places})
        parts = {f"{topic}/{number}": self._part((topic, number), places, now) for topic, number in names}
        lags = [part["lag"] for part in parts.values()]
        ages = [part["age_s"] for part in parts.values() if part["age_s"] is not None]
        marks = [part["watermark"] for name, part in parts.items() if name.startswith(f"{self.plan.predictions}/")]
        return {
            "problem": self.problem or self._foreign(now),
            "assigned": len(places),
            "lag": None if not lags or None in lags else sum(lags),
            "age_s": max(ages, default=None),
            "watermark": None if not marks or None in marks else min(marks),
            "partitions_by_name": parts,
        }

    def _part(
        self, name: tuple[str, int], places: Mapping[tuple[str, int], Mapping[str, Any]], now: datetime
    ) -> dict[str, Any]:
        place, head = places.get(name), self.heads.get(name)
        lag = None if place is None or now - place["at"] > SILENT else place["lag"]
        age = None
        if lag and head is not None and head.written >= 0:
            age = round(max(now.timestamp() - head.written / 1000, 0.0), 3)
        known = head is not None and head.watermark > NOWHERE
        watermark = (
            (_EPOCH + timedelta(microseconds=head.watermark)).isoformat() if head is not None and known else None
        )
        return {"assigned": place is not None, "lag": lag, "age_s": age, "watermark": watermark}

    def _foreign(self, now: datetime) -> str:
        if self.foreign_since is None or now - self.foreign_since < FOREIGN:
            return ""
        there = len(self._partitions)
        return (
            f"{there - len(self._places)} of {there} partitions are read by no worker of this driftd: is another member in "
            f"group {self.plan.group}?"
        )

    @property
    def _topics(self) -> list[str]:
        return [self.plan.predictions, *([self.plan.labels] if self.plan.labels else [])]

    @property
    def _places(self) -> dict[tuple[str, int], Mapping[str, Any]]:
        """The partitions that some worker has."""
        return {
            (place["topic"], place["partition"]): {**place, "at": said["at"]}
            for said in list(self.places.values())
            for place in said["partitions"]
        }

    @property
    def _partitions(self) -> list[tuple[str, int]]:
        """The partitions that there are, as far as is known."""
        said = list(self.places.values())
        found: list[tuple[str, int]] = []
        for topic in self._topics:
            stored = max((head.of for head in self._heads(topic)), default=0)
            count = max((one["topics"].get(topic, 0) for one in said), default=0) or stored
            found += [(topic, number) for number in range(count)]
        return found

    def _heads(self, topic: str) -> list[Standing]:
        """Of the partitions that the topic has: one that was made anew may have fewer than the one before."""
        heads = [head for (name, _), head in list(self.heads.items()) if name == topic]
        first = next((head.topic_id for head in heads if head.partition == 0), "")
        return [head for head in heads if not head.topic_id or not first or head.topic_id == first]

    def stalled(self, since: datetime, limit: timedelta, now: datetime) -> Event:
        """That it brings nothing although it should."""
        name = self.plan.name
        why = self.problem or f"no predictions for {limit}"
        data = {"source": f"stream:{name}", "since": since.isoformat(), "why": why}
        identity = content_id("stalled", name, since.isoformat())
        return Event(identity, f"stream:{name}", "source.stalled", f"stream:{name}", now, data)

    def _is_idle(self, topic: str) -> bool:
        """Nothing comes on any of its partitions, and all are closed up to the furthest."""
        heads, slowest = self._heads(topic), self._slowest(topic)
        return slowest > NOWHERE and all(head.idle and head.complete == slowest for head in heads)

    def _slowest(self, topic: str) -> int:
        heads = self._heads(topic)
        if not heads or len(heads) < max(head.of for head in heads):
            return NOWHERE
        return min(head.complete for head in heads)


def _standing(head: Mapping[str, Any]) -> Standing:
    """A partition's head as the store has it."""
    return Standing(
        head["topic"], head["partition"], head["of"], head["complete"], head.get("topic_id", ""), head["frontier"][0],
        head.get("written", -1), head.get("idle", False),
    )  # fmt: skip
