"""V2 tensors of many bodies that all have the same ones: where each value is, computed for all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from daemon.core.columns import Integers
from daemon.monitors.payloads.halves import Side
from daemon.monitors.payloads.tensors import DATATYPES, MOST_ROWS, Shape, input_places, output_places

_MOST_VALUES = 1e15
"""No body is so long; products of sizes are exact below."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensors:
    """The tensors of some bodies, each with the same names and columns in the same order."""

    rows: Integers
    """Of each body."""
    shapes: Sequence[Shape]
    starts: Integers
    """bodies x tensors: where the data of each begins."""
    data: Any
    """All values, an arrow array."""

    @staticmethod
    def depth(first: Sequence[Any]) -> int | None:
        """How deep the data of a body's first tensor is nested, 1 for a flat list; None when there is none."""
        data = first[0].get("data") if isinstance(first[0], dict) else None
        depth = 0
        while isinstance(data, list) and data:
            data, depth = data[0], depth + 1
        return depth or None

    @staticmethod
    def type_of(value: pa.DataType, depth: int) -> pa.DataType:
        """The arrow type of a tensor with such values."""
        for _ in range(depth):
            value = pa.list_(value)
        fields = {"name": pa.string(), "shape": pa.list_(pa.int64()), "datatype": pa.string(), "data": value}
        return pa.struct(list(fields.items()))

    @classmethod
    def of(cls, lists: Any, depth: int) -> Self | None:
        """From the lists of tensors of bodies; None when they differ, or are not what their shapes say."""
        if lists.null_count or not len(lists):
            return None
        counts, told = lengths(lists), lists.flatten()
        if not counts.min() or counts.min() != counts.max() or told.null_count:
            return None
        bodies, each = len(counts), int(counts[0])
        name, shape, datatype, data = (pc.struct_field(told, part) for part in ("name", "shape", "datatype", "data"))
        if name.null_count or shape.null_count or data.null_count:
            return None
        same = pc.equal(name, name.take(pa.array(np.tile(np.arange(each), bodies))))
        known = pc.is_in(datatype, value_set=pa.array(sorted(DATATYPES)))
        sizes = _shapes(shape)
        if not pc.all(same).as_py() or not pc.all(known).as_py() or sizes is None or depth > sizes.shape[1]:
            return None
        rows, widths = sizes[:, 0].reshape(bodies, each), sizes[:, 1:].prod(axis=1).reshape(bodies, each)
        if (rows != rows[:, :1]).any() or (widths != widths[:1]).any():
            return None
        found = _flat(data, depth)
        if found is None or not (rows.min() >= 1 and rows.max() <= MOST_ROWS and widths.min() >= 1):
            return None
        values, borders = found
        if (np.diff(borders) != (rows * widths).ravel()).any():
            return None
        shapes = [Shape(*one) for one in zip(name[:each].to_pylist(), widths[0].tolist(), strict=True)]
        return cls(rows[:, 0], shapes, borders[:-1].reshape(bodies, each), values)

    def places(self, side: Side, wanted: Sequence[str], names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """In which tensor and column the wanted ones are. Raises BadInput."""
        return input_places(self.shapes, wanted, names) if side == "request" else output_places(self.shapes, wanted)

    def column(self, tensor: int, place: int) -> Any:
        """A column, the rows of all bodies one behind the other."""
        row = np.arange(int(self.rows.sum())) - np.repeat(np.cumsum(self.rows) - self.rows, self.rows)
        at = np.repeat(self.starts[:, tensor], self.rows) + row * self.shapes[tensor].width + place
        return self.data.take(pa.array(at))


def lengths(lists: Any) -> Integers:
    """How long each list is."""
    return np.diff(_offsets(lists))


def whole(column: Any) -> Any:
    """A column as one array."""
    return column.combine_chunks()


def kinds_of(values: Any) -> Iterator[type]:
    """Of which types values are that may be nested in lists."""
    if isinstance(values, list):
        for value in values:
            yield from kinds_of(value)
    else:
        yield type(values)


def _shapes(shape: Any) -> Integers | None:
    """Tensors x dimensions, where all have as many dimensions."""
    dimensions, sizes = lengths(shape), shape.flatten()
    if not dimensions.min() or dimensions.min() != dimensions.max() or sizes.null_count:
        return None
    found = sizes.to_numpy(zero_copy_only=False).reshape(len(dimensions), int(dimensions[0]))
    return None if (found < 0).any() or (found.prod(axis=1, dtype=np.float64) > _MOST_VALUES).any() else found


def _flat(data: Any, depth: int) -> tuple[Any, Integers] | None:
    """The values of lists that may be nested, and where each outermost list begins and ends."""
    borders, values = _offsets(data), data.flatten()
    for _ in range(depth - 1):
        if values.null_count:
            return None
        borders, values = _offsets(values)[borders], values.flatten()
    return values, borders


def _offsets(lists: Any) -> Integers:
    offsets: Integers = np.asarray(lists.offsets.to_numpy(), dtype=np.int64)
    begun: Integers = offsets - offsets[0]
    return begun
