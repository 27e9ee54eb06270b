"""The catalogue as a check of data that comes from outside, and as JSON Schema for those who send it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from daemon.core.events import CATALOGUE, utc
from daemon.core.fields import Field, Kind
from daemon.core.spelling import did_you_mean

_MAX_INT = 2**63
MOST_MISTAKES = 20

_SCHEMAS: Mapping[Kind, Mapping[str, Any]] = {
    Kind.STRING: {"type": "string"},
    Kind.INT: {"type": "integer"},
    Kind.DOUBLE: {"type": "number"},
    Kind.BOOL: {"type": "boolean"},
    Kind.TIME: {"type": "string", "format": "date-time"},
    Kind.STRINGS: {"type": "array", "items": {"type": "string"}},
    Kind.INTS: {"type": "array", "items": {"type": "integer"}},
    Kind.TEXTS: {"type": "object", "additionalProperties": {"type": "string"}},
    Kind.JSON: {},
}
_WANTED: Mapping[Kind, str] = {
    Kind.STRING: "a string",
    Kind.INT: "a whole number of 64 bits",
    Kind.DOUBLE: "a finite number",
    Kind.BOOL: "true or false",
    Kind.TIME: "a time in ISO 8601",
    Kind.STRINGS: "a list of strings",
    Kind.INTS: "a list of whole numbers",
    Kind.TEXTS: "an object of strings",
    Kind.RECORD: "an object",
    Kind.RECORDS: "an object of objects",
}


def check_data(kind: str, data: Any) -> list[str]:
    """What is wrong with `data` as the data of an event of type `kind`, as sentences (at most MOST_MISTAKES).

    Fields that the catalogue does not know are mistakes; null counts as absent.
    """
    if kind not in CATALOGUE:
        return [f"there is no event type {kind}"]
    if not isinstance(data, Mapping):
        return ["data must be an object"]
    mistakes = _check_record(CATALOGUE[kind].fields, data, "")
    return [mistake for mistake, _ in zip(mistakes, range(MOST_MISTAKES), strict=False)]


def json_schema(kind: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of the data of an event type; KeyError when there is no such type."""
    described = CATALOGUE[kind]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind,
        "description": described.doc,
        **_record_schema(described.fields),
    }


def _check_record(fields: tuple[Field, ...], data: Mapping[str, Any], path: str) -> Iterator[str]:
    known = {field.name: field for field in fields}
    for name in data:
        if name not in known:
            yield f"unknown field {path}{name}{did_you_mean(str(name), known)}"
    for field in fields:
        value = data.get(field.name)
        if value is not None:
            yield from _check_value(field, value, path + field.name)
        elif field.required:
            yield f"{path}{field.name} is missing"


def _check_value(field: Field, value: Any, path: str) -> Iterator[str]:
    if not _fits(field.kind, value):
        yield f"{path} must be {_WANTED[field.kind]}"
    elif field.kind is Kind.RECORD:
        yield from _check_record(field.fields, value, f"{path}.")
    elif field.kind is Kind.RECORDS:
        for name, item in value.items():
            yield from _check_record(field.fields, item, f"{path}.{name}.")


def _fits(kind: Kind, value: Any) -> bool:
    match kind:
        case Kind.STRING:
            return isinstance(value, str)
        case Kind.BOOL:
            return isinstance(value, bool)
        case Kind.INT:
            return _is_int(value)
        case Kind.DOUBLE:
            return _is_int(value) or (isinstance(value, float) and math.isfinite(value))
        case Kind.TIME:
            return _is_time(value)
        case Kind.STRINGS:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case Kind.INTS:
            return isinstance(value, list) and all(_is_int(item) for item in value)
        case Kind.TEXTS:
            return isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values())
        case Kind.RECORD:
            return isinstance(value, Mapping)
        case Kind.RECORDS:
            return isinstance(value, Mapping) and all(isinstance(item, Mapping) for item in value.values())
        case Kind.JSON:
            return True


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_MAX_INT <= value < _MAX_INT


def _is_time(value: Any) -> bool:
    try:
        utc(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _record_schema(fields: tuple[Field, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {field.name: _field_schema(field) for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }


def _field_schema(field: Field) -> dict[str, Any]:
    if field.kind is Kind.RECORD:
        schema = _record_schema(field.fields)
    elif field.kind is Kind.RECORDS:
        schema = {"type": "object", "additionalProperties": _record_schema(field.fields)}
    else:
        schema = dict(_SCHEMAS[field.kind])
    if not field.required and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    return {**schema, "description": field.doc}
