"""What is known of files: as long as they are there, for a while when they are gone, and never less because nobody could look."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.clients.gone import CHUNKS, GoneContents, content_key, pack, path_key
from daemon.clients.listing import Listing
from daemon.clients.marks import Marks
from daemon.intake import FileMark, GoneFile

REMEMBER_S = 100.0
SECOND = 1_000_000
NOW = 10**15


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to watch."""
    made = tmp_path / "landing"
    made.mkdir()
    return made


def digest_of(content: str) -> str:
    """SHA-256 in hex."""
    return sha256(content.encode()).hexdigest()


def listing(folder: Path) -> Listing:
    """What is there now."""
    return Listing(str(folder), lambda name: not name.endswith(".txt"))


def write(path: Path, content: str, status: str = "taken", device: int | None = None) -> FileMark:
    """Put a file there; its mark as a listing would find it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    found = path.stat()
    on = path.parent.stat().st_dev if device is None else device
    return FileMark("o", str(path), found.st_size, found.st_mtime_ns, digest_of(content), status, on)


def marks(*known: FileMark) -> Marks:
    """What is known of files of the owner `o`."""
    return Marks("o", known, REMEMBER_S)


def test_a_mark_is_as_it_was_put_in(folder: Path) -> None:
    """However it is kept: every status, with and without a digest."""
    known = [
        write(folder / "a", "a"),
        write(folder / "b", "a", "duplicate"),
        FileMark("o", "/gone/c", 0, 2**62, "", "empty", 2**62),
        FileMark("o", "/gone/d", 2**40, -5, "", "unreadable"),
    ]
    assert list(marks(*known).values()) == known


def test_a_file_that_is_gone_loses_its_mark_and_its_content_is_known(folder: Path) -> None:
    """What comes back is known as the same file, or as another one's content."""
    known = marks(write(folder / "a", "a"), write(folder / "sub" / "b", "b"))
    assert known.leave(listing(folder), NOW) == []
    shutil.rmtree(folder / "sub")
    assert known.leave(listing(folder), NOW) == [GoneFile("o", str(folder / "sub" / "b"), digest_of("b"), NOW)]
    assert list(known) == [str(folder / "a")]
    assert known.holder(digest_of("b")) is None
    assert known.was_at(str(folder / "sub" / "b"), digest_of("b")) is True
    assert known.was_at(str(folder / "c"), digest_of("b")) is False
    assert known.was_at(str(folder / "a"), digest_of("a")) is None


def test_a_content_is_forgotten_when_its_file_has_been_gone_for_long_enough(folder: Path) -> None:
    """Not before, and little later; what the store is told reaches as far."""
    known = marks(write(folder / "a", "a"))
    (folder / "a").unlink()
    known.leave(listing(folder), NOW)
    assert known.forget(NOW + round(REMEMBER_S * SECOND)) == ()
    assert known.was_at(str(folder / "a"), digest_of("a")) is True
    (told,) = known.forget(NOW + round(REMEMBER_S * SECOND) + 1)
    assert (told.owner, told.until) == ("o", NOW)
    assert known.was_at(str(folder / "a"), digest_of("a")) is None
    assert known.gone == 0


def test_a_content_is_known_as_long_as_a_file_with_it_is_there(folder: Path) -> None:
    """Its twin keeps it, and it is remembered from when the last one went."""
    twin = write(folder / "twin", "a", "duplicate")
    known = marks(write(folder / "first", "a"), twin)
    (folder / "first").unlink()
    assert known.leave(listing(folder), NOW) == [GoneFile("o", str(folder / "first"), "", NOW)]
    assert known.forget(NOW + 10**12) == ()
    assert known.holder(digest_of("a")) == twin.path
    (folder / "twin").unlink()
    known.leave(listing(folder), NOW + 10**12)
    assert known.was_at(twin.path, digest_of("a")) is True


def test_a_file_that_does_not_count_any_more_is_still_there(folder: Path) -> None:
    """A pattern that was changed, and changed back, does not make old files new."""
    known = marks(write(folder / "a.txt", "a"), write(folder / "b", "b"))
    (folder / "b").rename(folder / "hidden")
    (folder / "b").mkdir()
    assert [file.path for file in known.leave(listing(folder), NOW)] == [str(folder / "b")]
    assert known.leave(Listing(str(folder), lambda _name: False), NOW) == []


