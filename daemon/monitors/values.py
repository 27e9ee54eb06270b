"""Times, classes and formats' own ways: what lies between a file's raw values and `core.columns`.

A raw column is a list of Python values, or a pyarrow array (told apart by duck typing: pyarrow is not imported here).
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from daemon.core.columns import Bools, Column, FeatureKind, Integers, coded, column
from daemon.monitors.arrow import NO_TIME, arrow_column, arrow_moments, arrow_texts, is_arrow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999, in microseconds since 1970."""
_WHOLE = re.compile(r"-?\d+\.0")
_NO_NUMBER = frozenset({"", "na", "n/a", "nan", "null", "none"})
"""How CSV writers spell a number that is not there."""
_CLASSES = {"True": "1", "False": "0", "true": "1", "false": "0"}


def typed(kind: FeatureKind, raw: Any, text: bool) -> Column:
    """A raw column of any format as a column of the kind; `text`: its format knows nothing but text (CSV)."""
    if is_arrow(raw):
        made = arrow_column(kind, raw)
        if made is not None:
            return made
    values = plain(raw, kind == "number")
    if text and kind == "category":
        # pandas writes whole numbers of a column with gaps as 1.0; JSON and Parquet bring them as numbers.
        table = {value: _whole(value) for value in set(values)}
        values = [table[value] for value in values]
    elif text:
        values = [None if value.strip().lower() in _NO_NUMBER else value for value in values]
    return column(kind, values)


def classes(raw: Any, text: bool) -> Column:
    """A raw column of predicted or true classes; booleans, also written out, are the classes `1` and `0`."""
    result = typed("category", raw, text)
    if result.coded is not None:
        return coded(result.coded.codes, [_CLASSES.get(name, name) for name in result.coded.levels])
    for name, digit in _CLASSES.items():
        result.values[result.values == name] = digit
    return result


def plain(raw: Any, number: bool = False) -> Any:
    """A raw column as a list of Python values, or (`number`) an arrow array of floats or integers as float64."""
    if not is_arrow(raw):
        return raw
    if number and str(raw.type).startswith(("int", "uint", "float", "double", "half")):
        return np.asarray(raw.to_numpy(), dtype=np.float64)
    values = raw.to_pylist()
    if str(raw.type).startswith("decimal"):
        return [float(value) if isinstance(value, Decimal) else None for value in values]
    return values


def names(raw: Any) -> list[str | None]:
    """A raw column of ids, units or versions as text; None where there is none or it is no scalar."""
    found = arrow_texts(raw) if is_arrow(raw) else None
    if found is not None:
        return [name or None for name in found] if "" in found else found
    return [_name(value) for value in plain(raw)]


def named(raw: Any) -> Column:
    """A raw column of versions or models as categories, spelt as `names` spells them."""
    array = arrow_column("category", raw) if is_arrow(raw) and str(raw.type).startswith("string") else None
    if array is not None:
        return array
    found = names(raw)
    levels = list(dict.fromkeys(found))
    index = {name: number for number, name in enumerate(levels)}
    return coded(np.fromiter((index[name] for name in found), np.int64, len(found)), levels)


def moments(raw: Any) -> Integers:
    """A raw column of times as microseconds since 1970 UTC; NO_TIME where there is no time."""
    found = arrow_moments(raw) if is_arrow(raw) else None
    if found is not None:
        return found
    values = (moment(value) for value in plain(raw))
    return np.array([NO_TIME if value is None else value for value in values], dtype=np.int64)


def moment(value: Any) -> int | None:
    """A time (ISO 8601; seconds, ms, µs or ns since 1970 by magnitude) in µs since 1970; without a zone it is UTC."""
    match value:
        case bool():
            return None
        case datetime():
            return _micros(value)
        case date():
            return _micros(datetime(value.year, value.month, value.day, tzinfo=UTC))
        case int() | float():
            return _epoch(value)
        case str():
            return _written(value.strip())
        case _:
            return None


def instant(micros: int) -> datetime:
    """Microseconds since 1970 as an aware UTC time."""
    return datetime.fromtimestamp(micros // 1_000_000, UTC).replace(microsecond=micros % 1_000_000)


def micros(value: datetime) -> int:
    """An aware time as microseconds since 1970."""
    return _micros(value)


def flags(raw: Any) -> Bools:
    """A raw column of errors: set means failed. Empty, null, false, 0 and their spellings are not set."""
    if is_arrow(raw) and raw.null_count == len(raw):
        return np.zeros(len(raw), np.bool_)
    return np.array([_is_set(value) for value in plain(raw)], dtype=np.bool_)


def _is_set(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() not in {"", "false", "0", "none", "null", "no"}
    return bool(value) and not (isinstance(value, float) and math.isnan(value))


def _name(value: Any) -> str | None:
    match value:
        case None | "":
            return None
        case str():
            return value
        case bool():
            return str(value)
        case float():
            if math.isnan(value):
                return None
            return str(int(value)) if value.is_integer() else str(value)
        case list() | dict():
            return None
        case _:
            return str(value)


def _whole(text: str) -> str:
    return text[:-2] if _WHOLE.fullmatch(text) else text


def _written(text: str) -> int | None:
    try:
        return _micros(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        pass
    try:
        return _epoch(float(text))
    except ValueError:
        return None


def _micros(value: datetime) -> int:
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    passed = aware - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def _epoch(value: float) -> int | None:
    """Seconds up to 1e11 (the year 5138), then ms, µs, ns, each by its magnitude; whole numbers stay exact."""
    if not math.isfinite(value):
        return None
    size = abs(value)
    if isinstance(value, int) and size >= 1e11:
        result = value * 1000 if size < 1e14 else value if size < 1e17 else value // 1000
    else:
        result = round(value * (1e6 if size < 1e11 else 1e3 if size < 1e14 else 1.0 if size < 1e17 else 1e-3))
    return result if _FIRST <= result <= _LAST else None
