"""What one partition brought in one slice of event time, summed: the part of a window that a single process can make.

Panes merge exactly, whoever made them. Sampled predictions and labels, and the units of a split, go along as rows, each up
to a bound: the first ones in the order of the log, so that what is left out follows from the log too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from daemon.core.columns import Bools, Coded, Column, Integers, coded
from daemon.core.hashes import Hashes
from daemon.core.panes import Pane, from_bytes, to_bytes
from daemon.monitors.packing import pack, unpack
from daemon.monitors.traffic import Seen, Units

WAITING = 20_000
"""Most sampled predictions, and most labels, of one slice of a partition."""
UNITS = 100_000
"""Most units of one version in one slice of a partition."""
ARMS = 64
"""Most versions of a model in one slice of a partition; requests of later ones are not counted."""

PaneKey = tuple[str, str, int]
"""Model, segment (`column=value`, empty for all rows) and rows of the sample."""


@dataclass(frozen=True, slots=True, eq=False)
class WaitingRows:
    """Sampled predictions whose labels are awaited, in the order of the log. Arrays of equal length."""

    hashes: Hashes
    times: Integers
    positions: Integers
    measured: Bools
    """The row is in the panes: it is the champion's."""
    models: Column
    versions: Column
    prediction: Column | None
    score: Column | None
    segments: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, index: slice | Bools | Integers) -> WaitingRows:
        """Some of the rows."""
        return WaitingRows(
            self.hashes[index], self.times[index], self.positions[index], self.measured[index],
            self.models.take(index), self.versions.take(index), self.prediction and self.prediction.take(index),
            self.score and self.score.take(index), {name: one.take(index) for name, one in self.segments.items()},
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[WaitingRows]) -> WaitingRows:
        """All of them, one behind the other; at least one part."""
        first = parts[0]
        arrays: dict[str, Any] = {n: np.concatenate([getattr(p, n) for p in parts]) for n in _ARRAYS}
        columns: dict[str, Any] = {n: _joined([getattr(p, n) for p in parts]) for n in _COLUMNS}
        segments: dict[str, Any] = {name: _joined([part.segments[name] for part in parts]) for name in first.segments}
        return cls(**arrays, **columns, segments=segments)

    def parts(self) -> dict[str, Any]:
        """For `pack`."""
        columns = {
            "models": self.models, "versions": self.versions, "prediction": self.prediction, "score": self.score,
            **{f"segment {name}": column for name, column in self.segments.items()},
        }  # fmt: skip
        packed = (_packed(f"waiting {name}", column) for name, column in columns.items() if column is not None)
        arrays = {f"waiting {n}": getattr(self, n) for n in _ARRAYS}
        return {**arrays, **{key: value for part in packed for key, value in part.items()}}

    @classmethod
    def of(cls, parts: Mapping[str, Any], segments: Sequence[str]) -> Self:
        """From what `unpack` gave."""
        arrays = {n: parts[f"waiting {n}"] for n in _ARRAYS}
        columns: dict[str, Any] = {n: _unpacked(f"waiting {n}", parts) for n in _COLUMNS}
        found: dict[str, Any] = {name: _unpacked(f"waiting segment {name}", parts) for name in segments}
        return cls(**arrays, **columns, segments=found)


@dataclass(frozen=True, slots=True, eq=False)
class LabelRows:
    """Sampled labels, in the order of the log."""

    hashes: Hashes
    label: Column

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, index: slice | Bools) -> LabelRows:
        """Some of them."""
        return LabelRows(self.hashes[index], self.label.take(index))

    @classmethod
    def joined(cls, parts: Sequence[LabelRows]) -> LabelRows:
        """All of them, one behind the other; at least one part."""
        label = _joined([part.label for part in parts])
        assert label is not None
        return cls(np.concatenate([part.hashes for part in parts]), label)


