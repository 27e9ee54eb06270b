"""Watching real folders: what counts, when, and that nothing is missed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from watchdog.events import FileCreatedEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver, EventEmitter

from daemon.clients.completeness import Complete
from daemon.clients.folder import FolderWatch, is_being_written
from daemon.clients.landed import Candidate, Found, look
from daemon.clients.marks import Marks
from tests.contract.desk import eventually

NEVER = threading.Event()


class Reader:
    """A caller of a watch: takes what is ready and remembers it."""

    def __init__(self, watch: FolderWatch) -> None:
        self.watch = watch
        self.marks = Marks("stream:s")
        self.found: list[Found] = []

    def look(self) -> list[str]:
        """Take what is ready now; the names of what is to be used."""
        taken = []
        for candidate in self.watch.ready(self.marks):
            found = look(candidate, self.marks, NEVER)
            if found is not None:
                self.marks.add(found.mark)
                self.found.append(found)
                if found.fresh:
                    taken.append(candidate.name)
        return taken

    def until(self, *names: str) -> None:
        """Look until exactly these were taken, in this order."""
        taken: list[str] = []

        def all_there() -> bool:
            self.watch.wait(NEVER, 0.2)
            taken.extend(self.look())
            return len(taken) >= len(names)

        eventually(all_there)
        assert list(names) == taken

    @property
    def statuses(self) -> dict[str, str]:
        """What became of each file, by name."""
        return {Path(path).name: mark.status for path, mark in self.marks.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to watch."""
    made = tmp_path / "landing"
    made.mkdir()
    return made


def watching(folder: Path, complete: Complete, pattern: str = "*", poll: float = 60.0) -> FolderWatch:
    """A watch that stands still for 0.1 s and lists so rarely that only notifications can be quick."""
    return FolderWatch(folder, pattern, complete, stable_for=0.1, poll=poll)


