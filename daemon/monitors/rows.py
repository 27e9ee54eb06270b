"""Raw columns -> the rows of a block: predictions, or labels. A record without id or time is malformed; all else is data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from daemon.core.columns import Batch, Bools, Column, Floats, Records
from daemon.monitors.plan import StreamPlan
from daemon.monitors.privacy import protect
from daemon.monitors.records import Malformed, Raw
from daemon.monitors.values import classes, flags, moments, names, typed

Hashes = NDArray[np.uint64]
JOIN_SALT = b"join"
"""A row is kept for its label iff `unit_hash("join", id) < join_rate`."""
_DAY = 86_400_000_000
_AHEAD = 30 * _DAY


@dataclass(frozen=True, slots=True)
class Clock:
    """The times that a block's rows are held against, in µs since 1970."""

    landed: int
    """When the file landed: the time of rows that have none of their own."""
    now: int
    watermark: int | None
    """Where the stream's event time stands; None at its beginning."""

    def limit(self, times: Sequence[int | None]) -> int:
        """The latest believable event time: one broken clock must not make all other rows late and all labels overdue.

        A day after now, or a month after where the stream stands (at its beginning: after nine tenths of the first rows):
        a simulated stream may run ahead of the clock, but not jump.
        """
        stands = self.watermark
        if stands is None:
            known = sorted(time for time in times if time is not None)
            stands = known[len(known) * 9 // 10] if known else self.now
        return max(self.now + _DAY, stands + _AHEAD)


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """Prediction rows, in the order of the file."""

    batch: Batch
    """Positions count from 0 in the block; the stream adds where the block begins."""
    hashes: Hashes
    """Of the ids, for sampling and joining."""
    units: Hashes
    """Of the units; the ids' where the stream has no unit."""
    versions: Sequence[str] | None
    """Version per row, empty where it is not said; None when the stream has no such field."""
    models: Sequence[str] | None
    failed: Bools
    latency_ms: Floats
    """NaN where unknown."""
    segments: dict[str, Column]

    @property
    def count(self) -> int:
        """Number of rows."""
        return self.batch.records.rows


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Label rows; those without a label are left out."""

    hashes: Hashes
    label: Column

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.hashes)


def predictions(raw: Raw, plan: StreamPlan, clock: Clock) -> tuple[Predictions, list[Malformed]]:
    """The usable rows of `raw`, which has the id and time columns, and the records that are none."""
    f = plan.fields
    columns = protect(raw.columns, plan)
    ids = names(columns[f.id])
    times = moments(columns[f.time]) if f.time else [clock.landed] * raw.count
    faults = _faults(ids, times, plan, clock.limit(times) if f.time else clock.landed)
    good = np.array([fault is None for fault in faults], dtype=np.bool_)
    malformed = [
        Malformed(raw.lines[row], fault, _record(columns, row)) for row, fault in enumerate(faults) if fault is not None
    ]
    kept = [identity for identity, fault in zip(ids, faults, strict=True) if fault is None and identity is not None]
    rows = len(kept)
    hashes = join_hashes(kept)
    stamps = np.array([time for time, fault in zip(times, faults, strict=True) if fault is None], dtype=np.int64)
    batch = Batch(_records(columns, raw, plan).take(good), kept, np.arange(rows, dtype=np.int64), stamps)
    unit_names = _named(columns, f.unit, good)
    return Predictions(
        batch=batch,
        hashes=hashes,
        units=hashes if unit_names is None else join_hashes([n or i for n, i in zip(unit_names, kept, strict=True)]),
        versions=_named(columns, f.version, good),
        models=_named(columns, f.model, good),
        failed=np.array(flags(columns[f.error]), dtype=np.bool_)[good]
        if f.error in columns
        else np.zeros(rows, np.bool_),
        latency_ms=_latency(columns, f.latency_ms, raw)[good],
        segments={name: _segment(columns, name, raw).take(good) for name in plan.segments},
    ), malformed


def labels(raw: Raw, plan: StreamPlan) -> tuple[Labels, list[Malformed]]:
    """The labels of `raw`, which has the id and label columns, and the records that are none."""
    f = plan.fields
    assert f.label is not None
    columns = protect(raw.columns, plan)
    ids = names(columns[f.id])
    label = _output(columns[f.label], plan, raw.text)
    malformed = [
        Malformed(
            raw.lines[row],
            f"no id in {f.id}" if name is None else f"{f.label} has no usable label",
            _record(columns, row),
        )
        for row, name in enumerate(ids)
        if name is None or label.invalid[row]
    ]
    good = label.usable & np.array([name is not None for name in ids], dtype=np.bool_)
    hashes = join_hashes([name for name, use in zip(ids, good.tolist(), strict=True) if use and name is not None])
    return Labels(hashes, label.take(good)), malformed


def reference_records(raw: Raw, plan: StreamPlan) -> Records:
    """Rows of a reference file: it has the stream's field names, and needs no id, time or version."""
    return _records(protect(raw.columns, plan), raw, plan)


def join_hashes(ids: Sequence[str]) -> Hashes:
    """64 bits per id, of which the share of the range is `unit_hash("join", id)`."""
    blake, size = hashlib.blake2b, 8
    digests = b"".join(
        [blake(name.encode("utf-8", "surrogatepass"), digest_size=size, key=JOIN_SALT).digest() for name in ids]
    )
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def _records(columns: dict[str, Any], raw: Raw, plan: StreamPlan) -> Records:
    f = plan.fields
    features = {
        name: typed(kind, columns[name], raw.text) for name, kind in plan.kinds.items() if columns.get(name) is not None
    }
    return Records(
        raw.count,
        features,
        prediction=_output(columns[f.prediction], plan, raw.text) if f.prediction in columns else None,
        score=typed("number", columns[f.score], raw.text) if f.score in columns else None,
        label=_output(columns[f.label], plan, raw.text) if f.label in columns else None,
    )


def _output(column: Any, plan: StreamPlan, text: bool) -> Column:
    if plan.output == "number":
        return typed("number", column, text)
    return classes(column, text) if plan.task == "binary" else typed("category", column, text)


def _segment(columns: dict[str, Any], name: str, raw: Raw) -> Column:
    if name not in columns:
        nothing = np.full(raw.count, None, dtype=object)
        return Column("category", nothing, np.zeros(raw.count, dtype=np.bool_))
    return typed("category", columns[name], raw.text)


def _latency(columns: dict[str, Any], field: str | None, raw: Raw) -> Floats:
    if field is None or field not in columns:
        return np.full(raw.count, np.nan)
    values: Floats = typed("number", columns[field], raw.text).values
    return values


def _named(columns: dict[str, Any], field: str | None, good: Bools) -> list[str] | None:
    if field is None:
        return None
    if field not in columns:
        return [""] * int(good.sum())
    return [name or "" for name, use in zip(names(columns[field]), good.tolist(), strict=True) if use]


def _faults(ids: Sequence[str | None], times: Sequence[int | None], plan: StreamPlan, latest: int) -> list[str | None]:
    """Per record why it is malformed, None when it is not."""
    faults: list[str | None] = []
    for name, time in zip(ids, times, strict=True):
        if name is None:
            faults.append(f"no id in {plan.fields.id}")
        elif time is None:
            faults.append(f"no time in {plan.fields.time}; expected ISO 8601 or a number of seconds or ms since 1970")
        elif time > latest:
            faults.append(f"the time in {plan.fields.time} lies too far in the future")
        else:
            faults.append(None)
    return faults


def _record(columns: dict[str, Any], row: int) -> dict[str, Any]:
    """The fields of one record, privacy already applied."""
    return {name: _scalar(column[row]) for name, column in columns.items()}


def _scalar(value: Any) -> Any:
    return value.as_py() if hasattr(value, "as_py") else value
