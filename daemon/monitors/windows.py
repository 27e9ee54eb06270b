"""The windows of one monitor and segment: rows go into the open pane until it closes; closed panes stay in a ring.

Windows close by rows, by event time, or by idleness. Everything here follows from the rows and their order; a restart
goes on from the stored pane as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from daemon.core.columns import Batch, Integers
from daemon.core.events import Event
from daemon.core.monitors import Monitor
from daemon.core.panes import SAMPLE_ROWS, Pane, empty, from_bytes, merge, observe, to_bytes
from daemon.core.performance import Cusum, Losses
from daemon.monitors.journal import Journal
from daemon.monitors.measure import HISTOGRAM, SampleScores, Span, Subject, performance_event, window_events

SEGMENT_SAMPLE = 200
"""Rows that a segment's pane keeps raw, unless its monitor tests on samples: there may be many segments."""
KEPT, SEGMENT_KEPT = 12, 3
"""Closed panes kept: a report that is asked for later, when labels have come, is made on their sample."""


@dataclass(slots=True)
class Pending:
    """A window whose labels are awaited."""

    no: int
    span: Span | None = None
    """None while it is open."""
    eligible: int = 0
    """Rows that could have a label."""
    lost: int = 0
    """Those of them whose label can no longer come."""
    losses: Losses = field(default_factory=Losses)
    until: int = 0
    """Event time (µs) up to which labels are joined before it is looked at; 0 where rows come one by one."""

    def to_json(self) -> list[Any]:
        """For the store."""
        losses, s = self.losses, self.span
        span = s and [s.first, s.last, s.start, s.end, s.rows, s.closed_by, s.late]
        return [
            self.no, span, self.eligible, self.lost, losses.rows, str(losses.total), str(losses.squares),
            self.until,
        ]  # fmt: skip

    @classmethod
    def from_json(cls, stored: list[Any]) -> Pending:
        """From the store."""
        no, span, eligible, lost, rows, total, squares, until = stored
        return cls(no, span and Span(*span), eligible, lost, Losses(rows, int(total), int(squares)), until)


@dataclass(frozen=True, slots=True)
class PaneSlice:
    """All rows of a track whose event time is in [start, end) (µs), summed."""

    start: int
    end: int
    pane: Pane