@dataclass(slots=True)
class Partial:
    """The sums of one slice of one partition. It grows until the slice is complete."""

    start: int
    end: int
    """Event time [start, end) in µs."""
    rows: int = 0
    tags: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Model -> the champion's version and the bins of its reference, as the panes have them."""
    panes: dict[PaneKey, Pane] = field(default_factory=dict)
    seen: dict[str, dict[str, Seen]] = field(default_factory=dict)
    """Model -> version -> what came of it; the empty version is that of rows that do not say theirs."""
    late: dict[str, int] = field(default_factory=dict)
    """Model -> rows that came too late for their own slice."""
    waiting: list[WaitingRows] = field(default_factory=list)
    labels: list[LabelRows] = field(default_factory=list)

    def wait(self, rows: WaitingRows) -> int:
        """Take predictions in, as far as there is room; how many were left out."""
        room = WAITING - sum(map(len, self.waiting))
        if room > 0 and len(rows):
            self.waiting.append(rows.take(slice(0, room)))
        return max(0, len(rows) - max(0, room))

    def label(self, rows: LabelRows) -> int:
        """Take labels in, as far as there is room; how many were left out."""
        room = WAITING - sum(map(len, self.labels))
        if room > 0 and len(rows):
            self.labels.append(rows.take(slice(0, room)))
        return max(0, len(rows) - max(0, room))

    def see(self, model: str, version: str, seen: Seen) -> int:
        """Take in what came of a version, as far as there is room; requests left out."""
        arms = self.seen.setdefault(model, {})
        if version not in arms and len(arms) >= ARMS:
            return seen.requests
        both = arms[version].joined(seen) if version in arms else seen
        if both.units is not None and len(both.units.hashes) > UNITS:
            kept = np.sort(np.argsort(both.units.firsts)[:UNITS])
            both = Seen(both.requests, both.errors, both.start, both.end, both.bins, both.units.take(kept))
        arms[version] = both
        return 0

    def forget(self, model: str) -> None:
        """The model has another champion: what was held against the old one's bins is of no use."""
        self.panes = {key: pane for key, pane in self.panes.items() if key[0] != model}
        self.tags.pop(model, None)
        for version, seen in self.seen.get(model, {}).items():
            units = seen.units
            if units is not None:
                units = Units(units.hashes, units.failed, units.slowest, np.full(len(units.codes), -1), units.firsts)
            self.seen[model][version] = Seen(
                seen.requests, seen.errors, seen.start, seen.end, 0, units, seen.latency, ()
            )

    def to_bytes(self) -> bytes:
        """For the store."""
        panes = [to_bytes(pane) for pane in self.panes.values()]
        parts: dict[str, Any] = {
            "slice": [self.start, self.end, self.rows],
            "tags": self.tags,
            "late": self.late,
            "panes": [[*key, len(raw)] for key, raw in zip(self.panes, panes, strict=True)],
            "pane bytes": np.frombuffer(b"".join(panes), np.uint8),
            "seen": [],
            "segments": None,
        }
        for model, arms in self.seen.items():
            for version, seen in arms.items():
                number = len(parts["seen"])
                plain = [seen.requests, seen.errors, seen.start, seen.end, seen.bins]
                parts["seen"].append([model, version, plain, seen.units is not None, seen.latency, seen.scores])
                if seen.units is not None:
                    parts |= {f"units {number} {name}": getattr(seen.units, name) for name in _UNITS}
        if self.waiting:
            waiting = WaitingRows.joined(self.waiting)
            parts |= {"segments": list(waiting.segments), **waiting.parts()}
        if self.labels:
            labels = LabelRows.joined(self.labels)
            parts |= {"label hashes": labels.hashes, **_packed("label", labels.label)}
        return pack(parts)

    @classmethod
    def of(cls, blob: bytes) -> Self:
        """From the store."""
        parts = unpack(blob)
        start, end, rows = parts["slice"]
        made = cls(start, end, rows, late=parts["late"])
        made.tags = {model: (version, panes) for model, (version, panes) in parts["tags"].items()}
        raw, at = parts["pane bytes"].tobytes(), 0
        for model, segment, most, size in parts["panes"]:
            made.panes[model, segment, most] = from_bytes(raw[at : at + size])
            at += size
        for number, (model, version, plain, has_units, latency, scores) in enumerate(parts["seen"]):
            units = Units(*(parts[f"units {number} {name}"] for name in _UNITS)) if has_units else None
            requests, errors, start, end, bins = plain
            made.seen.setdefault(model, {})[version] = Seen(
                requests, errors, start, end, bins, units, tuple(latency), tuple(scores)
            )
        if parts["segments"] is not None:
            made.waiting = [WaitingRows.of(parts, parts["segments"])]
        if "label hashes" in parts:
            label = _unpacked("label", parts)
            assert label is not None
            made.labels = [LabelRows(parts["label hashes"], label)]
        return made


_ARRAYS = ("hashes", "times", "positions", "measured")
_COLUMNS = ("models", "versions", "prediction", "score")
_UNITS = ("hashes", "failed", "slowest", "codes", "firsts")


def as_coded(column: Column) -> Coded:
    """The categories of a column as numbers."""
    if column.coded is not None:
        return column.coded
    found = column.values.tolist()
    levels = list(dict.fromkeys(found))
    index = {name: number for number, name in enumerate(levels)}
    made = coded(np.fromiter((index[name] for name in found), np.int64, len(found)), levels).coded
    assert made is not None
    return made


def _joined(columns: Sequence[Column | None]) -> Column | None:
    """Columns of one kind, one behind the other; None when none is there."""
    there = [column for column in columns if column is not None]
    if len(there) < len(columns):  # a field that a stream has or has not is so in all its batches
        return None
    if there[0].kind == "number":
        return Column(
            "number", np.concatenate([one.values for one in there]), np.concatenate([one.invalid for one in there])
        )
    parts = [as_coded(one) for one in there]
    names = [level for part in parts for level in part.levels]
    starts = np.cumsum([0, *(len(part.levels) for part in parts[:-1])])
    shifted = [np.where(p.codes < 0, -1, p.codes + start) for p, start in zip(parts, starts.tolist(), strict=True)]
    return coded(np.concatenate(shifted), names)


def _packed(name: str, column: Column) -> dict[str, Any]:
    if column.kind == "number":
        return {f"{name} values": column.values}
    numbers = as_coded(column)
    return {f"{name} codes": numbers.codes, f"{name} levels": list(numbers.levels)}


def _unpacked(name: str, parts: Mapping[str, Any]) -> Column | None:
    if f"{name} values" in parts:
        values = parts[f"{name} values"]
        return Column("number", values, np.zeros(len(values), np.bool_))
    if f"{name} codes" not in parts:
        return None
    return coded(parts[f"{name} codes"], parts[f"{name} levels"])
