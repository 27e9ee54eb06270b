"""An event's data as expressions read it: only what is present, each value of the kind that the catalogue declares.

Null, NaN and infinities count as absent, at any depth; so does an empty map of measurements (`columns`, `arms`), because
then nothing was measured, and a JSON list with such a hole. Numbers inside JSON are doubles, as JSON has no others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from daemon.core.errors import BadInput
from daemon.core.events import CATALOGUE, Event, utc
from daemon.core.fields import Field, Kind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INT64 = 2**63
_DEEPEST = 100
_Convert = Callable[[Any], Any]
"""A value to what CEL takes; None when it counts as absent; raises _Malformed when it has the wrong type."""


@dataclass(frozen=True, slots=True)
class Activation:
    """One event, ready for any number of expressions."""

    kind: str
    data: Mapping[str, Any]
    """The present fields, converted."""
    raw: Mapping[str, Any]
    """The event's data as it came, for reasons and explanations."""


class _Malformed(Exception):
    """A value has the wrong type; `path` grows on the way out."""

    def __init__(self, why: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(why)
        self.why = why
        self.path = path


def activation(event: Event, only: frozenset[str] | None = None) -> Activation:
    """What expressions may read of `event`. Raises BadInput that names the field when the data does not fit its type.

    With `only`, these fields: what nobody reads need not be converted, and what is wrong with it harms nobody.
    An event of a type that the catalogue does not have has no fields.
    """
    kind = event.type
    data = event.data
    try:
        return Activation(kind, _converter(kind, only)(data), data)
    except _Malformed as wrong:
        where = ".".join(wrong.path)
        raise BadInput(f"{kind} from {event.source}: field {where} is {wrong.why}") from None


def timestamp(moment: str | datetime) -> Timestamp:
    """A moment as CEL takes it, exact to the microsecond."""
    if isinstance(moment, str):
        moment = utc(moment)
    elif moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * 86400 + since.seconds, nanos=since.microseconds * 1000)


@lru_cache(maxsize=4096)
def _converter(kind: str, only: frozenset[str] | None) -> _Convert:
    known = CATALOGUE.get(kind)
    fields = known.fields if known else ()
    return _record(fields if only is None else tuple(field for field in fields if field.name in only))


def _record(fields: tuple[Field, ...]) -> _Convert:
    pairs = tuple((field.name, _field(field)) for field in fields)

    def convert(value: Any) -> dict[str, Any]:
        if value.__class__ is not dict and not isinstance(value, Mapping):
            raise _wrong("a record", value)
        present: dict[str, Any] = {}
        get = value.get
        name = ""
        try:
            for name, converted in pairs:
                item = get(name)
                if item is not None and (item := converted(item)) is not None:
                    present[name] = item
        except _Malformed as wrong:
            raise _Malformed(wrong.why, (name, *wrong.path)) from None
        return present

    return convert


def _records(fields: tuple[Field, ...]) -> _Convert:
    record = _record(fields)

    def convert(value: Any) -> dict[str, Any] | None:
        if not isinstance(value, Mapping):
            raise _wrong("a map of records", value)
        present: dict[str, Any] = {}
        for key, item in value.items():
            if item is None:
                continue
            try:
                present[_text(key)] = record(item)
            except _Malformed as wrong:
                raise _Malformed(wrong.why, (str(key), *wrong.path)) from None
        return present or None

    return convert


def _field(field: Field) -> _Convert:
    if field.kind is Kind.RECORD:
        return _record(field.fields)
    if field.kind is Kind.RECORDS:
        return _records(field.fields)
    return _CONVERT[field.kind]


def _wrong(wanted: str, value: Any) -> _Malformed:
    shown = repr(value)
    return _Malformed(f"{shown[:80]}{'…' if len(shown) > 80 else ''}, not {wanted}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong("a text", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _wrong("a text of whole characters", ascii(value)) from None
    return value


def _int(value: Any) -> int:
    if value.__class__ is not int:
        raise _wrong("a whole number", value)
    if not -_INT64 <= value < _INT64:
        raise _wrong("a whole number of 64 bits", value)
    return value


def _double(value: Any) -> float | None:
    if value.__class__ is int:
        return _float(value)
    if not isinstance(value, float):
        raise _wrong("a number", value)
    return float(value) if math.isfinite(value) else None


def _float(value: int) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _bool(value: Any) -> bool:
    if value is True or value is False:
        return value
    raise _wrong("true or false", value)


def _time(value: Any) -> Timestamp:
    if not isinstance(value, str | datetime):
        raise _wrong("a time", value)
    try:
        return timestamp(value)
    except ValueError:
        raise _wrong("an ISO 8601 time", value) from None


def _list(of: _Convert, wanted: str) -> _Convert:
    def convert(value: Any) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise _wrong(wanted, value)
        return [of(item) for item in value]

    return convert


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise _wrong("a map of texts", value)
    return {_text(key): _text(item) for key, item in value.items() if item is not None}


def _json(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _float(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth > _DEEPEST:
        raise _wrong(f"nested at most {_DEEPEST} levels deep", "...")
    if isinstance(value, Mapping):
        pairs = ((_text(key), _json(item, depth + 1)) for key, item in value.items())
        return {key: item for key, item in pairs if item is not None}
    if isinstance(value, list | tuple):
        items = [_json(item, depth + 1) for item in value]
        return None if any(item is None for item in items) else items
    raise _wrong("JSON", value)


_CONVERT: Mapping[Kind, _Convert] = {
    Kind.STRING: _text,
    Kind.INT: _int,
    Kind.DOUBLE: _double,
    Kind.BOOL: _bool,
    Kind.TIME: _time,
    Kind.STRINGS: _list(_text, "a list of texts"),
    Kind.INTS: _list(_int, "a list of whole numbers"),
    Kind.TEXTS: _texts,
    Kind.JSON: _json,
}
