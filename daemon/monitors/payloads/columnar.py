"""Bodies of many events -> columns of all their rows: arrow decodes them together, without a Python object per value.

Bodies of one side, one protocol and one shape make one table. What does not fit (no JSON, values of mixed types, tensors that
differ) is halved until a few bodies are left, and those are decoded one by one, by `tensors`. Either way gives the same rows,
so it does not matter which way a body has gone. What is refused is refused by `tensors`, with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from daemon.core.columns import Integers
from daemon.core.errors import BadInput
from daemon.monitors.decoding import is_inexact, objects, schema_of, type_of
from daemon.monitors.payloads.halves import Side, Wanted
from daemon.monitors.payloads.places import CELL, Place, Together
from daemon.monitors.payloads.tensors import MOST_ROWS, after, places_of_list
from daemon.monitors.payloads.uniform import Tensors, kinds_of, lengths, whole
from daemon.monitors.records import dig
from daemon.payloadparts import MODEL, PREDICTION

FEW = 4096
"""So many bytes of bodies are not worth a columnar decoder."""
_LEARN = 20
"""Bodies that are looked at, to learn of which types their values are."""
_KEYS: Mapping[Side, tuple[str, str]] = {"request": ("instances", "inputs"), "response": ("predictions", "outputs")}
"""What has the rows in V1, and in V2."""
_Decoded = tuple[Integers, dict[str, Any]] | None
"""Rows of each body, and the columns of all."""


class BodyDecoder:
    """Decodes the bodies of one side. What it learns of their types decides how fast it is, not what it gives."""

    def __init__(self, side: Side, wanted: Wanted) -> None:
        self._side = side
        self._keys = _KEYS[side]
        self._names = wanted.plan.inputs if side == "request" else ()
        self._numbers = wanted.plan.numbers
        names = wanted.inputs if side == "request" else wanted.outputs
        self._wanted = tuple(name for name in names if wanted.plan.privacy.get(name) != "drop")
        inner = {name: name if side == "request" else after(name, PREDICTION) for name in self._wanted}
        self._fields = {name: field for name, field in inner.items() if field is not None}
        """What the columns are called in rows that are objects."""
        self._types: dict[str, pa.DataType] = {
            name: pa.float64() if name in self._numbers else pa.string() for name in self._fields
        }
        self._value: pa.DataType = pa.float64()
        """The type of values that have no names."""

    def places(self, bodies: Sequence[bytes]) -> list[Place | None]:
        """For each body where its rows are; None where it must be decoded alone."""
        found: list[Place | None] = [None] * len(bodies)
        v1, v2 = (f'"{key}"'.encode() for key in self._keys)
        first = [n for n, body in enumerate(bodies) if v1 in body]
        second = [n for n, body in enumerate(bodies) if v1 not in body and v2 in body]
        for version, mine in enumerate((first, second)):
            for n, place in zip(mine, self._halved([bodies[n] for n in mine], version), strict=True):
                found[n] = place
        return found

    def _halved(self, bodies: Sequence[bytes], version: int) -> list[Place | None]:
        if not bodies or sum(map(len, bodies)) < FEW or not self._wanted:
            return [None] * len(bodies)
        table = self._at_once(bodies, version)
        if table is None:
            news = self._learn(bodies, version)
            if news is None:
                return [None] * len(bodies)
            table = self._at_once(bodies, version) if news else None
        if table is not None:
            return [Place(table, at) for at in range(len(bodies))]
        half = len(bodies) // 2
        return [*self._halved(bodies[:half], version), *self._halved(bodies[half:], version)] if half else [None]

    def _at_once(self, bodies: Sequence[bytes], version: int) -> Together | None:
        """All of them; None when some are not what the first one is."""
        first = _rows(bodies[0], self._keys[version])
        try:
            made = None if not first else self._v2(bodies, first) if version else self._v1(bodies, first[0])
        except (pa.ArrowException, BadInput):
            return None
        if made is None:
            return None
        rows, columns = made
        if any(name not in self._numbers and is_inexact(column) for name, column in columns.items()):
            return None
        starts = np.concatenate([[0], np.cumsum(rows)])
        return Together(starts.tolist(), columns, _sizes(columns, starts).tolist())

    def _v1(self, bodies: Sequence[bytes], first: Any) -> _Decoded:
        key = self._keys[0]
        inner = schema_of({field: self._types[name] for name, field in self._fields.items()})
        item = pa.struct(list(inner)) if isinstance(first, dict) else self._value
        dotted = [orjson.dumps(field) for field in self._fields.values() if "." in field]
        if isinstance(first, list):
            item = pa.list_(item)
        table = objects(bodies, pa.schema([(key, pa.list_(item))]), dotted if isinstance(first, dict) else ())
        lists = None if table is None else whole(table.column(key))
        if lists is None or lists.null_count:
            return None
        counts, rows = lengths(lists), lists.flatten()
        if counts.min() < 1 or counts.max() > MOST_ROWS:
            return None
        if not isinstance(first, dict):
            return self._v1_by_place(counts, rows, is_list=isinstance(first, list))
        if rows.null_count or not self._fields:
            return None
        return counts, {name: _reached(rows, field) for name, field in self._fields.items()}

    def _v1_by_place(self, counts: Integers, rows: Any, *, is_list: bool) -> _Decoded:
        """Rows that are lists or scalars."""
        width = 1
        if is_list:
            widths = lengths(rows)
            if rows.null_count or not widths.min() or widths.min() != widths.max():
                return None
            width, rows = int(widths[0]), rows.flatten()
        if self._side == "request":
            places = {name: place for place, name in enumerate(self._names)}
            if len(places) != width:
                return None
        else:
            places = places_of_list(width) if is_list else {PREDICTION: 0}
        at = np.arange(int(counts.sum())) * width
        return counts, {name: rows.take(pa.array(at + places[name])) for name in self._wanted if name in places}

    def _v2(self, bodies: Sequence[bytes], first: Sequence[Any]) -> _Decoded:
        key = self._keys[1]
        said = [name for name in self._wanted if name in MODEL] if self._side == "response" else []
        nested = Tensors.depth(first)
        if nested is None:
            return None
        fields = [(key, pa.list_(Tensors.type_of(self._value, nested))), *((name, pa.string()) for name in said)]
        table = objects(bodies, pa.schema(fields), ())
        tensors = None if table is None else Tensors.of(whole(table.column(key)), nested)
        if table is None or tensors is None:
            return None
        places = tensors.places(self._side, self._wanted, self._names)
        columns: dict[str, Any] = {}
        for name in self._wanted:
            if name in said:
                column = whole(table.column(name))
                if column.null_count:
                    return None  # not said, or null: one counts as a column, the other does not
                columns[name] = column.take(pa.array(np.repeat(np.arange(len(bodies)), tensors.rows)))
            elif name in places:
                columns[name] = tensors.column(*places[name])
        return tensors.rows, columns

    def _learn(self, bodies: Sequence[bytes], version: int) -> bool | None:
        """Look at some bodies for the types of their values; whether anything is new. None: arrow has no type for them."""
        before = (dict(self._types), self._value)
        few = [row for body in bodies[:_LEARN] for row in _rows(body, self._keys[version]) or ()]
        if version == 0 and few and isinstance(few[0], dict):
            for name, field in self._fields.items():
                kinds = {type(dig(row, field)) for row in few if isinstance(row, dict)} - {type(None)}
                found = type_of(kinds, name in self._numbers)
                if found is None and kinds:
                    return None
                self._types[name] = found or self._types[name]
        else:
            said = (row.get("data") if version and isinstance(row, dict) else row for row in few)
            kinds = {kind for values in said for kind in kinds_of(values)} - {type(None)}
            found = type_of(kinds, number=False)
            if found is None:
                return None
            self._value = found
        return (self._types, self._value) != before


def _rows(body: bytes, key: str) -> list[Any] | None:
    """What a body has under this key, if that is a list."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    rows = told.get(key) if isinstance(told, dict) else None
    return rows if isinstance(rows, list) else None


def _reached(rows: Any, field: str) -> Any:
    """A field of records, dots followed."""
    for part in field.split("."):
        rows = pc.struct_field(rows, part)
    return rows


def _sizes(columns: Mapping[str, Any], starts: Integers) -> Integers:
    """What the columns of each body are taken to need: as `halves.size_of`."""
    rows = np.diff(starts)
    sizes = np.zeros(len(rows), np.int64)
    for name, column in columns.items():
        sizes += len(name) + CELL * rows
        if column.type == pa.string():
            letters = pc.utf8_length(column).fill_null(0).to_numpy(zero_copy_only=False)
            ends = np.concatenate([[0], np.cumsum(letters, dtype=np.int64)])
            is_text = column.is_valid().to_numpy(zero_copy_only=False)[starts[:-1]]
            sizes += np.where(is_text, ends[starts[1:]] - ends[starts[:-1]], 0)
    return sizes
