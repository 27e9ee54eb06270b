"""What a stream's topics brought, kept as files for trainings and evaluations: a log on Kafka is not read twice.

Rows are appended as JSON lines to `topic-NAME-PARTITION-PLACE.jsonl`, PLACE being that of the file's first row, and a new
file begins every few minutes, so that old ones can be removed. They hold the fields that config.yaml names, with the stream's
privacy applied. Rows are there before the progress behind them is stored: none is missing after a crash, and some may be there
twice. Who reads the files takes each id once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from daemon.kafkaparts import ARCHIVED
from daemon.monitors.plan import StreamPlan
from daemon.monitors.privacy import protect
from daemon.monitors.records import Raw
from daemon.monitors.slices import Head
from daemon.monitors.values import plain

SEGMENT_S = 300.0
SEGMENT_BYTES = 64 << 20
"""A file is written to for so long, or until it is so large."""


@dataclass(slots=True)
class _Segment:
    """The file that is written to."""

    path: Path
    size: int
    until: float
    """Monotonic seconds at which the next one begins."""


class Archive:
    """The files of one partition. Not for several threads."""

    def __init__(self, plan: StreamPlan, head: Head, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._plan = plan
        self._folder = plan.label_archive if head.topic == plan.labels else plan.archive
        self._name = f"{ARCHIVED}{head.topic}-{head.partition}"
        self._monotonic = monotonic
        self._waiting: list[tuple[int, bytes]] = []
        """Place of the first row, and lines, of what is not in a file yet."""
        self._segment: _Segment | None = None
        self.problem = ""
        """Why rows wait; empty when all is well."""

    def add(self, raw: Raw, base: int) -> None:
        """Keep the records of a piece; `base`: what lies before offset 0 of its log."""
        if self._folder and raw.count:
            self._waiting.append((base + int(raw.lines[0]), b"".join(_lines(raw, self._plan))))

    def kept(self) -> bool:
        """Write what was added; False when there is no room or no folder: nothing may be stored then, call again later."""
        if not self._waiting:
            return True
        place = self._waiting[0][0]
        try:
            self._append(place, b"".join(lines for _, lines in self._waiting))
        except OSError as error:
            self._segment = None
            self.problem = (
                f"the archive {self._folder} cannot be written: {error.strerror or error}; nothing more is read"
            )
            return False
        self._waiting.clear()
        self.problem = ""
        return True

    def _append(self, place: int, block: bytes) -> None:
        now = self._monotonic()
        segment = self._segment
        if segment is None or segment.size >= SEGMENT_BYTES or now >= segment.until:
            segment = self._open(place, now)
        with segment.path.open("ab", buffering=0) as file:
            before = os.fstat(file.fileno()).st_size
            try:
                rest = memoryview(block)
                while rest:
                    rest = rest[file.write(rest) or 0 :]
            except OSError:
                os.ftruncate(file.fileno(), before)  # no half lines
                raise
        segment.size += len(block)
        self._segment = segment

    def _open(self, place: int, now: float) -> _Segment:
        folder = Path(self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._name}-{place:020d}.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size:  # the worker before ended before its progress was stored, perhaps in the middle of a line
            with path.open("r+b") as file:
                content = file.read()
                size = content.rfind(b"\n") + 1
                file.truncate(size)
        return _Segment(path, size, now + SEGMENT_S)


def _lines(raw: Raw, plan: StreamPlan) -> Iterator[bytes]:
    """The records, each as a line of JSON; fields without a value are left out."""
    columns = raw.columns if raw.is_safe else protect(raw.columns, plan)
    names = list(columns)
    for values in zip(*(plain(column) for column in columns.values()), strict=True):
        record = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        yield orjson.dumps(record, default=_written) + b"\n"


def _written(value: Any) -> Any:
    """Times of arrow columns, and numbers of numpy, as JSON has them."""
    return value.item() if hasattr(value, "item") else str(value)
