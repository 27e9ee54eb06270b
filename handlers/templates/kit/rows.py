"""The rows of a prediction stream with their labels, split into what may be trained on and the holdout.

Files are read newest first until enough rows are there. A line or file that cannot be read is left out and counted:
reporting it is the business of the stream's monitor, which also keeps it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from .call import JobCall

META = ("id", "unit", "time", "version", "prediction", "score", "label")
"""The columns of `Rows.meta`."""


CHUNK = 50_000
"""Rows that are worked on at once."""
LANDED = "driftd landed"
"""Column of a table: when its file landed. No log has a field of that name."""


@dataclass(frozen=True)
class Rows:
    """Labelled rows in event-time order; `features` and `meta` share their index."""

    features: pd.DataFrame
    """One column per feature, under the stream's names; numbers as float64, categories as text, missing ones as NaN/None."""
    meta: pd.DataFrame
    """The columns META; `time` is aware UTC, `label` as it was logged."""
    held_out: int
    """Rows left out because they belong to the holdout (`which="training"`), or kept because they do."""
    unlabelled: int
    """Rows left out because their label has not come."""
    unreadable: int
    """Lines and files that could not be read."""

    def __len__(self) -> int:
        return len(self.meta)


def unit_hash(salt: str, key: str) -> float:
    """A number in [0, 1) from salt and key, the same that driftd computes (`daemon.core.canonical.unit_hash`)."""
    raw = hashlib.blake2b(key.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(raw, "big") / 2**64


def text(value: Any) -> str:
    """A value as the text it is compared by: 5, 5.0 and "5" are the same id; a missing one is empty."""
    if value is None or value is pd.NaT or (isinstance(value, float) and value != value):  # noqa: PLR0124 - NaN
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def label_key(value: Any) -> str:
    """A label or prediction as the text it is compared by: 1, 1.0, True, "1" and "true" are the same."""
    shown = text(value)
    if shown in {"True", "true"}:
        return "1"
    if shown in {"False", "false"}:
        return "0"
    return shown[:-2] if shown.endswith(".0") and shown[:-2].lstrip("-").isdigit() else shown


def feature_names(stream: dict[str, Any]) -> dict[str, str]:
    """The features that may be learnt from, each with its kind: those that privacy neither hashes nor drops."""
    privacy = stream.get("privacy") or {}
    return {name: kind for name, kind in stream["fields"]["features"].items() if privacy.get(name, "keep") == "keep"}


def stream_rows(call: JobCall, which: Literal["training", "holdout"], since: str | None, limit: int) -> Rows:
    """The newest `limit` labelled rows of the call's stream at or after event time `since`, in time order.

    A row belongs to the holdout when the hash of its id, salted per model, is under the holdout's share. A request that
    failed is no row; of two rows with the same id the one in the newer file counts; of two labels the newer one.
    """
    stream = call.stream
    fields = stream["fields"]
    labels = _labels(stream)
    start = pd.Timestamp(since) if since else None
    if start is not None:
        start = start.tz_localize("UTC") if start.tzinfo is None else start.tz_convert("UTC")
    names = feature_names(stream)
    kept: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    seen: set[str] = set()
    held_out = unlabelled = rows = 0
    tables = _Tables(_files(stream["predictions"], stream.get("pattern", "*")), _wanted(stream))
    for table in tables:
        if fields["id"] not in table:
            continue
        meta = _meta(table, fields)
        answered = meta["id"].ne("") & ~_failed(table, fields) & ~meta["id"].isin(seen)
        meta = meta[answered].drop_duplicates("id", keep="first")
        if start is not None:
            meta = meta[meta["time"] >= start]
        seen.update(meta["id"])
        if labels is not None:
            meta = meta.assign(label=meta["id"].map(labels))
        has_label = meta["label"].notna()
        unlabelled += int((~has_label).sum())
        meta = meta[has_label]
        inside = meta["id"].map(lambda key: unit_hash(call.holdout["salt"], key) < call.holdout["share"]).astype(bool)
        held_out += int(inside.sum())
        meta = meta[inside if which == "holdout" else ~inside]
        kept.append((meta, features_of(table.loc[meta.index], names)))
        rows += len(meta)
        if rows >= limit:
            break
    if not kept:
        nothing = pd.DataFrame(columns=[fields["id"]])
        kept.append((_meta(nothing, fields), features_of(nothing, names)))
    metas = pd.concat([meta for meta, _ in kept], ignore_index=True)
    features = pd.concat([frame for _, frame in kept], ignore_index=True)
    order = metas.sort_values(["time", "id"], kind="stable").index[-limit:]
    return Rows(
        features.loc[order].reset_index(drop=True),
        metas.loc[order].reset_index(drop=True),
        held_out,
        unlabelled,
        tables.unreadable,
    )


def table_rows(path: str, fields: dict[str, Any], features: dict[str, str]) -> Rows:
    """All the labelled rows of one file (a reference, or a table that was handed in), under the stream's names."""
    wanted = [value for value in fields.values() if isinstance(value, str)] + list(features)
    table, bad = _table(Path(path), wanted)
    if fields["id"] not in table:
        table[fields["id"]] = range(len(table))
    meta = _meta(table, fields)
    meta = meta[meta["label"].notna()]
    chosen = features_of(table.loc[meta.index], features)
    return Rows(chosen.reset_index(drop=True), meta.reset_index(drop=True), 0, len(table) - len(meta), bad)


def features_of(frame: pd.DataFrame, features: dict[str, str]) -> pd.DataFrame:
    """The feature columns with one type per kind; a column that the rows do not have is all missing."""
    columns: dict[str, pd.Series[Any]] = {}
    for name, kind in features.items():
        values = frame[name] if name in frame else pd.Series([None] * len(frame), index=frame.index, dtype=object)
        if kind == "number":
            columns[name] = pd.to_numeric(values, errors="coerce").astype("float64")
        else:
            columns[name] = values.map(lambda value: text(value) or None).astype(object)
    return pd.DataFrame(columns, index=frame.index)


def _wanted(stream: dict[str, Any]) -> list[str]:
    fields = stream["fields"]
    return [value for value in fields.values() if isinstance(value, str)] + list(fields["features"])


def _files(folder: str, pattern: str) -> list[Path]:
    """Complete files, newest first."""
    root = Path(folder)
    if not root.is_dir():
        return []
    found = [
        path
        for path in root.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.suffix not in {".part", ".tmp", ".done"}
        and fnmatch.fnmatch(path.name, pattern)
    ]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def _labels(stream: dict[str, Any]) -> dict[str, Any] | None:
    """Label by id from the label files, the newest of each; None when the predictions bring their labels themselves."""
    if not stream.get("labels"):
        return None
    fields = stream["fields"]
    labels: dict[str, Any] = {}
    for table in _Tables(_files(stream["labels"], "*"), [fields["id"], fields["label"]]):
        if fields["id"] not in table or fields["label"] not in table:
            continue
        known = table[table[fields["label"]].notna()].iloc[::-1]
        older = dict(zip(known[fields["id"]].map(text), known[fields["label"]], strict=True))
        labels = {**older, **labels}
    return labels


class _Tables:
    """Files as few large tables, newest rows first: logs come in thousands of small files, and work per table is dear."""

    def __init__(self, files: list[Path], wanted: list[str]) -> None:
        self._files = files
        self._wanted = wanted
        self.unreadable = 0
        """Lines, and whole files, that could not be read so far."""

    def __iter__(self) -> Iterator[pd.DataFrame]:
        waiting: list[pd.DataFrame] = []
        rows = 0
        for path in self._files:
            table, bad = _table(path, self._wanted)
            self.unreadable += bad
            if table.empty:
                continue
            landed = pd.Timestamp(path.stat().st_mtime_ns, unit="ns", tz="UTC")
            waiting.append(table.iloc[::-1].astype(object).assign(**{LANDED: landed}))
            rows += len(table)
            if rows >= CHUNK:
                yield pd.concat(waiting, ignore_index=True)
                waiting, rows = [], 0
        if waiting:
            yield pd.concat(waiting, ignore_index=True)


def _table(path: Path, wanted: list[str]) -> tuple[pd.DataFrame, int]:
    """The wanted columns of one file that it has, and how many of its lines could not be read (an unreadable file: 1)."""
    try:
        if path.suffix == ".parquet":
            return _picked(pd.read_parquet(path), wanted), 0
        if path.suffix == ".csv":
            # Whole numbers of a column with gaps are often written as 1.0; a request or a JSON log brings 1 for it.
            table = pd.read_csv(path, dtype=str, keep_default_na=True, usecols=lambda name: name in wanted)
            return table.apply(lambda column: column.map(_whole)), 0
        return _json_lines(path, wanted)
    except (OSError, ValueError):
        return pd.DataFrame(), 1


def _whole(value: Any) -> Any:
    is_whole = isinstance(value, str) and value.endswith(".0") and value[:-2].lstrip("-").isdigit()
    return value[:-2] if is_whole else value


def _picked(table: pd.DataFrame, wanted: list[str]) -> pd.DataFrame:
    columns = {}
    for name in dict.fromkeys(wanted):
        head = name.split(".", 1)[0]
        if name in table:
            columns[name] = table[name]
        elif head in table:
            columns[name] = table[head].map(partial(_dig, path=name.split(".")[1:]))
    return pd.DataFrame(columns)


def _json_lines(path: Path, wanted: list[str]) -> tuple[pd.DataFrame, int]:
    paths = {name: name.split(".") for name in dict.fromkeys(wanted)}
    columns: dict[str, list[Any]] = {name: [] for name in paths}
    bad = 0
    for record in _records(path):
        if record is None:
            bad += 1
            continue
        for name, parts in paths.items():
            columns[name].append(record[name] if name in record else _dig(record, parts))
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()}), bad


