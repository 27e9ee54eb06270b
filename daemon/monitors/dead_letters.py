"""Where what cannot be used is kept: records as JSON lines with position and reason, files as a link or copy with a note.

Records of a topic go to the stream's dead-letter topic where it has one; what that does not take lies in a file all the same.

A letter's name derives from the file and record that it is about, so reading the same thing again after a crash writes
the same letter, not a second one. Privacy is applied: what it forbids to store is not stored here either.

A letter that finds no room on the disk waits for it: whoever reads the stream stores no progress until all are `kept`, so
a worker that dies meanwhile reads the same records again.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from daemon.clients.kafka_errors import Partition
from daemon.clients.kafka_letters import Letter
from daemon.core.problems import Problem
from daemon.monitors.plan import StreamPlan
from daemon.monitors.privacy import redact
from daemon.monitors.records import Malformed

LETTERS = 10_000
"""Most letters of a stream: a source that sends nothing but rubbish must not fill the disk."""
COPY_BYTES = 64 << 20
"""A larger file is not copied: its note says where it lies."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
SendLetters = Callable[[Sequence[Letter]], Sequence[str]]
"""Sends letters to the stream's dead-letter topic: why each was not sent, empty for those that are there."""
NAMED = 20
"""Most problems with a position of their own per chunk; the others share one, and all are in the letter."""


