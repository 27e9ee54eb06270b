"""A watched folder: which of its files are complete and were not taken yet.

Notifications (inotify through watchdog) make it fast; a listing every `poll` seconds makes it right. Notifications get
lost, do not exist on network file systems, run out (`fs.inotify.max_user_instances`), and say nothing of what landed
while nobody watched; so everything works from listings alone, only later. The folder may be missing, appear later, or be
a symlink that is swapped to another folder: each listing looks which folder the path leads to now.

`ready` compares what is there with the caller's marks, which live in the store: the folder itself remembers nothing that
a restart could lose.
"""

# A listing goes over many thousand names, and Path objects cost several times as much as strings:
# ruff: noqa: PTH112, PTH116, PTH118, PTH120

from __future__ import annotations

import fcntl
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Self

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from daemon.clients.completeness import Complete, Sight, is_complete, quiet_for
from daemon.clients.landed import Candidate
from daemon.clients.listing import Entry, Listing, device_of, entry_of, is_text
from daemon.intake import FileMark

MARKER = ".done"
UNFINISHED = (".part", ".tmp")
"""File names that end so, or start with a dot, are somebody's unfinished business and never count."""
MAX_HINTS = 50_000
"""Notifications kept between two looks; with more, the next listing finds the rest."""
ATTACH_AGAIN_S = 30.0
"""How long to wait before asking again for notifications that could not be had."""
GATHER_S = 0.1
"""How long to wait after a new folder before listing, so that a whole tree costs one listing."""
_SLICE_S = 0.5
"""How long `wait` sleeps before it looks at `stop` again."""


class _Hint(Enum):
    CREATED = "created"
    SETTLED = "settled"