@pytest.fixture(params=["notified", "listed"])
def reader(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader of a folder where files are renamed in: with notifications, and with none to be had."""
    if request.param == "listed":
        monkeypatch.setattr("daemon.clients.folder._observe", lambda _path, _notes: None)
    with watching(folder, "renamed", poll=60.0 if request.param == "notified" else 0.1) as watch:
        assert watch.notified == (request.param == "notified")
        yield Reader(watch)


def test_a_file_that_is_written_and_closed_is_taken_once(reader: Reader, folder: Path) -> None:
    """Whether somebody tells us or we find it."""
    reader.look()
    (folder / "a.csv").write_text("1")
    reader.until("a.csv")
    assert reader.look() == []


def test_a_file_is_taken_whole_or_not_at_all(reader: Reader, folder: Path) -> None:
    """While its writer has it open it is not taken, however long it pauses."""
    reader.look()
    with (folder / "a.csv").open("w") as file:
        file.write("half")
        file.flush()
        threading.Event().wait(0.5)  # several times as long as a file must stand still
        assert reader.look() == []
        file.write(" and half")
    reader.until("a.csv")
    assert reader.found[-1].mark.size == len("half and half")


def test_a_renamed_file_is_taken_under_its_last_name_only(reader: Reader, folder: Path, tmp_path: Path) -> None:
    """From beside it, or from outside the watched folder; unfinished names never count."""
    reader.look()
    for name in (".a.csv", "b.csv.part", "c.csv.tmp"):
        (folder / name).write_text(name)
    (tmp_path / "outside").write_text("from outside")
    threading.Event().wait(0.3)
    assert reader.look() == []
    (folder / ".a.csv").rename(folder / "a.csv")
    reader.until("a.csv")
    (tmp_path / "outside").rename(folder / "d.csv")
    reader.until("d.csv")


def test_folders_below_count_also_when_they_appear_later(reader: Reader, folder: Path, tmp_path: Path) -> None:
    """A candidate says in which folder it lies; hidden folders do not count."""
    reader.look()
    (folder / "2026" / "01").mkdir(parents=True)
    (folder / "2026" / "01" / "a.csv").write_text("a")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "b.csv").write_text("b")
    reader.until("a.csv")
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "c.csv").write_text("c")
    whole.rename(folder / "2027")
    reader.until("c.csv")
    assert {"a.csv", "c.csv"} == set(reader.statuses)


def test_a_file_whose_close_came_before_its_folder_was_watched_is_taken_as_soon_as_it_stands_still(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its creation is told of, by the one who found it in a new folder; nobody has it open, and the system says so."""
    told: list[FileSystemEventHandler] = []

    class Quiet(BaseObserver):
        """An observer that observes nothing."""

    def observe(_path: str, notes: FileSystemEventHandler) -> BaseObserver:
        told.append(notes)
        return Quiet(EventEmitter)

    monkeypatch.setattr("daemon.clients.folder._observe", observe)
    monkeypatch.setattr("daemon.clients.folder._is_alive", lambda _observer: True)
    monkeypatch.setattr(BaseObserver, "join", lambda _self: None)
    with watching(folder, "renamed", poll=600.0) as watch:
        reader = Reader(watch)
        reader.look()
        (folder / "a.csv").write_text("a")
        told[0].dispatch(FileCreatedEvent(str(folder / "a.csv")))
        reader.until("a.csv")


def test_the_oldest_file_comes_first(folder: Path) -> None:
    """Equal times go by path, so that every run of the daemon takes them in the same order."""
    for name, time in (("b", 2), ("c", 1), ("a", 2), ("z", 0)):
        (folder / name).write_text(name)
        os.utime(folder / name, (time, time))
    with watching(folder, "renamed") as watch:
        Reader(watch).until("z", "c", "a", "b")


def test_only_names_of_the_pattern_count(folder: Path) -> None:
    """The pattern is about file names, not paths."""
    (folder / "sub").mkdir()
    for name in ("a.csv", "b.parquet", "sub/c.csv"):
        (folder / name).write_text(name)
    with watching(folder, "renamed", "*.csv") as watch:
        reader = Reader(watch)
        reader.until("a.csv", "c.csv")


def test_a_marker_says_that_its_file_is_complete(folder: Path) -> None:
    """Nothing else does, and the marker itself is no file."""
    with watching(folder, "marker") as watch:
        reader = Reader(watch)
        reader.look()
        (folder / "a.csv").write_text("a")
        threading.Event().wait(0.3)
        assert reader.look() == []
        (folder / "a.csv.done").touch()
        reader.until("a.csv")
        assert reader.statuses == {"a.csv": "taken"}


def test_a_marker_from_before_a_change_does_not_speak_for_it(folder: Path) -> None:
    """A file written over under its old marker is half-written until the marker is made again."""
    (folder / "a.csv").write_text("a")
    (folder / "a.csv.done").touch()
    with watching(folder, "marker", poll=0.05) as watch:
        reader = Reader(watch)
        reader.until("a.csv")
        os.utime(folder / "a.csv.done", (1, 1))
        (folder / "a.csv").write_text("new, half")
        threading.Event().wait(0.2)
        assert reader.look() == []
        (folder / "a.csv.done").touch()
        reader.until("a.csv")


def test_a_stable_file_must_stand_still(folder: Path) -> None:
    """A writer that opens and closes it again and again is waited for."""
    with FolderWatch(folder, "*", "stable", stable_for=0.6, poll=0.05) as watch:
        reader = Reader(watch)
        for number in range(8):
            with (folder / "a.csv").open("a") as file:
                file.write(str(number))
            threading.Event().wait(0.1)
            assert reader.look() == []
        reader.until("a.csv")
        assert reader.found[0].mark.size == 8


def test_what_landed_while_nobody_watched_is_found(folder: Path) -> None:
    """The first listing finds it; what is known is not taken again."""
    (folder / "known").write_text("known")
    with watching(folder, "renamed") as watch:
        first = Reader(watch)
        first.until("known")
    (folder / "new").write_text("new")
    with watching(folder, "renamed") as watch:
        second = Reader(watch)
        second.marks = Marks("stream:s", first.marks.values())
        second.until("new")


def test_a_lost_notification_costs_time_not_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing beside the notifications finds what they did not tell."""
    monkeypatch.setattr("daemon.clients.folder._Notes.dispatch", lambda _self, _event: None)
    with watching(folder, "renamed", poll=0.2) as watch:
        reader = Reader(watch)
        reader.look()
        (folder / "a.csv").write_text("a")
        reader.until("a.csv")
        assert watch.notified


def test_a_folder_that_appears_later_is_watched_then(tmp_path: Path) -> None:
    """Meanwhile the watch says what is missing; removing the folder and making it again changes nothing."""
    folder = tmp_path / "later"
    with watching(folder, "renamed", poll=0.1) as watch:
        reader = Reader(watch)
        assert reader.look() == []
        assert "cannot be listed" in watch.problem
        for name in ("first", "second"):
            folder.mkdir()
            (folder / name).write_text(name)
            reader.until(name)
            assert watch.problem == ""
            eventually(lambda: reader.look() == [] and watch.notified)
            shutil.rmtree(folder)
            eventually(lambda: reader.look() == [] and watch.problem)


def test_a_symlink_that_is_swapped_leads_to_its_new_folder(tmp_path: Path) -> None:
    """As ConfigMaps and git-sync do it: the path stays, what it leads to is replaced in one step."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.csv").write_text(name)
    (tmp_path / "current").symlink_to("v1")
    with watching(tmp_path / "current", "renamed") as watch:
        reader = Reader(watch)
        reader.until("v1.csv")
        (tmp_path / "next").symlink_to("v2")
        (tmp_path / "next").rename(tmp_path / "current")
        reader.until("v2.csv")
        (tmp_path / "v2" / "new.csv").write_text("new")
        reader.until("new.csv")
        assert str(tmp_path / "current" / "new.csv") in reader.marks


