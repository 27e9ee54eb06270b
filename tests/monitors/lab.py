"""What the monitors' tests share: streams made from public data sets, and a shelf that stores what a stream asks for."""

from __future__ import annotations

import csv
import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daemon.clients.gone import content_key, pack, path_key
from daemon.clients.marks import Marks
from daemon.config import Fields
from daemon.core.events import Event
from daemon.core.monitors import Monitor, Window
from daemon.core.problems import Problem
from daemon.intake import Batch, FileMark
from daemon.monitors.batches import batch_of
from daemon.monitors.evidence import Samples
from daemon.monitors.plan import Champion, ModelPlan, StreamPlan, Task
from daemon.monitors.session import Session, Stored, Times

CAR_LOAN = Fields(
    id="id", time="timestamp", version="version", prediction="y_pred", score="y_pred_proba", label="repaid",
    features={
        "car_value": "number", "salary_range": "category", "debt_to_income_ratio": "number", "loan_length": "number",
        "repaid_loan_on_prev_car": "category", "size_of_downpayment": "category", "driver_tenure": "number",
    },
)  # fmt: skip

EPOCH_NS = 10**18
"""Landing times count from here, so that a test says in which order its files are read."""

Row = dict[str, Any]


def rows_of(path: Path, start: int = 0, stop: int | None = None) -> list[Row]:
    """Rows of a CSV file as text."""
    with path.open(newline="") as file:
        return list(itertools.islice(csv.DictReader(file), start, stop))


def car_loan(data: Path, start: int, stop: int) -> tuple[list[Row], list[Row]]:
    """Typed prediction rows of the car-loan stream, all by version 1, and their labels."""
    rows = rows_of(data / "synthetic_car_loan_analysis.csv", start, stop)
    numbers = ("car_value", "debt_to_income_ratio", "loan_length", "driver_tenure", "y_pred_proba")
    typed = [
        row | {name: float(row[name]) for name in numbers} | {"y_pred": int(row["y_pred"]), "version": "1"}
        for row in rows
    ]
    return typed, rows_of(data / "synthetic_car_loan_analysis_target.csv", start, stop)


def plan(home: Path, **changes: Any) -> StreamPlan:
    """The plan of a car-loan stream in `home`, with some of it changed; its folders are made."""
    for name in ("predictions", "labels"):
        (home / name).mkdir(parents=True, exist_ok=True)
    made = StreamPlan(
        name="car-loan", predictions=str(home / "predictions"), labels=str(home / "labels"), pattern="*",
        complete="renamed", stable_for=0.0, poll=0.0, fields=CAR_LOAN, privacy={}, join_rate=1.0, horizon=60 * 86400.0,
        idle=3600.0, dead_letters=str(home / "dead-letters"), models=(model(),),
    )  # fmt: skip
    return replace(made, **changes)


def model(*monitors: Monitor, name: str = "car-loan", task: Task = "binary") -> ModelPlan:
    """A model with these monitors, or one of 500 rows."""
    return ModelPlan(name, name, task, monitors or (Monitor("inputs", name, Window(rows=500)),))


def land(folder: str | Path, name: str, content: bytes | Sequence[Row], order: int) -> Path:
    """Move a complete file in: rows as JSON lines, or CSV by its name; `order` is its landing time in seconds."""
    target = Path(folder) / name
    part = target.with_name(f".{name}")
    if isinstance(content, bytes):
        part.write_bytes(content)
    elif name.endswith(".csv"):
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(content[0]))
            writer.writeheader()
            writer.writerows(content)
    else:
        part.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in content))
    os.utime(part, ns=(EPOCH_NS + order * 10**9,) * 2)
    part.rename(target)
    return target


def feed(
    made: StreamPlan, rows: Sequence[Row], labels: Sequence[Row], size: int = 1000, behind: int = 2, first: int = 0
) -> None:
    """Land predictions in files of `size`, and the labels of each file `behind` files later."""
    for number, at in enumerate(range(0, len(rows), size), first):
        land(made.predictions, f"p{number:05}.jsonl", rows[at : at + size], number * 10)
        if labels:
            land(made.labels, f"l{number:05}.csv", labels[at : at + size], (number + behind) * 10 + 1)


@dataclass
class Clock:
    """Time that only moves when a test says so."""

    seconds: float = 2_000_000_000.0

    def times(self) -> Times:
        """As a session wants it."""
        return Times(lambda: round(self.seconds * 1e6), lambda: self.seconds)


@dataclass
class Shelf:
    """A store in memory: takes a batch whole, or refuses it because its progress is elsewhere."""

    position: int = 0
    states: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, FileMark] = field(default_factory=dict)
    gone: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    batches: int = 0

    def take(self, batch: Batch) -> None:
        """Store a batch."""
        (progress,) = batch.progress
        assert progress.expected == self.position, "progress moved"
        assert progress.position > progress.expected or batch.gone or batch.forgotten
        self.position = progress.position
        self.batches += 1
        for state in batch.states:
            if state.blob is None:
                self.states.pop(state.key, None)
            else:
                self.states[state.key] = state.blob
        for file in batch.gone:
            self.files.pop(file.path, None)
            if file.digest:
                self.gone.append((content_key(file.digest), path_key(file.path), file.at))
        for forgotten in batch.forgotten:
            self.gone = [row for row in self.gone if row[2] > forgotten.until]
        self.files.update({mark.path: mark for mark in batch.files})
        self.events += batch.events
        self.problems += batch.problems

    def open(self, made: StreamPlan, clock: Clock | None = None) -> Session:
        """A session that goes on from here."""
        marks = Marks(f"stream:{made.name}", self.files.values(), made.remember, pack(self.gone))
        stored = Stored(self.position, dict(self.states), marks)
        return Session(made, stored, Samples(), (clock or Clock()).times(), threading.Event())

    def of(self, kind: str, segment: str = "") -> list[Mapping[str, Any]]:
        """The data of the stored events of a type."""
        return [event.data for event in self.events if event.type == kind and event.data.get("segment", "") == segment]


def champion(path: Path, version: str = "1") -> Champion:
    """A champion with its reference."""
    return Champion(version, str(path), f"digest of {path.name}", "")


def drain(session: Session, shelf: Shelf, stop: Callable[[], bool] = lambda: False) -> bool:
    """Run until there is nothing more, storing every batch at once; False when `stop` said to stop before the end.

    `stop` is asked between any two steps, and between a batch and its receipt.
    """
    while True:
        read, frame = session.step()
        if stop():
            return False
        if frame is not None:
            shelf.take(batch_of(frame))
            if stop():
                return False
            session.stored()
        if not read and frame is None:
            return True


def measure(made: StreamPlan, who: Champion | None, clock: Clock | None = None) -> Shelf:
    """All that has landed, measured without disturbance."""
    shelf = Shelf()
    session = shelf.open(made, clock)
    if who is not None:
        session.champion(made.models[0].name, who)
    drain(session, shelf)
    session.close()
    return shelf


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true value of `condition`."""
    until = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < until, "it did not come"
        pause.wait(0.02)
    return value
