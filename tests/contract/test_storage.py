"""The storage source: what its events, marks and problems say."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from daemon.clients.landed import Candidate
from daemon.config import StorageSource as Folder
from daemon.core.errors import StoreBusy
from daemon.core.schema import check_data
from daemon.intake import Batch, Receipt
from daemon.sources import storage
from daemon.sources.storage import StorageSource, event_of
from tests.contract.desk import Clock, Desk, eventually, running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to watch."""
    made = tmp_path / "landing"
    made.mkdir()
    return made


def source(folder: Path, clock: Clock, **settings: Any) -> StorageSource:
    """The source of the folder, quick for a test."""
    quick = {"complete": "renamed", "stable_for": timedelta(seconds=0.1), "poll": timedelta(seconds=0.2)}
    return StorageSource("landing", Folder(path=Path(folder.name), **(quick | settings)), folder.parent, clock)


def test_an_event_says_what_landed_where() -> None:
    """Its data is as the catalogue says, its time is the file's, its id is of path and content."""
    event = event_of("landing", Candidate(1_500_000_000, "/data/in/eu/a.csv", "eu", 7), "abc")
    expected = {
        "source": "landing", "path": "/data/in/eu/a.csv", "folder": "eu", "name": "a.csv", "bytes": 7, "digest": "abc",
    }  # fmt: skip
    assert expected == event.data
    assert check_data(event.type, event.data) == []
    assert event.time == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert event.id == event_of("landing", Candidate(9, "/data/in/eu/a.csv", "eu", 7), "abc").id
    assert event.id != event_of("landing", Candidate(9, "/data/in/eu/a.csv", "eu", 7), "abd").id


def test_a_file_time_that_no_calendar_has_is_no_obstacle() -> None:
    """File systems hold times up to the year 2 billion."""
    assert event_of("landing", Candidate(2**63 * 1000, "/a", "", 1), "abc").time.year == 1970


def test_files_of_every_kind_are_accounted_for(folder: Path, clock: Clock, desk: Desk) -> None:
    """Good ones are events; duplicate, empty and unreadable ones are problems with a reason; no file is left out."""
    (folder / "eu").mkdir()
    (folder / "eu" / "good.csv").write_text("good")
    os.utime(folder / "eu" / "good.csv", (1, 1))
    (folder / "twin.csv").write_text("good")
    (folder / "empty.csv").touch()
    (folder / "broken.csv").symlink_to(folder / "nowhere")
    (folder / "notes.txt").write_text("not of the pattern")
    with running(source(folder, clock, pattern="*.csv"), desk):
        eventually(lambda: len(desk.files("storage:landing")) == 4)
    statuses = {Path(mark.path).name: mark.status for mark in desk.files("storage:landing").values()}
    assert statuses == {"good.csv": "taken", "twin.csv": "duplicate", "empty.csv": "empty", "broken.csv": "unreadable"}
    (event,) = desk.events("data.landed")
    assert (event["folder"], event["digest"]) == ("eu", sha256(b"good").hexdigest())
    assert {Path(place).name for place, _ in desk.problems("file")} == {"twin.csv", "empty.csv", "broken.csv"}


def test_a_content_that_comes_back_under_its_name_is_said(folder: Path, clock: Clock, desk: Desk) -> None:
    """It is the same event as before, so nothing is done for it, but not silently."""
    with running(source(folder, clock), desk):
        for count, content in ((1, "one"), (2, "two")):
            (folder / ".a").write_text(content)
            (folder / ".a").rename(folder / "a.csv")
            eventually(lambda count=count: len(desk.events("data.landed")) == count)
        (folder / ".a").write_text("one")
        (folder / ".a").rename(folder / "a.csv")
        ((place, reason),) = eventually(lambda: desk.problems("file"))
    assert place == str(folder / "a.csv")
    assert "taken before under this name" in reason
    assert len(desk.events("data.landed")) == 2