def test_links_that_lead_in_circles_are_followed_once(folder: Path) -> None:
    """A symlink to a folder above does not make endless paths; one to elsewhere is a folder like others."""
    (folder / "sub").mkdir()
    (folder / "sub" / "a.csv").write_text("a")
    (folder / "sub" / "up").symlink_to(folder)
    with watching(folder, "renamed") as watch:
        Reader(watch).until("a.csv")


def test_a_changed_file_is_new_only_when_its_content_is(folder: Path) -> None:
    """Touching it says nothing; the mark follows its time, so that it is not read again and again."""
    with watching(folder, "renamed", poll=0.1) as watch:
        reader = Reader(watch)
        (folder / "a.csv").write_text("a")
        reader.until("a.csv")
        os.utime(folder / "a.csv", (1, 1))
        eventually(lambda: reader.look() == [] and reader.found[-1].mark.mtime_ns == 1_000_000_000)
        assert [found.fresh for found in reader.found] == [True, False]
        (folder / "a.csv").write_text("b")
        reader.until("a.csv")


def test_the_same_content_under_another_name_is_a_duplicate(folder: Path) -> None:
    """It is said and not taken; with other content the name is a file like any other."""
    with watching(folder, "renamed") as watch:
        reader = Reader(watch)
        (folder / "a.csv").write_text("same")
        reader.until("a.csv")
        (folder / "b.csv").write_text("same")
        eventually(lambda: reader.look() == [] and len(reader.found) == 2)
        assert reader.statuses == {"a.csv": "taken", "b.csv": "duplicate"}
        problem = reader.found[-1].problem
        assert problem is not None
        assert str(folder / "a.csv") in problem.reason
        (folder / "b.csv").write_text("other")
        reader.until("b.csv")


def test_an_empty_file_is_said_and_taken_when_it_is_filled(folder: Path) -> None:
    """Many writers create first and write later, so a file is only called empty when it stays so."""
    with watching(folder, "renamed", poll=0.1) as watch:
        reader = Reader(watch)
        (folder / "a.csv").touch()
        eventually(lambda: reader.look() == [] and reader.statuses)
        assert reader.statuses == {"a.csv": "empty"}
        assert len(reader.found) == 1
        (folder / "a.csv").write_text("a")
        reader.until("a.csv")


