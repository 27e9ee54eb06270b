"""Where what cannot be used is kept: records as JSON lines with position and reason, files as a link or copy with a note.

A letter's name derives from the file and record that it is about, so reading the same thing again after a crash writes
the same letter, not a second one. Privacy is applied: what it forbids to store is not stored here either.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from daemon.core.problems import Problem
from daemon.monitors.plan import StreamPlan
from daemon.monitors.privacy import redact
from daemon.monitors.records import Malformed

LETTERS = 10_000
"""Most letters of a stream: a source that sends nothing but rubbish must not fill the disk."""
COPY_BYTES = 64 << 20
"""A larger file is not copied: its note says where it lies."""
NAMED = 20
"""Most problems with a position of their own per chunk; the others share one, and all are in the letter."""


class DeadLetters:
    """The dead letters of one stream."""

    def __init__(self, plan: StreamPlan) -> None:
        self._plan = plan
        self._folder = Path(plan.dead_letters)

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

    def positions(self, partition: str, malformed: Sequence[Malformed]) -> tuple[Problem, ...]:
        """Keep the malformed records of a partition, one letter each: how a log is cut into batches is not to be seen."""
        problems: list[Problem] = []
        for record in malformed:
            where = f"{partition}@{record.where}"
            line = {"record": where, "reason": record.reason, **self._raw(record.raw)}
            letter, lost = self._write(
                f"{partition.replace('/', '-')}-{record.where}.json", orjson.dumps(line, default=str)
            )
            problems.append(Problem("record", where, record.reason + lost, letter))
        if len(problems) <= NAMED:
            return tuple(problems)
        more = f"this and {len(problems) - NAMED - 1} more of the records behind it cannot be used"
        return (*problems[:NAMED], replace(problems[NAMED], reason=more))

    def file(self, path: str, reason: str) -> Problem:
        """Keep a file that cannot be read as a whole (unless privacy forbids it); the problem to report."""
        note, lost = self._write(f"{_stem(path)}.json", orjson.dumps({"file": path, "reason": reason}))
        if note and not self._plan.privacy:
            self._copy(path)
        return Problem("file", path, reason + lost, note)

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
        part = target.with_name(f".{name}.part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not target.exists() and sum(1 for _ in os.scandir(self._folder)) >= LETTERS:
                return "", f" (not kept: {self._folder} is full)"
            part.write_bytes(content)
            part.replace(target)
        except OSError as error:
            return "", f" (not kept: {error.strerror or error})"
        return str(target), ""

    def _copy(self, path: str) -> None:
        target = self._folder / f"{_stem(path)}{Path(path).suffix}"
        try:
            if target.exists():
                return
            os.link(path, target)
        except OSError:
            if Path(path).stat().st_size <= COPY_BYTES:
                shutil.copyfile(path, target)


def _stem(path: str) -> str:
    """A file name that differs for equal names of different folders."""
    return f"{Path(path).stem[:80]}-{hashlib.sha256(path.encode()).hexdigest()[:12]}"