class DeadLetters:
    """The dead letters of one stream. `send` is wanted where it has a topic for them."""

    def __init__(self, plan: StreamPlan, send: SendLetters | None = None) -> None:
        self._plan = plan
        self._send = send
        self._folder = Path(plan.dead_letters)
        self._waiting: dict[Path, bytes | str] = {}
        """Letters without room: their content, or the file to be copied."""

    @property
    def problem(self) -> str:
        """Why letters wait; empty when all are where they belong."""
        return f"there is no room for dead letters in {self._folder}; nothing more is read" if self._waiting else ""

    def kept(self) -> bool:
        """Whether every letter has been written; those that found no room are tried again."""
        try:
            while self._waiting:
                target, what = next(iter(self._waiting.items()))
                self._put(target, what)
                del self._waiting[target]
        except OSError as error:
            if error.errno in NO_ROOM:
                return False
            self._waiting.clear()  # the folder is gone, or no longer ours: nothing would ever be kept
        return True

    def records(self, path: str, start: int, malformed: Sequence[Malformed]) -> tuple[Problem, ...]:
        """Keep the malformed records of the chunk of `path` that begins at record `start`; the problems to report."""
        if not malformed:
            return ()
        lines = b"".join(orjson.dumps(self._line(path, record), default=str) + b"\n" for record in malformed)
        letter, lost = self._write(f"{_stem(path)}-{start}.jsonl", lines)
        named = [Problem("record", f"{path}:{m.where}", m.reason + lost, letter) for m in malformed[:NAMED]]
        if len(malformed) > NAMED:
            rest = len(malformed) - NAMED
            where = f"{path}:{malformed[NAMED].where}"
            named.append(
                Problem("record", where, f"this and {rest - 1} more of its records cannot be used{lost}", letter)
            )
        return tuple(named)

    def positions(
        self, partition: tuple[str, int], malformed: Sequence[Malformed], records: Mapping[int, tuple[bytes, int]]
    ) -> tuple[Problem, ...]:
        """Keep the malformed records of a partition, one letter each: how a log is cut into batches is not to be seen.

        `records`: value and timestamp of each that is at hand, by offset.
        """
        problems: list[Problem] = []
        for record, refused in zip(malformed, self._refused(partition, malformed, records), strict=True):
            where = f"{partition[0]}/{partition[1]}@{record.where}"
            if refused == "":
                problems.append(Problem("record", where, record.reason, f"topic {self._plan.dead_letter_topic}"))
                continue
            line = {"record": where, "reason": record.reason, **self._raw(record.raw)}
            name = f"{partition[0]}-{partition[1]}-{record.where}.json"
            letter, lost = self._write(name, orjson.dumps(line, default=str))
            told = f" (dead-letter topic {self._plan.dead_letter_topic} does not take it: {refused})" if refused else ""
            problems.append(Problem("record", where, record.reason + told + lost, letter))
        if len(problems) <= NAMED:
            return tuple(problems)
        more = f"this and {len(problems) - NAMED - 1} more of the records behind it cannot be used"
        return (*problems[:NAMED], replace(problems[NAMED], reason=more))

    def file(self, path: str, reason: str) -> Problem:
        """Keep a file that cannot be read as a whole (unless privacy forbids it); the problem to report."""
        note, lost = self._write(f"{_stem(path)}.json", orjson.dumps({"file": path, "reason": reason}))
        if note and not self._plan.privacy:
            lost += self._copy(path)
        return Problem("file", path, reason + lost, note)

    def _refused(
        self, partition: tuple[str, int], malformed: Sequence[Malformed], records: Mapping[int, tuple[bytes, int]]
    ) -> Sequence[str | None]:
        """Why the topic has not taken each, empty for those that it has; None where there is no topic."""
        if self._send is None or not self._plan.dead_letter_topic:
            return [None for _ in malformed]
        letters: list[Letter] = []
        for one in malformed:
            value, timestamp = records.get(one.where, (None, -1))
            if self._plan.privacy or value is None:
                value = orjson.dumps(self._raw(one.raw), default=str)
            letters.append(Letter(Partition(*partition), one.where, timestamp, one.reason, value))
        return self._send(letters)

    def _line(self, path: str, record: Malformed) -> dict[str, Any]:
        return {"file": path, "line": record.where, "reason": record.reason, **self._raw(record.raw)}

    def _raw(self, raw: Any) -> dict[str, Any]:
        if isinstance(raw, dict):
            return {"record": redact(raw, self._plan)}
        if self._plan.privacy:
            # Nobody can tell which part of an unreadable line is the private one.
            return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        return {"raw": raw.decode("utf-8", "backslashreplace")}

    def _write(self, name: str, content: bytes) -> tuple[str, str]:
        """Path of the letter, or an empty one and what to add to the reason."""
        target = self._folder / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not target.exists() and sum(1 for _ in os.scandir(self._folder)) >= LETTERS:
                return "", f" (not kept: {self._folder} is full)"
            self._put(target, content)
        except OSError as error:
            if error.errno not in NO_ROOM:
                return "", f" (not kept: {error.strerror or error})"
            self._waiting[target] = content
        return str(target), ""

    def _copy(self, path: str) -> str:
        """Keep a file beside its note; why that cannot be, or nothing."""
        target = self._folder / f"{_stem(path)}{Path(path).suffix}"
        try:
            self._put(target, path)
        except OSError as error:
            if error.errno not in NO_ROOM:
                return f" (not copied: {error.strerror or error})"
            self._waiting[target] = path
        return ""

    def _put(self, target: Path, what: bytes | str) -> None:
        """Write a letter, whole or not at all. A file is linked, or copied when that cannot be and it is not too large."""
        self._folder.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        try:
            if isinstance(what, bytes):
                part.write_bytes(what)
            elif not _copied(Path(what), target, part):
                return
            part.replace(target)
        except OSError:
            part.unlink(missing_ok=True)  # what there is room for is needed by others
            raise


def _copied(source: Path, target: Path, part: Path) -> bool:
    """Whether a copy was made as `part`: none is when the target is there, a link could be made of it, or it is too large."""
    if target.exists():
        return False
    try:
        os.link(source, target)
    except OSError:
        if source.stat().st_size <= COPY_BYTES:
            shutil.copyfile(source, part)
            return True
    return False


def _stem(path: str) -> str:
    """A file name that differs for equal names of different folders."""
    return f"{Path(path).stem[:80]}-{hashlib.sha256(path.encode()).hexdigest()[:12]}"