class FolderWatch:
    """The complete new files below `path`, for one reader thread.

    `pattern` is an fnmatch over file names; times are in seconds. Use it as a context manager, or `start` and `stop` it:

        with FolderWatch(path, pattern, "renamed", stable_for=2, poll=5) as watch:
            while not stop.is_set():
                for candidate in watch.ready(marks): ...
                watch.wait(stop, timeout=5)
    """

    def __init__(
        self, path: Path, pattern: str = "*", complete: Complete = "stable", stable_for: float = 2.0, poll: float = 5.0
    ) -> None:
        self.path = path
        self.problem = ""
        """What is wrong with the folder now; empty when all of it could be listed."""
        self.listing: Listing | None = None
        """What the last `ready` listed; None when it only looked at what it was told of."""
        self._pattern = pattern
        self._complete = complete
        self._stable_for = stable_for
        self._poll = poll
        self._clock: Callable[[], float] = time.monotonic
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._hints: dict[str, _Hint] = {}
        self._pending: dict[str, Sight] = {}
        self._list_at = 0.0
        self._folder_at = math.inf
        """When to list because of a new folder: what was made in it before it was watched is told by nobody."""
        self._due_at = 0.0
        self._attach_at = 0.0
        self._observer: BaseObserver | None = None
        self._attached: tuple[str, int, int] | None = None

    def start(self) -> None:
        """Ask for notifications; a folder that is missing, or cannot be watched, is not an error: listings go on."""
        self._list_at = self._due_at = self._attach_at = 0.0
        self._attach(self._clock())

    def stop(self) -> None:
        """Give the notifications back. `start` may follow."""
        self._detach()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def notified(self) -> bool:
        """Notifications come in; without them only listings find files."""
        return self._observer is not None

    def ready(self, known: Mapping[str, FileMark]) -> list[Candidate]:
        """The files that are complete and differ (new, other size or time, or not readable before) from their mark in
        `known`, oldest first, equal times by path. Handle all of them before the next call; a file stays ready until
        `known` has a mark for it.
        """
        now = self._clock()
        self.listing = None
        self._attach(now)
        with self._lock:
            hints, self._hints = self._hints, {}
            self._wake.clear()
            listing = now >= min(self._list_at, self._folder_at)
            if listing:
                self._folder_at = math.inf
        if listing:
            self.listing = Listing(str(self.path), self._counts)
            self.problem = self.listing.problem
            entries = list(self.listing.entries.values())
            self._list_at = now + self._poll
            self._pending = {entry.path: self._pending[entry.path] for entry in entries if entry.path in self._pending}
        else:
            again = {path for path, sight in self._pending.items() if self._due(sight) <= now}
            entries = list(self._again(again | hints.keys()))
        complete = [
            Candidate(entry.mtime_ns, entry.path, entry.folder, entry.size, entry.device)
            for entry in entries
            if self._is_new(entry, known, listing) and self._is_complete(entry, known, hints.get(entry.path), now)
        ]
        self._due_at = min(
            (due for sight in self._pending.values() if (due := self._due(sight)) > now), default=self._list_at
        )
        return sorted(complete)

    def wait(self, stop: threading.Event, timeout: float) -> None:
        """Return when `ready` may have something new, `stop` is set, or `timeout` seconds have passed."""
        until = min(self._clock() + timeout, self._list_at, self._folder_at, self._due_at)
        while not stop.is_set():
            left = until - self._clock()
            if left <= 0 or self._wake.wait(min(left, _SLICE_S)):
                return

    def _is_new(self, entry: Entry, known: Mapping[str, FileMark], listing: bool) -> bool:
        mark = known.get(entry.path)
        if mark is None or (mark.size, mark.mtime_ns) != (entry.size, entry.mtime_ns):
            return True
        self._pending.pop(entry.path, None)
        # Rights change without a trace in size or time: only trying tells.
        return mark.status == "unreadable" and listing

    def _is_complete(self, entry: Entry, known: Mapping[str, FileMark], hint: _Hint | None, now: float) -> bool:
        before = known.get(entry.path)
        if before is not None and before.status == "unreadable" and before.mtime_ns == entry.mtime_ns:
            return True
        sight = self._sight(entry, hint, now)
        self._pending[entry.path] = sight
        if self._complete == "marker":
            sight = replace(sight, marked=_is_marked(entry, before))
        elif sight.settled or now - sight.since >= self._stable_for:
            writing = is_being_written(entry.path) if entry.regular else None
            sight = self._pending[entry.path] = replace(sight, asked=True, writing=writing)
        return is_complete(sight, self._complete, self._stable_for, now)

    def _sight(self, entry: Entry, hint: _Hint | None, now: float) -> Sight:
        sight = self._pending.get(entry.path)
        if sight is None:
            sight = Sight(entry.size, entry.mtime_ns, now)
        elif (sight.size, sight.mtime_ns) != (entry.size, entry.mtime_ns):
            sight = Sight(entry.size, entry.mtime_ns, now, created=sight.created)
        if hint is _Hint.SETTLED:
            return replace(sight, settled=True, created=False)
        return replace(sight, created=True) if hint is _Hint.CREATED else sight

    def _due(self, sight: Sight) -> float:
        if self._complete == "marker":
            return self._list_at
        if self._complete == "renamed" and sight.settled and sight.size > 0:
            return sight.since
        return sight.since + quiet_for(sight, self._complete, self._stable_for)

    def _again(self, paths: Iterable[str]) -> Iterator[Entry]:
        for path in paths:
            entry = self._entry(path)
            if entry is None:
                self._pending.pop(path, None)
            else:
                yield entry

    def _entry(self, path: str) -> Entry | None:
        """The file at a path that was told of; None when it does not count, or is gone."""
        folder, name = os.path.split(os.path.relpath(path, self.path))
        if any(part.startswith(".") for part in folder.split("/")) or not self._counts(name) or os.path.isdir(path):
            return None
        try:
            device = device_of(os.stat(os.path.dirname(path)))
        except OSError:  # gone with its folder
            return None
        return entry_of(path, folder, device)

    def _counts(self, name: str) -> bool:
        if name.startswith(".") or name.endswith(UNFINISHED) or not is_text(name):
            return False
        if self._complete == "marker" and name.endswith(MARKER):
            return False
        return fnmatchcase(name, self._pattern)

    def _attach(self, now: float) -> None:
        """Watch the folder that the path leads to now; detach from one that it no longer leads to."""
        found = _identity(self.path)
        if self._observer is not None and (found != self._attached or not _is_alive(self._observer)):
            self._detach()
            self._list_at = self._attach_at = now
        if self._observer is not None or found is None or now < self._attach_at:
            return
        self._attach_at = now + ATTACH_AGAIN_S
        self._observer = _observe(found[0], _Notes(self._note, self._note_folder, found[0], str(self.path)))
        self._attached = found
        self._list_at = now

    def _detach(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join()

    def _note(self, path: str, hint: _Hint) -> None:
        if self._complete == "marker" and path.endswith(MARKER):
            path = path.removesuffix(MARKER)
        with self._lock:
            if len(self._hints) < MAX_HINTS and self._hints.get(path) is not _Hint.SETTLED:
                self._hints[path] = hint
            self._wake.set()

    def _note_folder(self) -> None:
        with self._lock:
            self._folder_at = min(self._folder_at, self._clock() + GATHER_S)
            self._wake.set()


class _Notes(FileSystemEventHandler):
    """Turns watchdog's events, whose paths lie under the real folder, into hints about paths under the watched one."""

    def __init__(
        self, note: Callable[[str, _Hint], None], note_folder: Callable[[], None], real: str, path: str
    ) -> None:
        self._note = note
        self._note_folder = note_folder
        self._real = real
        self._path = path

    def dispatch(self, event: FileSystemEvent) -> None:
        """Called by watchdog's thread for every event."""
        if isinstance(event, FileCreatedEvent):
            self._tell(os.fsdecode(event.src_path), _Hint.CREATED)
        elif isinstance(event, FileClosedEvent):
            self._tell(os.fsdecode(event.src_path), _Hint.SETTLED)
        elif isinstance(event, FileMovedEvent) and event.dest_path:
            self._tell(os.fsdecode(event.dest_path), _Hint.SETTLED)
        elif isinstance(event, DirCreatedEvent):
            self._note_folder()
        elif isinstance(event, DirMovedEvent) and event.dest_path:
            # All that lies in a folder that was moved in was moved into place with it.
            for folder, _, names in os.walk(os.fsdecode(event.dest_path)):
                for name in names:
                    self._tell(os.path.join(folder, name), _Hint.SETTLED)

    def _tell(self, path: str, hint: _Hint) -> None:
        self._note(self._path + path.removeprefix(self._real), hint)


def is_being_written(path: str) -> bool | None:
    """Whether some process on this machine has the file open for writing; None when the system cannot say.

    Linux grants a read lease only on a file that nobody has open for writing (fcntl(2), F_SETLEASE). It is given back at
    once. The signal of a broken lease is set to one that is ignored by default: SIGIO would end the process.
    """
    if sys.platform != "linux":
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:  # another user's file, or a file system without leases
        return None
    else:
        return False
    finally:
        os.close(handle)


def _is_marked(entry: Entry, before: FileMark | None) -> bool:
    try:
        marker = os.stat(entry.path + MARKER)
    except OSError:
        return False
    # A marker from before the change speaks for the old content. Only then do the two times matter: a first copy may
    # have kept a time of its own.
    return before is None or marker.st_mtime_ns >= entry.mtime_ns


def _identity(path: Path) -> tuple[str, int, int] | None:
    try:
        status = os.stat(path)
        return os.path.realpath(path), status.st_dev, status.st_ino
    except OSError:
        return None


def _observe(path: str, notes: _Notes) -> BaseObserver | None:
    """An observer of `path` and all below it, or None when the system has no more notifications to give."""
    observer: BaseObserver | None = None
    try:
        if sys.platform == "linux":
            # Only with full events does a move from outside the folder differ from a creation.
            from watchdog.observers.inotify import InotifyObserver  # noqa: PLC0415 - cannot be imported elsewhere

            observer = InotifyObserver(generate_full_events=True)
        else:
            observer = Observer()
        wanted = [FileCreatedEvent, FileClosedEvent, FileMovedEvent, DirCreatedEvent, DirMovedEvent]
        observer.schedule(notes, path, recursive=True, event_filter=wanted)
        observer.start()
    except OSError:
        if observer is not None:
            observer.stop()
        return None
    return observer


def _is_alive(observer: BaseObserver) -> bool:
    return observer.is_alive() and all(emitter.is_alive() for emitter in observer.emitters)
