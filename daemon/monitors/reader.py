"""The order in which a stream is read. `FilesReader` reads folders; a reader of another kind only has to be a Reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from daemon.clients.folder import FolderWatch
from daemon.clients.landed import Candidate, look
from daemon.clients.marks import Marks
from daemon.core.errors import BadInput
from daemon.core.problems import Problem
from daemon.intake import Batch, FileMark, Forgotten, GoneFile
from daemon.monitors.dead_letters import DeadLetters
from daemon.monitors.plan import StreamPlan
from daemon.monitors.records import Raw, chunks, whole_lines

Content = Literal["predictions", "labels"]

GONE = 1000
"""Most files that are gone in one batch."""


@dataclass(frozen=True, slots=True)
class Block:
    """The next piece of a stream: some records, the end of a file, or both."""

    content: Content
    where: str
    """The file."""
    landed: int
    """When it landed, µs since 1970."""
    raw: Raw | None
    marks: tuple[FileMark, ...]
    problems: tuple[Problem, ...]
    resume: Mapping[str, Any] | None
    """JSON from which a reader goes on after this block; None: with the next file."""


class Reader(Protocol):
    """Reads one stream, block by block, in an order that a restart repeats."""

    @property
    def problem(self) -> str:
        """Why nothing can be read now; empty when all is well."""
        ...

    @property
    def letters(self) -> DeadLetters:
        """Its dead letters: no progress may be stored while some of them wait for room."""
        ...

    def next(self) -> Block | None:
        """The next block; None when there is nothing now."""
        ...

    @property
    def has_lost(self) -> bool:
        """`noted` has something to say."""
        ...

    def noted(self, batch: Batch) -> Batch:
        """The batch of all blocks up to now, together with what else is to be stored of what was read."""
        ...

    def skip(self, where: str, why: str) -> None:
        """Give up what a block's `where` names: measuring it fails. It comes as a block without records, with its problem."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(frozen=True, slots=True)
class _File:
    """A file to be read."""

    content: Content
    candidate: Candidate
    mark: FileMark
    """Stored with its last record."""


