"""Prediction logs brought to a stream at a pace, with labels of their own later: files in its folders, or records on topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import orjson
import pandas as pd

from daemon.config import Stream
from daemon.feeding.table import Table, records

Format = Literal["jsonl", "parquet", "csv"]


class Place(Protocol):
    """Where rows are brought: a folder, or a topic."""

    def drop(self, name: str, rows: pd.DataFrame, last: int) -> None:
        """Bring rows under a name; `last` is the row that was played last."""
        ...


@dataclass(slots=True)
class Folder:
    """A watched folder, and how its reader knows that a file is complete."""

    path: Path
    marker: bool
    """A file counts once `NAME.done` lies beside it."""
    formats: Sequence[Format]
    """Used in turn."""
    files: int = 0

    def drop(self, name: str, rows: pd.DataFrame, last: int) -> None:
        """Write rows to a file that nobody sees before it is whole."""
        del last  # a file says by its time when it came
        kind = self.formats[self.files % len(self.formats)]
        self.path.mkdir(parents=True, exist_ok=True)
        whole = self.path / f"{name}.{kind}"
        part = whole.with_name(f"{whole.name}.part")
        if kind == "parquet":
            rows.to_parquet(part, index=False)
        elif kind == "csv":
            rows.to_csv(part, index=False)
        else:
            part.write_bytes(b"".join(orjson.dumps(record) + b"\n" for record in records(rows)))
        part.replace(whole)
        if self.marker:
            whole.with_name(f"{whole.name}.done").touch()
        self.files += 1


@dataclass(slots=True)
class Labels:
    """Labels that follow their predictions: `lag` rows later, in blocks of `batch` rows."""

    table: Table
    place: Place | None
    """None: no labels come later."""
    lag: int
    batch: int
    brought: int = 0
    """Labels brought so far."""
    position: int = field(init=False)
    """The first row whose label has not been brought."""

    def __post_init__(self) -> None:
        self.position = self.table.first

    def follow(self, played: int) -> None:
        """`played` is the row after the last one that was played: bring the labels that are due."""
        while self.position + self.batch <= played - self.lag:
            self._bring(self.position + self.batch, played)

    def finish(self, played: int) -> None:
        """Bring all that is left, up to the last row that was played: nobody comes after."""
        while self.position < played:
            self._bring(min(self.position + self.batch, played), played)

    def _bring(self, end: int, played: int) -> None:
        if self.place is not None:
            rows = self.table.labelled(self.position, end)
            if len(rows):
                self.place.drop(f"labels-{self.position:08d}-{end:08d}", rows, played - 1)
                self.brought += len(rows)
        self.position = end


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast rows are played."""

    rows_per_s: float
    """0: as fast as it goes."""
    batch: int
    """Rows per file, or sent at once."""
    label_lag: int
    """Labels come so many rows after their predictions."""


def label_folder(stream: Stream, table: Table, formats: Sequence[Format], home: Path) -> Folder | None:
    """Where labels go; None when none come later."""
    if table.labels is None or stream.labels is None:
        return None
    return Folder(home / stream.labels, stream.complete == "marker", formats)


def play_rows(table: Table, predictions: Place, labels: Labels, pace: Pace, wait: Callable[[float], bool]) -> int:
    """Bring one batch after the other; the row after the last one. `wait(seconds)` is true when it is to stop."""
    began, start = time.monotonic(), table.first
    position, last = start, start + len(table.rows)
    while position < last:
        due = began + (position - start) / pace.rows_per_s if pace.rows_per_s else 0.0
        if wait(max(due - time.monotonic(), 0.0)):
            break
        end = min(position + pace.batch, last)
        predictions.drop(f"rows-{position:08d}-{end:08d}", table.between(position, end), end - 1)
        position = end
        labels.follow(position)
    labels.finish(position)
    return position
