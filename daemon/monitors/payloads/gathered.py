"""Calls of which both halves are there -> columns of all their rows.

Rows of bodies that were decoded together are gathered from their tables, without a Python object per value; those of others
are put beside them, as far as they are of the same type.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from daemon.core.columns import Integers
from daemon.monitors.payloads.halves import ATTRIBUTE, ID, TIME, Half, is_output
from daemon.monitors.payloads.places import Together
from daemon.monitors.records import Malformed, Raw

_FITS: dict[pa.DataType, frozenset[type]] = {
    pa.float64(): frozenset({int, float}),
    pa.int64(): frozenset({int}),
    pa.string(): frozenset({str}),
    pa.bool_(): frozenset({bool}),
}
"""Arrow type -> the types of Python values that are the same in it."""
_EXACT = 2**53


class Calls:
    """Calls that come together. `names`: the columns; `numbers`: those of them that are."""

    def __init__(self, names: Sequence[str], numbers: frozenset[str]) -> None:
        self.malformed: list[Malformed] = []
        self._names = names
        self._numbers = numbers
        self._calls: list[tuple[Half, Half, int]] = []

    def add(self, request: Half, response: Half, line: int) -> None:
        """The rows of a call."""
        self._calls.append((request, response, line))

    def raw(self, start: int, read: int) -> Raw:
        """All rows."""
        together = any(half.decoded is not None for call in self._calls for half in call[:2])
        columns = self._gathered() if together else self._listed()
        lines = np.repeat([line for _, _, line in self._calls], self._counts).tolist()
        return Raw(start, read, columns, lines, tuple(self.malformed), text=False, is_safe=True)

    @property
    def _counts(self) -> Integers:
        return np.array([request.rows for request, _, _ in self._calls], np.int64)

    def _listed(self) -> dict[str, Any]:
        columns: dict[str, list[Any]] = {name: [] for name in self._names}
        for request, response, _ in self._calls:
            for name, column in columns.items():
                found = request.columns.get(name) or response.columns.get(name)
                column.extend(found or [response.at if name == TIME else None] * request.rows)
        return columns

    def _gathered(self) -> dict[str, Any]:
        counts = self._counts
        asked = _Side([request for request, _, _ in self._calls], counts)
        answered = _Side([response for _, response, _ in self._calls], counts)
        columns: dict[str, Any] = {}
        for name in self._names:
            if name == TIME:
                columns[name] = pa.array(np.repeat([response.at for _, response, _ in self._calls], counts))
            elif name == ID:
                columns[name] = asked.ids()
            elif name.startswith(ATTRIBUTE):
                columns[name] = asked.attribute(name)
            else:
                columns[name] = (answered if is_output(name) else asked).column(name, name in self._numbers)
        return columns


class _Side:
    """The requests, or the responses, of some calls; `counts`: rows of each."""

    def __init__(self, halves: Sequence[Half], counts: Integers) -> None:
        self._halves = halves
        self._counts = counts
        tables = {id(half.decoded.place.table): half.decoded.place.table for half in halves if half.decoded is not None}
        self._tables: list[Together] = list(tables.values())
        self._alone = [half for half in halves if half.decoded is None]
        lengths = [table.starts[-1] for table in self._tables]
        begin = dict(zip(tables, np.cumsum([0, *lengths])[: len(tables)].tolist(), strict=True))
        place, starts = sum(lengths), []
        for half in halves:
            if half.decoded is not None:
                starts.append(begin[id(half.decoded.place.table)] + half.decoded.place.start)
            else:
                starts.append(place)
                place += half.rows
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        self._index = np.repeat(np.array(starts, np.int64), counts) + within
        """Where each row is in the tables, and behind them in the halves that stand alone."""

    def ids(self) -> list[str | None]:
        """The ids of the rows, by call and number."""
        found: list[str | None] = []
        for half in self._halves:
            if half.decoded is None:
                found += half.columns.get(ID) or [None] * half.rows
            elif half.decoded.number:
                found += [f"{half.decoded.number}/{row}" for row in range(half.rows)]
            else:
                found += [None] * half.rows
        return found

    def attribute(self, name: str) -> Any:
        """An attribute of the events, which is the same for all rows of one."""
        said = [
            (half.columns.get(name) or [None])[0] if half.decoded is None else (half.decoded.said or {}).get(name)
            for half in self._halves
        ]
        calls: Any = pa.array(np.repeat(np.arange(len(said)), self._counts))
        return pa.array(said, pa.string()).take(calls)

    def column(self, name: str, number: bool) -> Any:
        """A column: an arrow array, or a list where values are of several types."""
        others = [value for half in self._alone for value in half.columns.get(name) or [None] * half.rows]
        kinds = {table.columns[name].type for table in self._tables if name in table.columns}
        kind = kinds.pop() if kinds else pa.float64() if number else pa.string()
        parts = [
            table.columns[name] if name in table.columns else pa.nulls(table.starts[-1], kind) for table in self._tables
        ]
        if not kinds and _fits(others, kind):
            return pa.concat_arrays([*parts, pa.array(others, kind)]).take(pa.array(self._index))
        values = [*(value for part in parts for value in part.to_pylist()), *others]
        return [values[at] for at in self._index.tolist()]


def _fits(values: Sequence[Any], kind: pa.DataType) -> bool:
    """Whether Python values are the same in an arrow array of this type."""
    if not {type(value) for value in values} - {type(None)} <= _FITS.get(kind, frozenset()):
        return False
    numbers = [value for value in values if type(value) in {int, float}]
    if kind == pa.int64():
        return all(-(2**63) <= value < 2**63 for value in numbers)
    return all(abs(value) < _EXACT for value in numbers)
