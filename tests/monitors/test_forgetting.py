"""Files of a stream that are removed when they have been read: forgotten in time, and nothing measured differs by it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from daemon.monitors.plan import StreamPlan
from tests.monitors.lab import Clock, Row, Shelf, car_loan, champion, drain, feed, land, measure, plan

REMEMBER_S = 600.0


def rotate(made: StreamPlan, shelf: Shelf, keep: int = 0) -> None:
    """Remove the files that were taken, as a log rotation would: all but the newest ones."""
    taken = [path for path in sorted(shelf.files) if Path(path).exists()]
    for path in taken[: len(taken) - keep]:
        Path(path).unlink()


def test_marks_go_with_their_files(tmp_path: Path, data: Path, reference: Path) -> None:
    """Of predictions and of labels; the contents are known, and forgotten when their time is over."""
    made, clock = plan(tmp_path, remember=REMEMBER_S), Clock()
    feed(made, *car_loan(data, 24_000, 26_000))
    shelf = measure(made, champion(reference), clock)
    assert len(shelf.files) == 4
    rotate(made, shelf, keep=1)
    session = shelf.open(made, clock)
    drain(session, shelf)
    assert (len(shelf.files), len(shelf.gone)) == (1, 3)
    clock.seconds += REMEMBER_S
    drain(session, shelf)
    assert len(shelf.gone) == 3
    clock.seconds += REMEMBER_S / 10
    drain(session, shelf)
    assert (len(shelf.files), len(shelf.gone)) == (1, 0)
    session.close()


@pytest.mark.parametrize("seed", range(3))
def test_rotation_and_interruption_change_nothing(
    tmp_path: Path, data: Path, reference: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files go as soon as they are read, and it stops at any point: events and state are those of an undisturbed run."""
    monkeypatch.setattr("daemon.monitors.session.CHECKPOINT_S", 0.0)
    rows, labels = car_loan(data, 24_000, 26_000)
    still = plan(tmp_path / "still")
    feed(still, rows, labels, size=200)
    undisturbed = measure(still, champion(reference))

    made = plan(tmp_path / "rotated")
    chance = random.Random(seed)
    shelf = Shelf()
    for number in range(12):
        if number < 10:
            part: list[Row] = rows[number * 200 : number * 200 + 200]
            land(made.predictions, f"p{number:05}.jsonl", part, number * 10)
        if number >= 2:
            land(made.labels, f"l{number - 2:05}.csv", labels[number * 200 - 400 : number * 200 - 200], number * 10 + 1)
        ended = False
        while not ended:
            session = shelf.open(made)
            session.champion("car-loan", champion(reference))
            ended = drain(session, shelf, lambda: chance.random() < 0.2)
            session.close()
            rotate(made, shelf, keep=chance.randrange(3))
    session = shelf.open(made)
    drain(session, shelf)
    session.close()
    assert undisturbed.events == shelf.events
    assert len(shelf.files) == sum(Path(path).exists() for path in shelf.files) <= 2
    assert len(shelf.gone) + len(shelf.files) == 20


def test_a_content_is_a_duplicate_until_it_is_forgotten(tmp_path: Path, data: Path, reference: Path) -> None:
    """The rows of a removed file count once, when it comes again under any name; after its time they count again."""
    made, clock = plan(tmp_path, remember=REMEMBER_S), Clock()
    rows, _ = car_loan(data, 24_000, 24_500)
    land(made.predictions, "p0.jsonl", rows, 0)
    shelf = measure(made, champion(reference), clock)
    rotate(made, shelf)
    session = shelf.open(made, clock)
    session.champion("car-loan", champion(reference))
    drain(session, shelf)

    land(made.predictions, "p1.jsonl", rows, 10)
    drain(session, shelf)
    assert [mark.status for mark in shelf.files.values()] == ["duplicate"]
    assert [Path(problem.where).name for problem in shelf.problems] == ["p1.jsonl"]
    assert len(shelf.of("drift.measured")) == 1

    rotate(made, shelf)
    drain(session, shelf)
    clock.seconds += REMEMBER_S * 1.1
    drain(session, shelf)
    land(made.predictions, "p2.jsonl", rows, 20)
    drain(session, shelf)
    assert [mark.status for mark in shelf.files.values()] == ["taken"]
    assert len(shelf.of("drift.measured")) == 2
    session.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_folder_that_vanishes_and_returns_is_measured_once(
    tmp_path: Path, data: Path, reference: Path, restarted: bool
) -> None:
    """Away for longer than anything is remembered, with a restart meanwhile or not: its files are the old ones."""
    made, clock = plan(tmp_path, remember=REMEMBER_S), Clock()
    feed(made, car_loan(data, 24_000, 25_000)[0], [], size=500)
    shelf = measure(made, champion(reference), clock)
    session = shelf.open(made, clock)
    Path(made.predictions).rename(tmp_path / "away")
    for _ in range(3):
        clock.seconds += REMEMBER_S
        drain(session, shelf)
        assert "cannot be listed" in session.problem
        if restarted:
            session.close()
            session = shelf.open(made, clock)
    (tmp_path / "away").rename(made.predictions)
    drain(session, shelf)
    session.close()
    assert session.problem == ""
    assert len(shelf.files) == 2
    assert (shelf.gone, shelf.problems, len(shelf.of("drift.measured"))) == ([], [], 2)