def _records(path: Path) -> Iterator[dict[str, Any] | None]:
    with path.open("rb") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield record if isinstance(record, dict) else None


def _dig(value: Any, path: list[str]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _meta(table: pd.DataFrame, fields: dict[str, Any]) -> pd.DataFrame:
    """The columns META of a table, on its index."""
    ids = table[fields["id"]].map(text).astype(object)
    columns: dict[str, Any] = {"id": ids}
    unit = fields.get("unit")
    columns["unit"] = table[unit].map(text).astype(object) if unit and unit in table else ids
    columns["time"] = _times(table, fields.get("time"))
    for name in ("version", "prediction", "score", "label"):
        field = fields.get(name)
        missing = pd.Series([None] * len(table), index=table.index, dtype=object)
        columns[name] = table[field].astype(object) if field and field in table else missing
    return pd.DataFrame(columns, index=table.index)


def _failed(table: pd.DataFrame, fields: dict[str, Any]) -> pd.Series[Any]:
    """Rows whose request failed: their error field says something."""
    field = fields.get("error")
    if not field or field not in table:
        return pd.Series([False] * len(table), index=table.index, dtype=bool)
    failed: pd.Series[Any] = table[field].map(lambda value: text(value) not in {"", "False", "false", "0"}).astype(bool)
    return failed


def _times(table: pd.DataFrame, field: str | None) -> pd.Series[Any]:
    """Event times; a row without one takes the time at which its file landed."""
    epoch = pd.Series([pd.Timestamp(0, tz="UTC")] * len(table), index=table.index)
    landed = pd.to_datetime(table.get(LANDED, epoch), utc=True).astype("datetime64[ns, UTC]")
    if not field or field not in table:
        return landed
    values = table[field]
    numbers = pd.to_numeric(values, errors="coerce")
    if len(values) and numbers.notna().all():
        # Seconds reach 1e11 in the year 5138, milliseconds did in 1973.
        return pd.to_datetime(numbers.where(numbers > 1e11, numbers * 1000), unit="ms", utc=True)
    times: pd.Series[Any] = pd.to_datetime(values, utc=True, format="ISO8601", errors="coerce").fillna(landed)
    return times
