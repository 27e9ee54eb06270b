"""Watched folders: `data.landed` for every complete file that is new.

The mark of a file is stored in the transaction of its event, so a file is taken once, whatever happens between two
listings; files that landed while the daemon was down have no mark and are found by the first listing. When a file is gone
its mark goes too, and its content is known for a while yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from daemon import sourceparts as configured
from daemon.clients.folder import FolderWatch
from daemon.clients.landed import Candidate, Found, look
from daemon.clients.listing import Listing
from daemon.clients.marks import Marks
from daemon.core.canonical import content_id
from daemon.core.events import Event
from daemon.core.problems import Problem
from daemon.intake import Batch, Intake
from daemon.points import OnPoint, Point, no_point
from daemon.sources.base import Health
from daemon.sources.delivery import Pulse, deliver

BATCH_FILES = 256
BATCH_BYTES = 256 << 20
"""A batch ends after so many files or bytes: what was read is durable before much more is read."""
GONE = 1000
"""Most files that are gone in one batch."""
PAGE = 10_000
"""Marks that are read at once."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event_of(name: str, candidate: Candidate, digest: str) -> Event:
    """The event of a file of the storage source `name`. Its id is made of path and content: it is the same each time."""
    return Event(
        id=content_id("file", candidate.path, digest),
        source=f"storage:{name}",
        type="data.landed",
        subject=name,
        time=_written_at(candidate.mtime_ns),
        data={
            "source": name,
            "path": candidate.path,
            "folder": candidate.folder,
            "name": candidate.name,
            "bytes": candidate.size,
            "digest": digest,
        },
    )


class StorageSource:
    """The source of one watched folder. `home` is what relative paths of the config are relative to."""

    def __init__(
        self,
        name: str,
        config: configured.StorageSource,
        home: Path,
        clock: Callable[[], datetime],
        on_point: OnPoint = no_point,
    ) -> None:
        self.name = f"storage:{name}"
        self._short = name
        self._config = config
        self._path = home / config.path
        self._clock = clock
        self._newest = 0
        """The place of the newest event."""
        self._pulse = Pulse(clock)
        self._on_point = on_point

    def run(self, intake: Intake, stop: threading.Event) -> None:
        """Look at the folder until `stop` is set."""
        config = self._config
        marks = self._marks(intake)
        poll = config.poll.total_seconds()
        reported = ""
        with FolderWatch(self._path, config.pattern, config.complete, config.stable_for.total_seconds(), poll) as watch:
            while not stop.is_set():
                candidates = watch.ready(marks)
                self._note_folder(watch.problem)
                if watch.problem and watch.problem != reported:
                    deliver(intake, _problem(self._path, watch.problem), stop, self._pulse)
                reported = watch.problem
                if watch.listing is not None:
                    self._forget(intake, marks, watch.listing, stop)
                for found in self._batches(candidates, marks, stop):
                    self._take(intake, found, stop)
                watch.wait(stop, poll)

    def health(self) -> Health:
        """How it is doing now."""
        return self._pulse.health()

    def _note_folder(self, problem: str) -> None:
        if self._path.is_dir():
            self._pulse.alive(problem)
        else:
            self._pulse.ails(problem)

    def _marks(self, intake: Intake) -> Marks:
        """What is known of the folder's files."""
        marks = Marks(self.name, (), self._config.remember.total_seconds(), intake.gone(self.name))
        last = ""
        while page := intake.files(self.name, last, PAGE):
            for mark in page.values():
                marks.add(mark)
            last = next(reversed(page))
        return marks

    def _forget(self, intake: Intake, marks: Marks, listing: Listing, stop: threading.Event) -> None:
        """Have the store let go of files that are gone, and of contents that need not be known any more."""
        now = (self._clock() - _EPOCH) // timedelta(microseconds=1)
        gone, forgotten = marks.leave(listing, now), marks.forget(now)
        for start in range(0, len(gone), GONE):
            deliver(intake, Batch(gone=tuple(gone[start : start + GONE])), stop, self._pulse)
        if forgotten:
            deliver(intake, Batch(forgotten=forgotten), stop, self._pulse)

    def _batches(self, candidates: Sequence[Candidate], marks: Marks, stop: threading.Event) -> Iterator[list[_Seen]]:
        batch: list[_Seen] = []
        size = 0
        for candidate in candidates:
            if stop.is_set():
                return
            changed = candidate.path in marks
            found = look(candidate, marks, stop)
            size += candidate.size
            if found is not None:
                # Remembered before it is durable, so that its twin in the same batch is known as one. When the batch
                # fails for good, `run` ends, and starts again from the stored marks.
                marks.add(found.mark)
                batch.append(_Seen(candidate, found, changed))
            if batch and (len(batch) >= BATCH_FILES or size >= BATCH_BYTES):
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _take(self, intake: Intake, seen: list[_Seen], stop: threading.Event) -> None:
        fresh = [item for item in seen if item.found.fresh]
        events = tuple(event_of(self._short, item.candidate, item.found.mark.digest) for item in fresh)
        marks = tuple(item.found.mark for item in seen)
        problems = tuple(item.found.problem for item in seen if item.found.problem)
        self._on_point(Point.LANDED)
        receipt = deliver(intake, Batch(events=events, files=marks, problems=problems), stop, self._pulse)
        if receipt is None:
            return
        # A file that has again a content that it had before, and that nobody knew any more, is the same event again. (So is
        # one that had to be handed over twice; its place is behind all others.)
        back = [
            item.candidate.path
            for item, seq, new in zip(fresh, receipt.seqs, receipt.fresh, strict=True)
            if not new and (item.changed or 0 < seq <= self._newest)
        ]
        self._newest = max(self._newest, *receipt.seqs, 0)
        if back:
            reason = "it has again a content that was taken before under this name; nothing is done for it again"
            deliver(intake, Batch(problems=tuple(Problem("file", path, reason) for path in back)), stop, self._pulse)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A candidate, what was found, and whether its path had a mark before."""

    candidate: Candidate
    found: Found
    changed: bool


def _problem(path: Path, reason: str) -> Batch:
    return Batch(problems=(Problem("file", str(path), reason),))


def _written_at(mtime_ns: int) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=mtime_ns // 1000)
    except OverflowError:  # a file system may hold times that no calendar has
        return _EPOCH