def test_a_batch_is_bounded(folder: Path, clock: Clock, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files lie there, what was read is stored before much more is read."""
    monkeypatch.setattr(storage, "BATCH_FILES", 4)
    for number in range(10):
        (folder / f"{number}.csv").write_text(str(number))
    sizes: list[int] = []

    class Counting(Desk):
        def submit(self, batch: Batch, timeout: float = 30.0) -> Receipt:
            sizes.append(len(batch.files))
            return super().submit(batch, timeout)

    desk.__class__ = Counting
    with running(source(folder, clock), desk):
        eventually(lambda: len(desk.events("data.landed")) == 10)
    assert sizes == [4, 4, 2]


def test_a_missing_folder_is_said_and_its_files_are_taken_when_it_is_there(
    tmp_path: Path, clock: Clock, desk: Desk
) -> None:
    """Health says what is wrong and does not count as alive meanwhile; the problem is stored once."""
    folder = tmp_path / "later"
    at_work = source(folder, clock)
    began = clock()
    with running(at_work, desk):
        eventually(lambda: at_work.health().problem)
        clock.move(seconds=60)
        eventually(lambda: desk.problems("file"))
        assert at_work.health().alive_at == began
        folder.mkdir()
        (folder / "a.csv").write_text("a")
        eventually(lambda: desk.events("data.landed"))
        assert at_work.health().problem == ""
    assert [str(folder)] == [place for place, _ in desk.problems("file")]


def drop(folder: Path, name: str, content: str) -> None:
    """Move a complete file in."""
    (folder / f".{name}").write_text(content)
    (folder / f".{name}").rename(folder / name)


def test_what_is_gone_is_known_for_a_while(folder: Path, clock: Clock, desk: Desk) -> None:
    """Its mark goes with it; its content is a duplicate under another name until `remember` has passed, also after a restart."""
    remember = timedelta(hours=1)
    drop(folder, "a.csv", "content")
    with running(source(folder, clock, remember=remember), desk):
        eventually(lambda: desk.files("storage:landing"))
        (folder / "a.csv").unlink()
        eventually(lambda: not desk.files("storage:landing"))
    assert len(desk.gone("storage:landing")) == 32
    desk.reopen()
    clock.move(minutes=59)
    with running(source(folder, clock, remember=remember), desk):
        drop(folder, "b.csv", "content")
        (mark,) = eventually(lambda: desk.files("storage:landing").values())
        assert mark.status == "duplicate"
        (folder / "b.csv").unlink()
        eventually(lambda: not desk.files("storage:landing"))
        clock.move(minutes=70)
        eventually(lambda: not desk.gone("storage:landing"))
        drop(folder, "c.csv", "content")
        eventually(lambda: desk.files("storage:landing"))
    assert [event["name"] for event in desk.events("data.landed")] == ["a.csv", "c.csv"]
    assert [Path(place).name for place, _ in desk.problems("file")] == ["b.csv"]


def test_a_folder_that_vanishes_and_returns_brings_nothing_twice(folder: Path, clock: Clock, desk: Desk) -> None:
    """However long it was away, and through restarts: nothing of it is forgotten, taken again, or complained of."""
    remember = timedelta(hours=1)
    for name in ("a.csv", "b.csv"):
        drop(folder, name, name)
    with running(source(folder, clock, remember=remember), desk):
        eventually(lambda: len(desk.files("storage:landing")) == 2)
        folder.rename(folder.with_name("away"))
        eventually(lambda: desk.problems("file"))
    desk.reopen()
    clock.move(hours=5)
    at_work = source(folder, clock, remember=remember)
    with running(at_work, desk):
        eventually(lambda: at_work.health().problem)
        folder.with_name("away").rename(folder)
        drop(folder, "c.csv", "c.csv")
        eventually(lambda: len(desk.events("data.landed")) == 3)
    assert {mark.status for mark in desk.files("storage:landing").values()} == {"taken"}
    assert len(desk.files("storage:landing")) == 3
    assert len(desk.problems("file")) == 1


def test_files_that_come_back_within_the_time_are_the_old_ones(folder: Path, clock: Clock, desk: Desk) -> None:
    """Moved away and back, they are neither events nor duplicates."""
    with running(source(folder, clock), desk):
        drop(folder, "a.csv", "a")
        eventually(lambda: desk.files("storage:landing"))
        (folder / "a.csv").rename(folder.with_name("a.csv"))
        eventually(lambda: not desk.files("storage:landing"))
        folder.with_name("a.csv").rename(folder / "a.csv")
        eventually(lambda: desk.files("storage:landing"))
    assert len(desk.events("data.landed")) == 1
    assert desk.problems("file") == []


def test_a_content_that_comes_back_after_it_was_forgotten_is_said(folder: Path, clock: Clock, desk: Desk) -> None:
    """Under its old name it is the event of then, which nobody decides again; that is a problem, not silence."""
    with running(source(folder, clock, remember=timedelta(hours=1)), desk):
        drop(folder, "a.csv", "a")
        eventually(lambda: desk.files("storage:landing"))
        (folder / "a.csv").unlink()
        eventually(lambda: not desk.files("storage:landing"))
        clock.move(hours=2)
        eventually(lambda: not desk.gone("storage:landing"))
        drop(folder, "a.csv", "a")
        ((_, reason),) = eventually(lambda: desk.problems("file"))
    assert "taken before under this name" in reason
    assert len(desk.events("data.landed")) == 1


def test_a_batch_that_had_to_be_handed_over_twice_is_no_repetition(folder: Path, clock: Clock, desk: Desk) -> None:
    """The store took it after all: the files are not called old because of it."""
    slow = iter([False, True])

    class Slow(Desk):
        def submit(self, batch: Batch, timeout: float = 30.0) -> Receipt:
            receipt = super().submit(batch, timeout)
            if batch.events and next(slow, False):
                raise StoreBusy("not durable in time; hand it in again")
            return receipt

    desk.__class__ = Slow
    with running(source(folder, clock), desk):
        for name in ("a.csv", "b.csv", "c.csv"):
            drop(folder, name, name)
            eventually(lambda name=name: str(folder / name) in desk.files("storage:landing"))
    assert len(desk.events("data.landed")) == 3
    assert desk.problems("file") == []
