"""Values of a topic -> raw columns, a batch at a time: arrow decodes JSON straight into columns of the stream's fields.

What arrow cannot take (a value that is no JSON, a field of mixed types) is halved until the rest is decoded fast and a few
records are decoded one by one, by orjson. Either way gives the same columns, so it does not matter how records were batched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from daemon.core.columns import Integers
from daemon.monitors.records import Malformed, Raw, by_field

FEW = 64
"""So many records are not worth a columnar decoder."""
_BLOCK = 1 << 18
_LEARN = 200
"""Records of a refused batch that are looked at, to learn of which types its fields are."""
_EXACT = 2.0**53
_NO_JSON = re.compile(rb"[:\[,]\s*-?(?:NaN|Inf)")
"""What arrow reads as a number, and JSON does not know."""


class Format(Protocol):
    """How the values of a topic are written. It may remember some of them, which follows from the log alone too."""

    @property
    def unpaired(self) -> int:
        """What was given up since the log began because what belongs to it never came."""
        ...

    def decode(self, values: Sequence[bytes], lines: Sequence[int], landed: Integers | None, /) -> list[Raw]:
        """The records as columns, in their order, in one piece or several.

        `lines`: their offsets; `landed`: when each was written (µs since 1970), for formats that remember.
        """
        ...

    def idle(self) -> None:
        """Nothing came for a while: give up what waits for something."""
        ...

    def state(self) -> bytes:
        """What it remembers, to be stored with the progress behind it; empty when that is nothing."""
        ...

    def complaints(self) -> list[str]:
        """What was given up since the last call, and why."""
        ...


class JsonFormat:
    """One JSON object per value. It remembers nothing."""

    unpaired = 0

    def __init__(self, fields: Sequence[str], numbers: frozenset[str]) -> None:
        self._fields = tuple(fields)
        self._numbers = numbers
        self._types: dict[str, pa.DataType] = {
            name: pa.float64() if name in self._numbers else pa.string() for name in fields
        }
        self._dotted = [orjson.dumps(name) for name in fields if "." in name]

    def decode(self, values: Sequence[bytes], lines: Sequence[int], _: Integers | None = None, /) -> list[Raw]:
        """See Format."""
        if len(values) <= FEW:
            return [self._one_by_one(values, lines)]
        found = self._at_once(values, lines)
        if found is None and self._learn(values):
            found = self._at_once(values, lines)
        if found is not None:
            return [found]
        half = len(values) // 2
        return [*self.decode(values[:half], lines[:half]), *self.decode(values[half:], lines[half:])]

    def idle(self) -> None:
        """See Format."""

    def state(self) -> bytes:
        """See Format."""
        return b""

    def complaints(self) -> list[str]:
        """See Format."""
        return []

    def _at_once(self, values: Sequence[bytes], lines: Sequence[int]) -> Raw | None:
        """All of them by arrow; None when some are not what they should be."""
        table = objects(values, schema_of(self._types), self._dotted)
        if table is None:
            return None
        columns = {name: _reached(table, name) for name in self._fields}
        if any(name not in self._numbers and is_inexact(column) for name, column in columns.items()):
            return None
        return Raw(lines[0], len(values), columns, lines, (), text=False)

    def _one_by_one(self, values: Sequence[bytes], lines: Sequence[int]) -> Raw:
        records: list[dict[str, Any]] = []
        good: list[int] = []
        malformed: list[Malformed] = []
        for value, line in zip(values, lines, strict=True):
            record = _object(value)
            if isinstance(record, dict):
                records.append(record)
                good.append(line)
            else:
                malformed.append(Malformed(line, record, value))
        columns = by_field(records, self._fields)
        return Raw(lines[0] if len(lines) else 0, len(values), columns, good, tuple(malformed), text=False)

    def _learn(self, values: Sequence[bytes]) -> bool:
        """Look at some records for the types of their fields; whether anything is new."""
        few = self._one_by_one(values[:_LEARN], range(min(_LEARN, len(values))))
        changed = False
        for name, column in few.columns.items():
            kind = type_of({type(value) for value in column}, name in self._numbers)
            if kind is not None and kind != self._types[name]:
                self._types[name] = kind
                changed = True
        return changed


def objects(values: Sequence[bytes], schema: pa.Schema, dotted: Sequence[bytes]) -> pa.Table | None:
    """JSON objects as a table of the schema, a row from each; None when some are not what they should be.

    `dotted`: names in quotes that have dots; where one is a name of its own, `dig` decides which is meant.
    """
    joined = b"\n".join(values)
    if not _is_one_each(joined, values) or any(name in joined for name in dotted):
        return None
    if (b"NaN" in joined or b"Inf" in joined) and _NO_JSON.search(joined):
        return None
    try:
        joined.isascii() or joined.decode()
        table = pj.read_json(
            pa.BufferReader(joined),  # type: ignore[arg-type]
            read_options=pj.ReadOptions(use_threads=False, block_size=max(_BLOCK, max(map(len, values)) + 2)),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None
    return table if table.num_rows == len(values) else None


def schema_of(types: Mapping[str, pa.DataType]) -> pa.Schema:
    """Fields of these types; dots are records in records."""
    tree: dict[str, Any] = {}
    for name, kind in types.items():
        *above, last = name.split(".")
        here = tree
        for part in above:
            inner = here.setdefault(part, {})
            here = inner if isinstance(inner, dict) else {}
        here.setdefault(last, kind)
    return pa.schema(_arrow_fields(tree))


def is_inexact(column: Any) -> bool:
    """Whether it has large floats: of a text or time, that may not be the number that was written."""
    if column.type != pa.float64():
        return False
    values = column.to_numpy(zero_copy_only=False)
    return bool((np.abs(values[~np.isnan(values)]) >= _EXACT).any())


def _is_one_each(joined: bytes, values: Sequence[bytes]) -> bool:
    """Every value begins and ends as an object does, so that as many rows as values mean one row from each."""
    if not joined.startswith(b"{") or not joined.endswith(b"}"):
        return False
    borders = len(values) - 1
    if joined.count(b"\n") == borders:
        return joined.count(b"}\n{") == borders
    return all(value.startswith(b"{") and value.endswith(b"}") for value in values)


def _arrow_fields(tree: Mapping[str, Any]) -> list[Any]:
    return [
        pa.field(name, pa.struct(_arrow_fields(kind)) if isinstance(kind, dict) else kind)
        for name, kind in tree.items()
    ]


def _reached(table: Any, name: str) -> Any:
    """The column of a field, dots followed; always one array."""
    column = table
    for part in name.split("."):
        column = column.column(part).combine_chunks() if column is table else pc.struct_field(column, part)
    return column


def type_of(kinds: set[type], number: bool) -> pa.DataType | None:
    """The arrow type of values of these types; None when there is none for all of them, or nothing to learn from."""
    kinds = kinds - {type(None)}
    if kinds == {str}:
        return pa.string()
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.float64() if number else pa.int64()
    if kinds and kinds <= {int, float}:
        return pa.float64()
    return None


def _object(value: bytes) -> dict[str, Any] | str:
    """The record of a value, or why there is none."""
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return f"not JSON: {error}"
    return record if isinstance(record, dict) else "not a JSON object"