@contextmanager
def moved_away(folder: Path) -> Iterator[None]:
    """The folder is not there."""
    folder.rename(folder.with_name("away"))
    yield
    folder.with_name("away").rename(folder)


@contextmanager
def in_a_circle(folder: Path) -> Iterator[None]:
    """The folder cannot be listed: it is a link to itself."""
    with moved_away(folder):
        folder.symlink_to(folder)
        yield
        folder.unlink()


@contextmanager
def a_file_instead(folder: Path) -> Iterator[None]:
    """The folder cannot be listed: it is a file."""
    with moved_away(folder):
        folder.touch()
        yield
        folder.unlink()


@pytest.mark.parametrize("trouble", [moved_away, in_a_circle, a_file_instead])
@pytest.mark.parametrize("below", ["", "2026/01"])
def test_what_cannot_be_listed_forgets_nothing(
    folder: Path, trouble: Callable[..., Iterator[None]], below: str
) -> None:
    """The watched folder itself; of those below it, one that is removed is gone with its files, and no other."""
    known = marks(write(folder / below / "a", "a"), write(folder / "b", "b"))
    removed = below and trouble is moved_away
    with trouble(folder / "2026" if below else folder):
        lost = known.leave(listing(folder), NOW)
        assert len(lost) == (1 if removed else 0)
    assert known.leave(listing(folder), NOW) == []
    assert len(known) == (1 if removed else 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_a_folder_below_that_may_not_be_read_keeps_its_files_and_no_others() -> None:
    """As the `lost+found` of a mounted disk: the rest of the watched folder is as good as any."""
    folder = Path(tempfile.mkdtemp())
    try:
        known = marks(write(folder / "lost+found" / "a", "a"), write(folder / "b", "b"))
        folder.chmod(0o755)
        (folder / "lost+found").chmod(0)
        (folder / "b").unlink()
        os.seteuid(65534)
        seen = listing(folder)
        os.seteuid(0)
        assert "cannot be listed" in seen.problem
        assert [file.path for file in known.leave(seen, NOW)] == [str(folder / "b")]
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


def test_an_empty_mount_point_forgets_nothing(folder: Path) -> None:
    """A disk that is not mounted leaves an empty folder, which could be listed well; its files are known when it is back."""
    mount(folder)
    try:
        known = marks(write(folder / "a", "a"), write(folder / "sub" / "b", "b"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    (folder / "stray").write_text("written while the disk was not there")
    assert listing(folder).problem == ""
    assert known.leave(listing(folder), NOW) == []
    assert len(known) == 2


def mount(folder: Path) -> None:
    """A file system of its own on the folder."""
    made = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.fail(f"this test mounts a tmpfs and needs the right to (root, CAP_SYS_ADMIN): {made.stderr}")


def test_a_disk_with_a_new_number_is_known_by_a_file_that_is_as_it_was(folder: Path) -> None:
    """Numbers change when a disk is mounted anew: then what is missing is gone, also at a later look."""
    there = write(folder / "there", "there", device=77)
    known = marks(there, write(folder / "a", "a", device=77), write(folder / "b", "b", device=77))
    (folder / "a").unlink()
    assert [file.path for file in known.leave(listing(folder), NOW)] == [str(folder / "a")]
    (folder / "b").unlink()
    (folder / "there").unlink()
    assert {file.path for file in known.leave(listing(folder), NOW)} == {str(folder / "b"), there.path}


def test_a_changed_file_says_nothing_of_the_disk(folder: Path) -> None:
    """Of the same name is not the same: a mount point may hold files that were written while the disk was not there."""
    known = marks(write(folder / "latest", "latest", device=77), write(folder / "a", "a", device=77))
    (folder / "a").unlink()
    (folder / "latest").write_text("another")
    assert known.leave(listing(folder), NOW) == []


def test_a_copy_on_another_disk_does_not_renumber_this_one(folder: Path) -> None:
    """Where some files are still on their device, those that moved say nothing of the others."""
    known = marks(
        write(folder / "here", "here"), write(folder / "gone", "gone"), write(folder / "moved", "moved", device=77)
    )
    (folder / "gone").unlink()
    assert [file.path for file in known.leave(listing(folder), NOW)] == [str(folder / "gone")]


NAMES, CONTENTS = ("a", "b", "sub/c"), ("1", "2")
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(NAMES), st.sampled_from(CONTENTS)),
    st.tuples(st.just("remove"), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.just("pass"), st.sampled_from(["1", "60", "200"]), st.just("")),
    st.tuples(st.just("restart"), st.just(""), st.just("")),
)


class Naive:
    """A reader that writes down all that happens, and what it is told to store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOW
        self.marks = marks()
        self.there: dict[str, str] = {}
        """Path -> content."""
        self.left: dict[str, int] = {}
        """Content -> when its last file went."""
        self._stored: dict[str, FileMark] = {}
        self._rows: list[tuple[bytes, bytes, int]] = []

    def do(self, what: str, name: str, content: str) -> None:
        """One step of a script, and a look at the folder."""
        self.now += 1
        path = self.folder / name
        match what:
            case "put":
                mark = write(path, content)
                self.marks.add(mark)
                self._stored[mark.path] = mark
                self.there[mark.path] = content
            case "remove" if path.is_file():
                path.unlink()
                lost = self.there.pop(str(path))
                if lost not in self.there.values():
                    self.left[lost] = self.now
            case "pass":
                self.now += int(name) * SECOND
            case "restart":
                self.marks = Marks("o", self._stored.values(), REMEMBER_S, pack(self._rows))
        self._look()

    def _look(self) -> None:
        for file in self.marks.leave(listing(self.folder), self.now):
            del self._stored[file.path]
            if file.digest:
                self._rows.append((content_key(file.digest), path_key(file.path), file.at))
        for told in self.marks.forget(self.now):
            self._rows = [row for row in self._rows if row[2] > told.until]
        assert set(self.marks) == set(self._stored)


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATIONS, max_size=25))
def test_marks_are_those_of_a_naive_reader(script: list[tuple[str, str, str]]) -> None:
    """Whatever comes, goes, and is restarted: known are the files that are there, and contents gone for less than `remember`.

    Between that and a chunk more, both answers are right.
    """
    with tempfile.TemporaryDirectory() as made:
        naive = Naive(Path(made))
        for step in script:
            naive.do(*step)
            assert set(naive.marks) == set(naive.there)
            for content in CONTENTS:
                holder = naive.marks.holder(digest_of(content))
                assert (holder is not None) == (content in naive.there.values())
                assert holder is None or naive.there[holder] == content
                if holder is not None:
                    continue
                known = naive.marks.was_at("elsewhere", digest_of(content)) is not None
                since = naive.now - naive.left.get(content, -(10**15))
                if since <= REMEMBER_S * SECOND:
                    assert known
                elif since > (1 + 2 / CHUNKS) * REMEMBER_S * SECOND:
                    assert not known


def test_a_clock_that_was_wrong_for_a_while_keeps_little(folder: Path) -> None:
    """What went while the clock was years ahead is known for years, and nothing that went later is."""
    contents = GoneContents(100 * SECOND)
    contents.add(digest_of("ahead"), "/ahead", NOW + 10**15)
    for second in range(1000):
        contents.add(digest_of(str(second)), f"/{second}", NOW + second * SECOND)
        contents.forget(NOW + second * SECOND)
    assert len(contents) < 200


def test_each_of_many_contents_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the others, as they went and after a restart; of one that went twice the last path is known."""
    monkeypatch.setattr("daemon.clients.gone.CHUNK", 1000)
    monkeypatch.setattr("daemon.clients.gone.YOUNG", 100)
    contents = GoneContents(10**15)
    rows = [(content_key(digest_of(str(n))), path_key(f"/{n}"), NOW + n) for n in range(20_000)]
    for number in range(20_000):
        contents.add(digest_of(str(number)), f"/{number}", NOW + number)
    for one in (contents, GoneContents(10**15, pack(rows))):
        assert len(one) == 20_000
        assert all(one.path_of(digest_of(str(n))) == path_key(f"/{n}") for n in range(0, 20_000, 7))
        assert one.path_of(digest_of("another")) is None
        for number in range(150):
            one.add(digest_of("7"), f"/again/{number}", NOW + 20_000)
            one.add(digest_of(f"new {number}"), "/new", NOW + 20_000)
            assert one.path_of(digest_of("7")) == path_key(f"/again/{number}")
