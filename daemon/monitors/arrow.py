"""Arrow arrays -> columns and times, without a Python object per value. What is not plain is left to `values`.

The result is the same as by way of Python values, so that it does not matter which way a batch has gone.
pyarrow is not imported until an array is there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from daemon.core.columns import Column, FeatureKind, Floats, Integers, category_text, coded

NO_TIME = -(2**63)
"""Stands for a time that is not there."""
_EXACT = 2.0**53
"""From here on a float may stand for another integer than was written."""


def is_arrow(raw: Any) -> bool:
    """A raw column is an arrow array (else it is a list)."""
    return hasattr(raw, "to_pylist")


def arrow_column(kind: FeatureKind, raw: Any) -> Column | None:
    """The column of an array of plain values; None for those that must be looked at one by one."""
    array = _whole(raw)
    name = str(array.type)
    if kind == "number":
        if not name.startswith(("int", "uint", "float", "double", "halffloat")):
            return None
        values = floats(array)
        infinite = np.isinf(values)
        if infinite.any():
            values[infinite] = np.nan
        return Column("number", values, infinite)
    if name == "null":
        return coded(np.full(len(array), -1, np.int32), ())
    if not name.startswith(("string", "large_string", "int", "uint", "double", "bool")):
        return None
    numbers, levels = _dictionary(array)
    if name == "double" and any(level is not None and abs(level) >= _EXACT for level in levels):
        return None
    return coded(numbers, [category_text(level) for level in levels])


def floats(array: Any) -> Floats:
    """An array of numbers as float64, NaN where there is none; the caller may change it."""
    values = np.asarray(_whole(array).to_numpy(zero_copy_only=False), dtype=np.float64)
    return values if values.flags.writeable else values.copy()


def arrow_moments(raw: Any) -> Integers | None:
    """Times as µs since 1970, NO_TIME where there is none; None for those that must be looked at one by one."""
    array = _whole(raw)
    name = str(array.type)
    if name.startswith("string"):
        import pyarrow as pa  # noqa: PLC0415 - it is there: the array is its

        for kind in (pa.timestamp("us", tz="UTC"), pa.timestamp("us")):
            try:
                return _micros(array.cast(kind), pa)
            except pa.ArrowInvalid:
                continue
        return None
    if name.startswith("timestamp[us"):
        import pyarrow as pa  # noqa: PLC0415 - see above

        return _micros(array, pa)
    if name == "int64":
        return _epochs(array)
    return _float_epochs(array) if name == "double" else None


def arrow_texts(raw: Any) -> list[str | None] | None:
    """Ids or names as a list of texts; None for those that must be looked at one by one."""
    array = _whole(raw)
    return array.to_pylist() if str(array.type).startswith(("string", "large_string")) else None


def _whole(raw: Any) -> Any:
    return raw.combine_chunks() if hasattr(raw, "combine_chunks") else raw


def _dictionary(array: Any) -> tuple[Integers, list[Any]]:
    encoded = array.dictionary_encode()
    numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return numbers, encoded.dictionary.to_pylist()


def _micros(array: Any, pa: Any) -> Integers:
    return np.asarray(array.cast(pa.int64()).fill_null(NO_TIME).to_numpy(zero_copy_only=False), dtype=np.int64)


def _epochs(array: Any) -> Integers | None:
    """Whole numbers since 1970 that are all of one magnitude: seconds, ms, µs or ns."""
    values = array.fill_null(0).to_numpy(zero_copy_only=False)
    known = values[values != 0]
    for least, most, times, part in _MAGNITUDES:
        if len(known) and known.min() >= least and known.max() < most:
            found = values * times // part
            return np.where(array.is_null().to_numpy(zero_copy_only=False), NO_TIME, found).astype(np.int64)
    return None


def _float_epochs(array: Any) -> Integers | None:
    """Seconds since 1970 with a fraction; None when some are of another magnitude."""
    values = floats(array)
    known = np.isfinite(values)
    if (np.abs(values[known]) >= 1e11).any():
        return None
    found = np.full(len(values), NO_TIME, dtype=np.int64)
    found[known] = np.rint(values[known] * 1e6).astype(np.int64)
    return np.where(found < _FIRST, NO_TIME, found)


_FIRST = -62_135_596_800_000_000
"""The year 1, in µs since 1970."""
_MAGNITUDES = (
    (1, 10**11, 1_000_000, 1),
    (10**11, 10**14, 1000, 1),
    (10**14, 10**17, 1, 1),
    (10**17, 9 * 10**18, 1, 1000),
)
"""As in `values.moment`: from, below, and what a value is multiplied with and divided by."""
