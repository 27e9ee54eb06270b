"""What an event type is made of: fields with their kinds, units and meanings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """The kinds of field value, each with the CEL type it has in a condition."""

    STRING = "string"
    INT = "int"
    DOUBLE = "double"
    BOOL = "bool"
    TIME = "timestamp"
    STRINGS = "list(string)"
    INTS = "list(int)"
    TEXTS = "map(string, string)"
    JSON = "dyn"
    RECORD = "message"
    RECORDS = "map(string, message)"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event type."""

    name: str
    kind: Kind
    doc: str
    """Meaning, with its unit."""
    required: bool = False
    fields: tuple[Field, ...] = ()
    """The fields of a RECORD, or of each value of RECORDS."""


@dataclass(frozen=True, slots=True)
class EventType:
    """One type of event."""

    name: str
    doc: str
    fields: tuple[Field, ...]
    lasting: bool = False
    """It tells how things stand, so two in a row may tell of one thing: a rule fires once per episode. Any other type
    tells that something happened, and each event counts by itself."""


def text(name: str, doc: str, required: bool = False) -> Field:
    """A text."""
    return Field(name, Kind.STRING, doc, required)


def whole(name: str, doc: str, required: bool = False) -> Field:
    """A whole number."""
    return Field(name, Kind.INT, doc, required)


def number(name: str, doc: str) -> Field:
    """A number."""
    return Field(name, Kind.DOUBLE, doc)


def flag(name: str, doc: str) -> Field:
    """True or false."""
    return Field(name, Kind.BOOL, doc)


def moment(name: str, doc: str, required: bool = False) -> Field:
    """A time."""
    return Field(name, Kind.TIME, doc, required)
