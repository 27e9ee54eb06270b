"""Raw columns -> the rows of a block: predictions, or labels. A record without id or time is malformed; all else is data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from daemon.core.columns import Batch, Bools, Column, Floats, Integers, Records, coded
from daemon.core.hashes import Hashes, drawn, text_hashes
from daemon.monitors.arrow import NO_TIME
from daemon.monitors.plan import StreamPlan
from daemon.monitors.privacy import protect
from daemon.monitors.records import Malformed, Raw
from daemon.monitors.values import classes, flags, moments, named, names, typed

_USE = 1
"""See `hashes.drawn`: the numbers that choose which rows wait for their labels."""
_DAY = 86_400_000_000
_AHEAD = 30 * _DAY


class RowClock(Protocol):
    """What the times of rows are held against, in µs since 1970."""

    @property
    def landed(self) -> int | Integers:
        """The time of rows that have none of their own: one for all, or one for each."""
        ...

    def limit(self, times: Integers) -> int | Integers:
        """The latest believable time: one for all rows, or one for each; NO_TIME among `times` is none."""
        ...


@dataclass(frozen=True, slots=True)
class Clock:
    """The times that a file's rows are held against, in µs since 1970."""

    landed: int
    """When the file landed: the time of rows that have none of their own."""
    now: int
    watermark: int | None
    """Where the stream's event time stands; None at its beginning."""

    def limit(self, times: Integers) -> int:
        """The latest believable event time: one broken clock must not make all other rows late and all labels overdue.

        A day after now, or a month after where the stream stands (at its beginning: after nine tenths of the first rows):
        a simulated stream may run ahead of the clock, but not jump.
        """
        stands = self.watermark
        if stands is None:
            known = np.sort(times[times != NO_TIME])
            stands = int(known[len(known) * 9 // 10]) if len(known) else self.now
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
    lines: Integers
    """Where each row was: its line or row in the file, or its offset."""
    versions: Column | None
    """Category per row, none where it is not said; None when the stream has no such field."""
    models: Column | None
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
    lines: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    """Where each was, as read; not kept afterwards."""

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.hashes)


def predictions(raw: Raw, plan: StreamPlan, clock: RowClock) -> tuple[Predictions, list[Malformed]]:
    """The usable rows of `raw`, which has the id and time columns, and the records that are none."""
    f = plan.fields
    columns = raw.columns if raw.is_safe else protect(raw.columns, plan)
    ids = names(columns[f.id])
    landed = np.broadcast_to(np.asarray(clock.landed, dtype=np.int64), raw.count)
    times = moments(columns[f.time]) if f.time else landed
    faults = _faults(ids, times, plan, clock.limit(times) if f.time else landed)
    malformed = [Malformed(raw.lines[row], fault, _record(columns, row)) for row, fault in faults.items()]
    good = np.ones(raw.count, np.bool_)
    good[list(faults)] = False
    everything = not faults
    kept = [name for row, name in enumerate(ids) if name is not None and row not in faults] if faults else ids
    rows = len(kept)
    records = _records(columns, raw, plan)
    hashes = text_hashes(kept)  # type: ignore[arg-type]
    batch = Batch(
        records if everything else records.take(good), kept, np.arange(rows, dtype=np.int64), times[good], hashes,  # type: ignore[arg-type]
    )  # fmt: skip
    joining = drawn(hashes, _USE)
    unit_names = _texts(columns, f.unit, good)
    return Predictions(
        batch=batch,
        hashes=joining,
        units=joining
        if unit_names is None
        else join_hashes([n or i or "" for n, i in zip(unit_names, kept, strict=True)]),
        lines=np.asarray(raw.lines, dtype=np.int64)[good],
        versions=_named(columns, f.version, good),
        models=_named(columns, f.model, good),
        failed=flags(columns[f.error])[good] if f.error in columns else np.zeros(rows, np.bool_),
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
    return Labels(hashes, label.take(good), np.asarray(raw.lines, dtype=np.int64)[good]), malformed


def reference_records(raw: Raw, plan: StreamPlan) -> Records:
    """Rows of a reference file: it has the stream's field names, and needs no id, time or version."""
    return _records(protect(raw.columns, plan), raw, plan)


def join_hashes(ids: Sequence[str]) -> Hashes:
    """64 bits per id; their share of the range is held against the `join_rate`."""
    return drawn(text_hashes(ids), _USE)


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


def _named(columns: dict[str, Any], field_name: str | None, good: Bools) -> Column | None:
    if field_name is None:
        return None
    if field_name not in columns:
        return coded(np.full(int(good.sum()), -1), ())
    column = named(columns[field_name])
    return column if good.all() else column.take(good)


def _texts(columns: dict[str, Any], field_name: str | None, good: Bools) -> list[str] | None:
    if field_name is None:
        return None
    if field_name not in columns:
        return [""] * int(good.sum())
    return [name or "" for name, use in zip(names(columns[field_name]), good.tolist(), strict=True) if use]


def _faults(ids: Sequence[str | None], times: Integers, plan: StreamPlan, latest: int | Integers) -> dict[int, str]:
    """Of each malformed record why it is that, by row."""
    faults: dict[int, str] = {}
    for row in np.flatnonzero(times > latest).tolist():
        faults[row] = f"the time in {plan.fields.time} lies too far in the future"
    for row in np.flatnonzero(times == NO_TIME).tolist():
        faults[row] = f"no time in {plan.fields.time}; expected ISO 8601 or a number of seconds or ms since 1970"
    if None in ids:
        faults |= {row: f"no id in {plan.fields.id}" for row, name in enumerate(ids) if name is None}
    return dict(sorted(faults.items()))


def _record(columns: dict[str, Any], row: int) -> dict[str, Any]:
    """The fields of one record, privacy already applied."""
    return {name: _scalar(column[row]) for name, column in columns.items()}


def _scalar(value: Any) -> Any:
    return value.as_py() if hasattr(value, "as_py") else value
