"""Event time in slices, and which rows of a partition are late: functions of the partition's log, not of how it was read.

A slice is [start, end) of event time, aligned to 1970. A row is late iff the largest event time at smaller offsets of its
partition has reached its slice's end + lateness, or its slice was closed because the partition was idle (a closure, which
is stored). So a slice is complete as soon as the partition's log says so, whoever reads it and in which portions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from daemon.core.columns import Bools, Integers

BEFORE = -(2**62)
"""An event time before all others (µs)."""
CLOSURES = 1000
"""Most closures that are kept of a partition."""


@dataclass(frozen=True, slots=True)
class Slicing:
    """How event time is cut, in µs."""

    size: int
    lateness: int

    def start(self, times: Integers) -> Integers:
        """Where the slices of these times begin."""
        return times // self.size * self.size

    def complete(self, watermark: int) -> int:
        """Up to which time all slices are complete when the largest event time is `watermark`."""
        return BEFORE if watermark == BEFORE else (watermark - self.lateness) // self.size * self.size


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Rows of a partition in the order of its log."""

    starts: Integers
    """Where each row's slice begins; of a late row: the first slice that is still open, which tells of it."""
    late: Bools


@dataclass(frozen=True, slots=True)
class Frontier:
    """How far a partition's log has brought its event time."""

    watermark: int = BEFORE
    """The largest event time so far, µs."""
    closed: int = BEFORE
    """Slices up to here are closed although the log has not reached their end: the partition was idle."""

    def complete(self, slicing: Slicing) -> int:
        """Up to which time all slices are complete."""
        return max(self.closed, slicing.complete(self.watermark))

    def judge(self, times: Integers, slicing: Slicing) -> tuple[Judged, Frontier]:
        """Which of the next rows are late, and where the partition stands behind them."""
        if len(times) == 0:
            return Judged(times, np.empty(0, np.bool_)), self
        before = np.maximum.accumulate(np.concatenate([[self.watermark], times]))
        done = np.full(len(times), self.closed)
        seen = before[:-1] > BEFORE
        done[seen] = np.maximum(done[seen], slicing.start(before[:-1][seen] - slicing.lateness))
        own = slicing.start(times)
        late = own + slicing.size <= done
        return Judged(np.where(late, done // slicing.size * slicing.size, own), late), replace(
            self, watermark=int(before[-1])
        )


@dataclass(frozen=True, slots=True)
class Head:
    """Where a partition stands, as the store has it."""

    topic: str
    partition: int
    offset: int
    """The next one to read."""
    frontier: Frontier = Frontier()
    complete: int = BEFORE
    """Up to which time all its slices are complete, µs."""
    of: int = 1
    """Partitions that the topic has."""
    rows: int = 0
    late: int = 0
    malformed: int = 0
    dropped: int = 0
    """Sampled rows and labels that there was no room for."""
    closures: tuple[tuple[int, int], ...] = ()
    """(place, time): before what lies at this place was read, slices up to this time were closed because nothing came."""
    closed: int = 0
    """Closures so far: each moves the progress by one, as each record does."""
    idle: bool = False
    """Nothing has come since the last closure."""
    topic_id: str = ""
    """Tells the topic from another one of its name; empty where the broker does not say."""
    base: int = 0
    """What lies before offset 0: a topic that is made anew counts from 0 again, and places never repeat nor go back."""
    unpaired: int = 0
    """Requests and responses that never found each other (format kserve)."""
    written: int = -1
    """When the last record that was read had been written, as it says (ms since 1970); -1: not known."""
    epoch: int = -1
    """Of the leader who took the record before the offset; -1: not known. By it a broker knows whether its log was cut."""

    @property
    def name(self) -> str:
        """As the progress of the partition is named."""
        return f"{self.topic}/{self.partition}"

    @property
    def place(self) -> int:
        """Of the next row, among all that the partition ever had."""
        return self.base + self.offset

    @property
    def position(self) -> int:
        """Its progress in the store."""
        return self.place + self.closed

    def is_of(self, topic_id: str) -> bool:
        """Whether it is a partition of this topic, as far as that is known."""
        return not self.topic_id or not topic_id or self.topic_id == topic_id

    def move(self, offset: int, topic_id: str) -> Head:
        """Go on at this offset of this topic, which may be another one of the same name."""
        base = (
            self.base
            if self.is_of(topic_id) and offset >= self.offset
            else self.base + max(self.offset - offset, 0) + 1
        )
        return replace(self, offset=offset, base=base, topic_id=topic_id or self.topic_id)

    def close(self, time: int) -> Head:
        """Nothing came for a while: slices up to `time` are closed. The same again changes nothing."""
        if self.idle and time <= self.frontier.closed:
            return self
        frontier = replace(self.frontier, closed=max(self.frontier.closed, time))
        earlier = tuple(closure for closure in self.closures if closure[0] != self.place)
        return replace(
            self, frontier=frontier, complete=max(self.complete, time), closed=self.closed + 1, idle=True,
            closures=(*earlier, (self.place, frontier.closed))[-CLOSURES:],
        )  # fmt: skip

    def standing(self) -> list[Any]:
        """For frames: see `followed.Standing`."""
        return [
            self.topic, self.partition, self.of, self.complete, self.topic_id, self.frontier.watermark, self.written,
            self.idle,
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """For the store."""
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**shown, "frontier": [self.frontier.watermark, self.frontier.closed]}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """From the store."""
        closures = tuple((offset, time) for offset, time in stored["closures"])
        return cls(**{**stored, "frontier": Frontier(*stored["frontier"]), "closures": closures})