class Track:
    """The windows of one monitor and segment, held against one reference."""

    def __init__(self, subject: Subject, journal: Journal, numbers: Callable[[], int], labelled: bool) -> None:
        self._subject = subject
        self._journal = journal
        self._numbers = numbers
        self._labelled = labelled
        self._key = f"{subject.monitor.name}/{subject.segment}"
        self._pane = self._empty()
        self._no = -1
        self._floor: int | None = None
        """With time windows: the event time from which rows belong to the open window (µs)."""
        self._until: int | None = None
        self._late = 0
        self._ring: dict[int, Pane] = {}
        self._pending: dict[int, Pending] = {}
        self._cusum = Cusum()

    @property
    def subject(self) -> Subject:
        """What it measures."""
        return self._subject

    @property
    def is_open(self) -> bool:
        """Some rows wait for their window to close."""
        return self._pane.rows > 0

    @property
    def open_rows(self) -> int:
        """Rows in the open window."""
        return self._pane.rows

    @property
    def waiting(self) -> int:
        """Closed windows whose labels are awaited."""
        return sum(pending.span is not None for pending in self._pending.values())

    def pane_of(self, last: int) -> tuple[Pane, tuple[Pane, ...]] | None:
        """The closed pane whose last row is at this position and those before it; None when it is not kept any more."""
        found = next((no for no, pane in self._ring.items() if pane.last == last), None)
        return None if found is None else (self._ring[found], self._before(found))

    def restore(self, states: Mapping[str, bytes]) -> bool:
        """Take up what was stored; False when there is nothing, or it is of another monitor or reference."""
        raw = states.get(f"track/{self._key}")
        if raw is None:
            return False
        stored = orjson.loads(raw)
        if stored["semantics"] != self._subject.monitor.semantics or stored["panes"] != self._pane.reference:
            return False
        self._no, self._floor, self._until, self._late = stored["open"]
        self._ring = {no: from_bytes(states[self._ring_key(no)]) for no in stored["ring"]}
        self._pending = {item[0]: Pending.from_json(item) for item in stored["pending"]}
        self._cusum = Cusum.from_json(stored["cusum"])
        if f"open/{self._key}" in states:
            self._pane = from_bytes(states[f"open/{self._key}"])
        return True

    def forget(self) -> None:
        """Drop everything stored."""
        for no in self._ring:
            self._journal.drop(self._ring_key(no))
        self._journal.drop(f"open/{self._key}")
        self._journal.drop(f"track/{self._key}")

    def add(self, batch: Batch, samples: SampleScores) -> tuple[Integers, list[Event]]:
        """Take rows in; the number of the window that each went into (-1: late), and the events of windows that closed."""
        if batch.records.rows == 0:
            return np.empty(0, np.int64), []
        every = self._subject.monitor.window.every
        if every is None:
            return self._by_rows(batch, self._subject.monitor.window.rows or 1, samples)
        return self._by_time(batch, round(every.total_seconds() * 1e6), samples)

    def add_slice(self, slice_: PaneSlice) -> int:
        """Take in a slice's rows, already summed; the number of the window that they went into. `reach` closes windows.

        A window of so many rows closes with the first slice that fills it; one of event time takes the slices that begin
        in it.
        """
        every = self._subject.monitor.window.every
        if every is not None:
            micros = round(every.total_seconds() * 1e6)
            if self._until is None or self._until <= slice_.start:  # nothing yet, or too little: it goes on
                self._until = (slice_.start // micros + 1) * micros
            self._floor = slice_.start if self._floor is None else self._floor
        return self._merge(slice_.pane)

    def reach(self, time: int, samples: SampleScores, until: int) -> list[Event]:
        """All slices up to `time` (µs) have come: close the window if it is full or over. `until`: see `close`."""
        window = self._subject.monitor.window
        if window.every is None:
            return self.close("rows", samples, until) if self._pane.rows >= (window.rows or 1) else []
        if self._until is None or self._until > time or self._pane.rows < window.min_rows:
            return []
        return self.close("time", samples, until)

    def late(self, rows: int) -> None:
        """So many rows came too late for their window."""
        self._late += rows
        self._touch()

    def close(self, why: str, samples: SampleScores, until: int = 0) -> list[Event]:
        """Close the open window; nothing happens when it has no rows.

        `until`: the event time (µs) up to which labels are joined before its performance is looked at.
        """
        pane = self._pane
        if pane.first is None or pane.last is None or pane.start is None or pane.end is None:
            return []
        span = Span(pane.first, pane.last, pane.start, pane.end, pane.rows, why, self._late)
        monitor = self._subject.monitor
        events = window_events(self._subject, span, pane, self._before(self._no), samples)
        self._keep(pane, monitor.trailing if monitor.reference == "trailing" else 0)
        if self._labelled:
            self._pending[self._no].span = span
            self._pending[self._no].until = until
        self._pane = self._empty()
        self._no, self._late = -1, 0
        if self._until is not None:
            self._floor, self._until = self._until, None
        self._touch()
        return list(events)

    def eligible(self, no: int, rows: int) -> None:
        """So many rows of window `no` wait for labels."""
        if no in self._pending:
            self._pending[no].eligible += rows
            self._touch()

    def labelled(self, no: int, losses: Losses, unusable: int) -> None:
        """Labels came for rows of window `no`; `unusable` of them gave no loss. Of a window already measured they are late."""
        if no in self._pending:
            self._pending[no].losses += losses
            self._pending[no].lost += unusable
            self._touch()

    def lost(self, no: int, rows: int) -> None:
        """So many rows of window `no` will not get labels any more."""
        if no in self._pending:
            self._pending[no].lost += rows
            self._touch()

    def measured(self, overdue: int, version: str, reached: int | None = None) -> list[Event]:
        """performance.measured of the windows whose labels have come, or that ended before `overdue` (µs), in order.

        `reached`: the event time up to which labels were joined; windows that wait for later ones are not looked at yet.
        """
        events: list[Event] = []
        for no in sorted(self._pending):
            pending = self._pending[no]
            if pending.span is None or (reached is not None and pending.until > reached):
                break
            if not self._is_ready(pending, overdue):
                break
            subject, losses = self._subject, pending.losses
            event, self._cusum = performance_event(
                subject, pending.span, losses, pending.eligible, self._cusum, version
            )
            events.append(event)
            del self._pending[no]
        if events:
            self._touch()
        return events

    def awaited(self) -> tuple[int, ...]:
        """The numbers of the windows whose performance is not measured yet."""
        return tuple(self._pending)

    def kept(self) -> tuple[str, ...]:
        """The state keys of the closed panes that are kept."""
        return tuple(self._ring_key(no) for no in self._ring)

    def _is_ready(self, pending: Pending, overdue: int) -> bool:
        assert pending.span is not None
        came = pending.losses.rows
        if came >= self._subject.monitor.coverage * pending.eligible:
            return True
        return came + pending.lost >= pending.eligible or pending.span.end < overdue

    def _by_rows(self, batch: Batch, size: int, samples: SampleScores) -> tuple[Integers, list[Event]]:
        rows = batch.records.rows
        windows = np.empty(rows, np.int64)
        events: list[Event] = []
        done = 0
        while done < rows:
            step = slice(done, min(rows, done + size - self._pane.rows))
            windows[step] = self._observe(batch.take(step))
            done = step.stop
            if self._pane.rows >= size:
                events += self.close("rows", samples)
        return windows, events

    def _by_time(self, batch: Batch, every: int, samples: SampleScores) -> tuple[Integers, list[Event]]:
        order = np.argsort(batch.times, kind="stable")  # a block's rows may be a little out of order: that is not late
        times = batch.times[order]
        windows = np.full(len(order), -1, np.int64)
        events: list[Event] = []
        done = 0 if self._floor is None else int(np.searchsorted(times, self._floor, side="left"))
        self._late += done
        while done < len(order):
            if self._until is None:
                first = int(times[done])
                self._floor, self._until = first // every * every, (first // every + 1) * every
            end = int(np.searchsorted(times, self._until, side="left"))
            if end > done:
                chosen = order[done:end]
                windows[chosen] = self._observe(batch.take(np.sort(chosen)))
            done = end
            if done < len(order):  # a row from beyond: the window is over, unless it is too small and goes on
                if self._pane.rows >= self._subject.monitor.window.min_rows:
                    events += self.close("time", samples)
                else:
                    self._until = (int(times[done]) // every + 1) * every
        self._touch()
        return windows, events

    def _observe(self, batch: Batch) -> int:
        """Put rows into the open pane; its number."""
        return self._merge(observe(self._empty(), self._subject.held.reference, batch))

    def _merge(self, pane: Pane) -> int:
        """Put summed rows into the open pane; its number."""
        if self._no < 0:
            self._no = self._numbers()
            if self._labelled:
                self._pending[self._no] = Pending(self._no)
        self._pane = merge(self._pane, pane)
        self._touch()
        return self._no

    def _before(self, no: int) -> tuple[Pane, ...]:
        """The closed panes that a trailing reference of window `no` has."""
        earlier = [other for other in sorted(self._ring) if other < no]
        return tuple(self._ring[other] for other in earlier[-self._subject.monitor.trailing :])

    def _empty(self) -> Pane:
        """A pane without rows."""
        subject = self._subject
        return empty(subject.held.reference, sample_rows(subject.monitor, bool(subject.segment)))

    def _keep(self, pane: Pane, trailing: int) -> None:
        self._ring[self._no] = pane
        self._journal.touch(self._ring_key(self._no), lambda: to_bytes(pane))
        for no in sorted(self._ring)[: -max(SEGMENT_KEPT if self._subject.segment else KEPT, trailing)]:
            del self._ring[no]
            self._journal.drop(self._ring_key(no))

    def _ring_key(self, no: int) -> str:
        return f"ring/{self._key}/{no:012}"

    def _touch(self) -> None:
        self._journal.touch(f"track/{self._key}", self._blob)
        if self._pane.rows:
            self._journal.touch(f"open/{self._key}", lambda: to_bytes(self._pane))
        else:
            self._journal.drop(f"open/{self._key}")

    def _blob(self) -> bytes:
        return orjson.dumps({
            "semantics": self._subject.monitor.semantics,
            "panes": self._pane.reference,
            "open": [self._no, self._floor, self._until, self._late],
            "ring": sorted(self._ring),
            "pending": [self._pending[no].to_json() for no in sorted(self._pending)],
            "cusum": self._cusum.to_json(),
        })  # fmt: skip


def sample_rows(monitor: Monitor, segment: bool) -> int:
    """How many rows a pane of the monitor keeps raw."""
    sampled = not segment or any(name not in HISTOGRAM for name in monitor.methods.values())
    return SAMPLE_ROWS if sampled else SEGMENT_SAMPLE
