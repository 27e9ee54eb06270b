"""Windows: every row is in exactly one, or late; how the rows were cut into files does not matter."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core.columns import Batch, Column, Records
from daemon.core.events import Event
from daemon.core.monitors import Monitor, Window
from daemon.monitors.evidence import Samples
from daemon.monitors.held import Held, blank
from daemon.monitors.journal import Journal
from daemon.monitors.measure import Subject
from daemon.monitors.windows import Track

MINUTE = 60_000_000


def track(window: Window) -> tuple[Track, Journal]:
    """Windows without a reference: what closes is what is asked here."""
    journal = Journal()
    held = Held(blank("regression", {"x": "number"}), None, (), "none is needed")
    monitor = Monitor("m", "model", window)
    return Track(Subject("s", monitor, "", held), journal, itertools.count(1).__next__, labelled=True), journal


def batch(first: int, times: Sequence[int]) -> Batch:
    """Rows at these event times (minutes), from a position on."""
    rows = len(times)
    positions = np.arange(first, first + rows, dtype=np.int64)
    column = Column("number", positions.astype(np.float64), np.zeros(rows, np.bool_))
    moments = np.array(times, np.int64) * MINUTE
    return Batch(Records(rows, {"x": column}), [str(p) for p in positions], positions, moments)


def run(window: Window, pieces: Sequence[Sequence[int]]) -> tuple[list[int], list[Event]]:
    """Put pieces of a stream in; the window of each row, and the events."""
    windows, _ = track(window)
    numbers: list[int] = []
    events: list[Event] = []
    for piece in pieces:
        found, closed = windows.add(batch(len(numbers), piece), Samples())
        numbers += found.tolist()
        events += closed
    return numbers, [event for event in events if event.type == "drift.measured"]


def cut(times: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    """The stream in pieces of these sizes."""
    ends = list(itertools.accumulate(sizes, initial=0))
    return [piece for start, end in itertools.pairwise([*ends, len(times)]) if (piece := times[start:end])]


SIZES = st.lists(st.integers(1, 40), max_size=12)


@settings(deadline=None)
@given(rows=st.integers(0, 200), size=st.integers(1, 50), sizes=SIZES)
def test_windows_of_rows_are_the_rows_in_order(rows: int, size: int, sizes: list[int]) -> None:
    """Row i is in window i // size, whatever pieces the rows came in; a window closes with its last row."""
    numbers, events = run(Window(rows=size), cut(list(range(rows)), sizes))

    assert [1 + row // size for row in range(rows)] == numbers
    assert [(n * size, n * size + size - 1) for n in range(rows // size)] == [
        (event.data["window"]["first"], event.data["window"]["last"]) for event in events
    ]


@settings(deadline=None)
@given(
    gaps=st.lists(st.integers(0, 12), min_size=1, max_size=150), every=st.integers(1, 30), least=st.integers(1, 20),
    sizes=SIZES,
)  # fmt: skip
def test_windows_of_time_hold_their_stretch(gaps: list[int], every: int, least: int, sizes: list[int]) -> None:
    """In-order rows are never late; closed windows have rows enough, and lie in whole, disjoint, ascending stretches."""
    times = list(itertools.accumulate(gaps))
    window = Window(every=timedelta(minutes=every), min_rows=least)

    numbers, events = run(window, cut(times, sizes))

    assert numbers == run(window, [times])[0]
    assert -1 not in numbers
    assert all(event.data["window"]["rows"] >= least for event in events)
    for before, after in itertools.pairwise(sorted(set(numbers))):
        last = max(time for time, number in zip(times, numbers, strict=True) if number == before)
        first = min(time for time, number in zip(times, numbers, strict=True) if number == after)
        assert last // every < first // every


def test_late_rows_are_left_out_and_counted() -> None:
    """A row of a window that was closed is in none; the next window says how many there were."""
    numbers, events = run(Window(every=timedelta(minutes=10)), [[1, 5, 12], [3, 14, 4], [21]])

    assert numbers == [1, 1, 2, -1, 2, -1, 3]
    assert [(event.data["window"]["rows"], event.data["window"]["late"]) for event in events] == [(2, 0), (2, 2)]


def test_rows_of_one_piece_may_be_out_of_order() -> None:
    """Within a piece rows are taken by their time: a writer's threads may interleave."""
    numbers, _ = run(Window(every=timedelta(minutes=10)), [[12, 1, 5, 25, 13]])

    assert numbers == [2, 1, 1, 3, 2]


@settings(deadline=None)
@given(rows=st.integers(1, 120), size=st.integers(1, 40), at=st.integers(0, 120))
def test_a_restored_window_goes_on(rows: int, size: int, at: int) -> None:
    """Stopped and restored anywhere, the windows are those of a run without a stop, their blobs too."""
    window = Window(rows=size)
    whole, whole_journal = track(window)
    whole.add(batch(0, range(rows)), Samples())
    first, journal = track(window)
    first.add(batch(0, range(min(at, rows))), Samples())
    states = {write.key: write.blob for write in journal.writes("s") if write.blob is not None}
    second, _ = track(window)
    second._journal, second._numbers = journal, first._numbers
    second.restore(states)
    second.add(batch(min(at, rows), range(min(at, rows), rows)), Samples())

    for write in journal.writes("s"):
        states.pop(write.key, None)
        if write.blob is not None:
            states[write.key] = write.blob
    assert {write.key: write.blob for write in whole_journal.writes("s") if write.blob is not None} == states