@pytest.mark.parametrize("kind", ["dangling link", "link to itself", "pipe"])
def test_what_cannot_be_read_is_said_once_and_taken_when_it_can(folder: Path, tmp_path: Path, kind: str) -> None:
    """It is tried at every listing; nothing hangs on a pipe without a writer."""
    path = folder / "a.csv"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "link to itself" else tmp_path / "target")
    with watching(folder, "renamed", poll=0.1) as watch:
        reader = Reader(watch)
        eventually(lambda: reader.look() == [] and reader.statuses)
        assert reader.statuses == {"a.csv": "unreadable"}
        for _ in range(5):
            watch.wait(NEVER, 0.2)
            reader.look()
        assert len(reader.found) == 1
        if kind == "dangling link":
            (tmp_path / "target").write_text("a")
        else:
            path.unlink()
            path.write_text("a")
        reader.until("a.csv")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_a_file_without_the_right_to_read_is_taken_when_it_is_given() -> None:
    """Rights leave no trace in size and time, so only trying tells."""
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        (folder / "a.csv").write_text("a")
        (folder / "a.csv").chmod(0o000)
        os.seteuid(65534)
        with watching(folder, "renamed", poll=0.1) as watch:
            reader = Reader(watch)
            eventually(lambda: reader.look() == [] and reader.statuses)
            assert reader.statuses == {"a.csv": "unreadable"}
            os.seteuid(0)
            (folder / "a.csv").chmod(0o644)
            os.seteuid(65534)
            reader.until("a.csv")
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


def test_a_name_that_is_not_utf_8_is_said(folder: Path) -> None:
    """It cannot be stored, so it is not taken; the folder's problem names it."""
    Path(os.fsdecode(bytes(folder) + b"/\xff.csv")).write_text("a")
    with watching(folder, "renamed") as watch:
        assert Reader(watch).look() == []
        assert "not UTF-8" in watch.problem


def test_a_file_that_changes_while_it_is_read_is_left_for_later(folder: Path) -> None:
    """What was read is not what the candidate was."""
    path = folder / "a.csv"
    path.write_text("new content")
    old = Candidate(1, str(path), "", 3)
    gone = Candidate(1, str(folder / "gone"), "", 3)
    assert [look(candidate, Marks("o"), NEVER) for candidate in (old, gone)] == [None, None]


def test_without_notifications_to_be_had_the_folder_is_listed(folder: Path) -> None:
    """All inotify instances are taken (here: all file descriptors): it works all the same, and leaks nothing."""
    program = f"""
import os, resource, threading
from pathlib import Path
from daemon.clients.folder import FolderWatch
from daemon.clients.marks import Marks
folder, never = Path({str(folder)!r}), threading.Event()
# Room for one descriptor more: the instance of inotify has it, its wake-up pipe does not.
soft = max(int(name) for name in os.listdir("/proc/self/fd")) + 2
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
with FolderWatch(folder, "*", "renamed", 0.05, 0.05) as watch:
    found = []
    while not found:
        found = watch.ready(Marks("s"))
        watch.wait(never, 0.1)
    print(watch.notified, found[0].name)
"""
    (folder / "a.csv").write_text("a")
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=root, timeout=60, check=False
    )
    assert (ran.stdout, ran.stderr) == ("False a.csv\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="leases are Linux's")
def test_the_kernel_tells_who_writes(folder: Path) -> None:
    """True while anybody has the file open for writing, false after, and unknown where there is no file."""
    path = folder / "a.csv"
    with path.open("w"):
        assert is_being_written(str(path)) is True
    assert is_being_written(str(path)) is False
    with path.open():
        assert is_being_written(str(path)) is False
    assert is_being_written(str(folder / "none")) is None