class FilesReader:
    """Reads the prediction and label folders of a stream: files by landing time, then path, each in chunks.

    `now` is the time in µs since 1970.
    """

    def __init__(
        self,
        plan: StreamPlan,
        marks: Marks,
        resume: Mapping[str, Any] | None,
        now: Callable[[], int],
        stop: threading.Event,
    ) -> None:
        self._plan = plan
        self._marks = marks
        self._now = now
        self._gone: deque[GoneFile] = deque()
        self._forgotten: tuple[Forgotten, ...] = ()
        self._letters = DeadLetters(plan)
        self._stop = stop
        self._waiting: deque[tuple[Candidate, Content]] = deque()
        self._watches: dict[Content, FolderWatch] = {"predictions": self._watch(plan.predictions)}
        if plan.labels:
            self._watches["labels"] = self._watch(plan.labels)
        self._skipped: dict[str, str] = {}
        self._blocks: Iterator[Block] = iter(()) if resume is None else self._resumed(resume)

    @property
    def problem(self) -> str:
        """Why nothing can be read now; empty when all is well."""
        return next((watch.problem for watch in self._watches.values() if watch.problem), "")

    @property
    def letters(self) -> DeadLetters:
        """See Reader."""
        return self._letters

    def next(self) -> Block | None:
        """The next block; None when there is nothing now."""
        block = next(self._blocks, None)
        if block is not None:
            return block
        if not self._waiting:
            self._waiting.extend(self._landed())
        while self._waiting and not self._stop.is_set():
            candidate, content = self._waiting.popleft()
            found = look(candidate, self._marks, self._stop)
            if found is None:
                continue
            if not found.fresh:
                self._marks.add(found.mark)
                return Block(
                    content, candidate.path, _landed(candidate), None, (found.mark,), _some(found.problem), None
                )
            self._blocks = self._read(_File(content, candidate, found.mark), 0)
            return next(self._blocks)
        return None

    @property
    def has_lost(self) -> bool:
        """Files are gone, or contents forgotten, and nobody has taken note."""
        return bool(self._gone or self._forgotten)

    def noted(self, batch: Batch) -> Batch:
        """The batch of all blocks up to now, together with what it should say of files that are gone."""
        gone: list[GoneFile] = []
        while self._gone and len(gone) < GONE:
            file = self._gone.popleft()
            if file.path not in self._marks:  # else it has come back, and its mark stays
                gone.append(file)
        forgotten, self._forgotten = self._forgotten, ()
        files = tuple(mark for mark in batch.files if mark.path in self._marks)
        return replace(batch, files=files, gone=tuple(gone), forgotten=forgotten)

    def skip(self, where: str, why: str) -> None:
        """Give up a file: it comes as a block without records, with its problem."""
        self._skipped[where] = why

    def close(self) -> None:
        """Let go of everything."""
        for watch in self._watches.values():
            watch.stop()

    def _watch(self, path: str) -> FolderWatch:
        plan = self._plan
        watch = FolderWatch(Path(path), plan.pattern, plan.complete, plan.stable_for, plan.poll)
        watch.start()
        return watch

    def _landed(self) -> list[tuple[Candidate, Content]]:
        """The complete new files of both folders, in landing order. One folder may lie within the other."""
        found: list[tuple[Candidate, Content]] = []
        for content, watch in self._watches.items():
            others = [f"{other.path}/" for other in self._watches.values() if other.path != watch.path]
            inner = tuple(other for other in others if other.startswith(f"{watch.path}/"))
            found.extend((c, content) for c in watch.ready(self._marks) if not c.path.startswith(inner or ("\0",)))
            if watch.listing is not None:
                now = self._now()
                self._gone.extend(self._marks.leave(watch.listing, now))
                self._forgotten = self._marks.forget(now) or self._forgotten
        return sorted(found)

    def _read(self, file: _File, start: int) -> Iterator[Block]:
        """The blocks of a file from record `start` on. One chunk is read ahead: the last one brings the file's mark."""
        path = Path(file.candidate.path)
        if file.candidate.path in self._skipped:
            yield self._failed(file, BadInput(self._skipped.pop(file.candidate.path)))
            return
        records = self._records(path, file.content, start)
        try:
            ahead = next(records, None)
            if ahead is not None:
                self._require(file.content, ahead)
        except BadInput as error:
            yield self._failed(file, error)
            return
        if ahead is None:
            empty = Problem("file", str(path), "the file has no records")
            yield self._ended(file, None, () if start else (empty,))
        while ahead is not None:
            raw, ahead, fault = ahead, None, None
            try:
                ahead = next(records, None)
            except BadInput as error:
                fault = error
            if ahead is None and fault is None:
                yield self._ended(file, raw, ())
                return
            yield Block(file.content, str(path), _landed(file.candidate), raw, (), (), _resume(file, raw))
            if fault is not None:  # what was read before is good, and measured
                yield self._failed(file, fault)

    def _resumed(self, at: Mapping[str, Any]) -> Iterator[Block]:
        """The rest of the file that was being read when the worker ended."""
        candidate = Candidate(at["mtime_ns"], at["path"], at["folder"], at["size"], at["device"])
        mark = FileMark(
            self._marks.owner,
            candidate.path,
            candidate.size,
            candidate.mtime_ns,
            at["digest"],
            "taken",
            candidate.device,
        )
        content: Content = "labels" if at["content"] == "labels" else "predictions"
        if _unchanged(candidate):
            yield from self._read(_File(content, candidate, mark), at["record"])
            return
        reason = f"the file changed or went away when {at['record']} of its records were read; the rest of them is lost"
        yield Block(
            content, candidate.path, _landed(candidate), None, (), (Problem("file", candidate.path, reason),), None
        )

    def _records(self, path: Path, content: Content, start: int) -> Iterator[Raw]:
        if self._is_lines(content):
            return whole_lines(path, start)
        return chunks(path, self._wanted(content), start)

    def _is_lines(self, content: Content) -> bool:
        """They are decoded where what was read before is known."""
        return content == "predictions" and self._plan.format != "json"

    def _wanted(self, content: Content) -> tuple[str, ...]:
        return self._plan.columns if content == "predictions" else self._plan.label_columns

    def _require(self, content: Content, raw: Raw) -> None:
        f = self._plan.fields
        if self._is_lines(content):
            return
        needed = (f.id, f.time) if content == "predictions" else (f.id, f.label)
        absent = [field for field in needed if field and field not in raw.columns]
        if absent:
            raise BadInput(f"the file has no column {', '.join(absent)}")

    def _ended(self, file: _File, raw: Raw | None, problems: tuple[Problem, ...]) -> Block:
        self._marks.add(file.mark)
        return Block(file.content, file.candidate.path, _landed(file.candidate), raw, (file.mark,), problems, None)

    def _failed(self, file: _File, error: BadInput) -> Block:
        return self._ended(file, None, (self._letters.file(file.candidate.path, str(error)),))


def _resume(file: _File, raw: Raw) -> dict[str, Any]:
    candidate = file.candidate
    return {
        "content": file.content,
        "path": candidate.path,
        "folder": candidate.folder,
        "size": candidate.size,
        "mtime_ns": candidate.mtime_ns,
        "device": candidate.device,
        "digest": file.mark.digest,
        "record": raw.start + raw.read,
    }


def _unchanged(candidate: Candidate) -> bool:
    try:
        status = Path(candidate.path).stat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (candidate.size, candidate.mtime_ns)


def _landed(candidate: Candidate) -> int:
    return candidate.mtime_ns // 1000


def _some(problem: Problem | None) -> tuple[Problem, ...]:
    return () if problem is None else (problem,)
