"""Requests and responses that find each other: a function of the log, however it was read.

A half waits for its other half for so long in event time (ce-time), and there is room for so many. What waits in vain is
counted: a request without a response has failed (the logger tells of answers with status 200 only) or its response was
lost (it sends each event at most once); nobody can tell which.

Callers may give ids themselves, so ids may come again. One after another they pair as they come. Where two calls of one
id are under way at once, nobody can tell which response answers which request: they are counted, and not measured.
A log that brings an event twice (Knative delivers at least once) is the same as one that brings it once.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from daemon.monitors.packing import pack, unpack
from daemon.monitors.payloads.halves import Half
from daemon.monitors.slices import BEFORE

WAITING = 10_000
"""Most halves that wait."""
WAITING_BYTES = 4 << 20
"""Most bytes of them."""
KNOWN = 20_000
"""Most events of answered calls that are known, should they come again."""


@dataclass(slots=True)
class Counts:
    """What became of the events since the stream began."""

    paired: int = 0
    """Calls of which both halves came."""
    unanswered: int = 0
    """Requests without a response."""
    unasked: int = 0
    """Responses without a request."""
    crowded: int = 0
    """Events of calls that had one id at the same time."""
    repeated: int = 0
    """Events that came again."""
    other: int = 0
    """Events that are no predictions, or of another component."""

    @property
    def unpaired(self) -> int:
        """Halves that were given up."""
        return self.unanswered + self.unasked


@dataclass(slots=True)
class _Place:
    """Where halves of one key wait."""

    half: Half
    order: int
    crowded: bool = False
    """Several calls: none of them can be told from the others."""


class Pairs:
    """The halves that wait. `within`: for how long, in µs of event time."""

    def __init__(self, within: int, stored: bytes = b"") -> None:
        self.counts = Counts()
        self.clock = BEFORE
        """The largest time that came."""
        self._within = within
        self._places: dict[bytes, _Place] = {}
        self._ages: list[tuple[int, int, bytes]] = []
        """A heap of (time, order, key); entries of places that are gone stay until they are on top."""
        self._known: dict[int, int] = {}
        """Events of answered calls, with their times."""
        self._known_ages: list[tuple[int, int]] = []
        self._order = 0
        self._bytes = 0
        if stored:
            self._restore(unpack(stored))

    def __len__(self) -> int:
        return len(self._places)

    def add(self, half: Half) -> Half | None:
        """The other half, when it waits; else None: this one waits, or it came again, or nobody can tell whose it is."""
        self._reach(half.at)
        event = _event(half)
        if event in self._known:
            self.counts.repeated += 1
            return None
        place = self._places.get(half.key)
        if place is None:
            self._wait(half)
            return None
        if place.crowded or place.half.side == half.side:
            self._crowd(place, half)
            return None
        self._leave(half.key)
        self._know(event, half.at)
        self._know(_event(place.half), place.half.at)
        return place.half

    def waits(self, half: Half) -> bool:
        """Whether it is this one that waits for its other half."""
        place = self._places.get(half.key)
        return place is not None and place.half is half

    def settle(self, half: Half, alone: Half) -> None:
        """Where one waits, let another one wait that is the same."""
        self._bytes += alone.size - half.size
        self._places[half.key].half = alone

    def give_up(self) -> None:
        """Nothing comes any more: who waits, waits in vain."""
        for key in list(self._places):
            self._lose(key)

    def to_bytes(self) -> bytes:
        """For the store: equal logs give equal bytes."""
        places = [[place.half.to_json(), place.crowded] for place in self._in_order()]
        return pack({
            "clock": self.clock, "counts": asdict(self.counts), "places": places,
            "known": np.fromiter(self._known, np.int64, len(self._known)),
            "known at": np.fromiter(self._known.values(), np.int64, len(self._known)),
        })  # fmt: skip

    def _restore(self, parts: dict[str, Any]) -> None:
        self.clock = parts["clock"]
        self.counts = Counts(**parts["counts"])
        for half, crowded in parts["places"]:
            self._wait(Half.of(half), crowded)
        self._known = dict(zip(parts["known"].tolist(), parts["known at"].tolist(), strict=True))
        self._known_ages = [(at, event) for event, at in self._known.items()]
        heapq.heapify(self._known_ages)

    def _in_order(self) -> Iterable[_Place]:
        return sorted(self._places.values(), key=lambda place: place.order)

    def _reach(self, time: int) -> None:
        """Time has come so far: who has waited too long is given up."""
        self.clock = max(self.clock, time)
        border = self.clock - self._within
        while self._ages and self._ages[0][0] <= border:
            _, order, key = heapq.heappop(self._ages)
            place = self._places.get(key)
            if place is not None and place.order == order:
                self._lose(key)
        while self._known_ages and (self._known_ages[0][0] <= border or len(self._known) > KNOWN):
            _, event = heapq.heappop(self._known_ages)
            self._known.pop(event, None)

    def _wait(self, half: Half, crowded: bool = False) -> None:
        if half.at <= self.clock - self._within:
            self._count(half, crowded)  # its time is over before it came
            return
        self._order += 1
        self._places[half.key] = _Place(half, self._order, crowded)
        heapq.heappush(self._ages, (half.at, self._order, half.key))
        self._bytes += half.size
        while len(self._places) > WAITING or self._bytes > WAITING_BYTES:
            self._lose(next(iter(self._places)))

    def _crowd(self, place: _Place, half: Half) -> None:
        """Another event of a key of which one waits, and which does not fit to it."""
        if half.side == place.half.side and half.at == place.half.at:
            self.counts.repeated += 1
            return
        self.counts.crowded += 1 if place.crowded else 2
        self._leave(half.key)
        at = max(half.at, place.half.at)
        self._wait(Half(place.half.side, half.key, at, 0, {}, is_empty=True), crowded=True)

    def _lose(self, key: bytes) -> None:
        place = self._places[key]
        self._leave(key)
        self._count(place.half, place.crowded)

    def _leave(self, key: bytes) -> None:
        self._bytes -= self._places.pop(key).half.size

    def _count(self, half: Half, crowded: bool) -> None:
        """A half is given up. One that is known to be no prediction, or no use, is missed by nobody."""
        if crowded or half.fault or half.is_empty:
            return
        if half.side == "request":
            self.counts.unanswered += 1
        else:
            self.counts.unasked += 1

    def _know(self, event: int, at: int) -> None:
        if at > self.clock - self._within:
            self._known[event] = at
            heapq.heappush(self._known_ages, (at, event))


def _event(half: Half) -> int:
    """Tells an event from others: the logger gives each its own time."""
    mixed = int.from_bytes(half.key[:8], "big") ^ (half.at * 0x9E3779B97F4A7C15) ^ (half.side == "response")
    return (mixed & (2**64 - 1)) - 2**63
