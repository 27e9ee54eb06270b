"""A data set as a stream's records: rows in event-time order, columns as the stream calls them, labels by id."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from daemon.config import Fields, Stream
from daemon.core.errors import BadInput, NotFound


@dataclass(frozen=True)
class Table:
    """The rows to play, with the label of each where there is one."""

    fields: Fields
    rows: pd.DataFrame
    """What the predictions are made of; the index counts rows of the whole data set in event-time order."""
    labels: pd.Series[Any] | None
    """The labels of those rows, with the same index, missing ones left out; None: there are none to bring later."""

    @property
    def first(self) -> int:
        """Number of the first row."""
        return int(self.rows.index[0])

    def between(self, start: int, end: int) -> pd.DataFrame:
        """Rows by their numbers, `end` not included."""
        return self.rows.iloc[start - self.first : end - self.first]

    def labelled(self, start: int, end: int) -> pd.DataFrame:
        """Ids and labels of rows by their numbers; empty when none has a label."""
        assert self.labels is not None
        assert self.fields.label is not None
        labels = self.labels[(self.labels.index >= start) & (self.labels.index < end)]
        ids = self.rows[self.fields.id].reindex(labels.index)
        return pd.DataFrame({self.fields.id: ids, self.fields.label: labels})

    def requests(self, start: int, end: int) -> Iterator[dict[str, Any]]:
        """What a client of the model sends for these rows: features, id, time and unit; missing values as None."""
        fields = self.fields
        asked = [fields.id, fields.time, fields.unit, *fields.features]
        names = dict.fromkeys(name for name in asked if name is not None and name in self.rows.columns)
        yield from records(self.between(start, end)[[*names]])


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values; NaN and NaT as None, times as ISO 8601."""
    columns = {str(name): _plain(frame[name]) for name in frame.columns}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def read_table(stream: Stream, data: Path, labels: Path | None, rows: tuple[int, int | None]) -> Table:
    """Rows `rows[0]` to `rows[1]` (not included; None: to the end) of a CSV or Parquet file.

    The columns are called as the stream's fields are; others are left out. Labels come from `labels` by id, else from the
    label column of the data. Raises NotFound for a missing file, BadInput when the table does not fit the stream.
    """
    fields = stream.fields
    table = _read(data)
    if fields.id not in table.columns:
        raise BadInput(f"{data}: there is no column {fields.id!r}, which is the stream's id; there are {_names(table)}")
    missing = sorted(set(fields.features) - set(table.columns))
    if missing:
        raise BadInput(f"{data}: there is no column {missing[0]!r}, which is a feature; there are {_names(table)}")
    if fields.time is not None and fields.time in table.columns:
        table = _in_order(table, fields.time, data)
    table = table.reset_index(drop=True)
    start, end = rows[0], min(len(table) if rows[1] is None else rows[1], len(table))
    if not 0 <= start < end:
        raise BadInput(f"{data} has {len(table)} rows: there are none from {rows[0]} to {rows[1]}")
    table = table.iloc[start:end]
    later = _labels(stream, table, labels)
    kept = [name for name in _played(fields, with_label=later is None) if name in table.columns]
    return Table(fields, table[kept], later)


def _played(fields: Fields, *, with_label: bool) -> list[str]:
    named = [fields.id, fields.time, fields.unit, fields.model, fields.version, fields.prediction, fields.score]
    named += [fields.error, fields.latency_ms, *fields.features]
    if with_label:
        named.append(fields.label)
    return [*dict.fromkeys(name for name in named if name is not None)]


def _labels(stream: Stream, table: pd.DataFrame, path: Path | None) -> pd.Series[Any] | None:
    """The labels that come in files of their own; None when there are none, or when they come with the predictions."""
    fields = stream.fields
    if fields.label is None or (stream.labels is None and stream.label_topic is None):
        if path is not None:
            raise BadInput(
                "the stream has no label field, or no folder or topic of labels, in config.yaml: there is nowhere to bring them"
            )
        return None
    if path is None:
        return table[fields.label].dropna() if fields.label in table.columns else None
    known = _read(path)
    for name in (fields.id, fields.label):
        if name not in known.columns:
            raise BadInput(f"{path}: there is no column {name!r}; there are {_names(known)}")
    by_id = known.drop_duplicates(fields.id, keep="last").set_index(fields.id)[fields.label]
    found = table[fields.id].map(by_id).dropna()
    # A missing label makes whole numbers floats; what is whole again is written as a whole number.
    return found.astype(by_id.dtype) if len(found) else found


def _in_order(table: pd.DataFrame, name: str, data: Path) -> pd.DataFrame:
    try:
        times = (
            table[name] if pd.api.types.is_numeric_dtype(table[name]) else pd.to_datetime(table[name], format="ISO8601")
        )
    except (ValueError, TypeError) as error:
        raise BadInput(f"{data}: column {name!r} is the stream's time and holds something else: {error}") from error
    if times.is_monotonic_increasing:
        return table
    return table.loc[times.sort_values(kind="stable").index]


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    try:
        return pd.read_parquet(path) if path.suffix in {".parquet", ".pq"} else pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


def _names(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table.columns[:20]))


def _plain(column: pd.Series[Any]) -> list[Any]:
    values: list[Any]
    if pd.api.types.is_datetime64_any_dtype(column):
        values = [None if pd.isna(value) else value.isoformat() for value in column]
        return values
    values = column.astype(object).where(column.notna(), None).tolist()
    return [value.item() if isinstance(value, np.generic) else value for value in values]
