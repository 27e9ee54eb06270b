"""The types of rule expressions: the event catalogue as protobuf descriptors, made at run time, and the CEL environments.

There are two environments. The *typed* one knows every event type as a message, so a misspelt field or a comparison of a
number with a text is an error at load, with its position. The *open* one evaluates: there an event is a plain map that
holds the present fields only. A field that is absent is then a missing key, which is an error in CEL wherever it is read,
also under `==`, `!=` and `in` (an unset wrapper would be null there, and `null == 0.1` is a plain false).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from cel_expr_python import cel
from google.protobuf import descriptor_pb2, descriptor_pool, struct_pb2, timestamp_pb2

from daemon.core.events import CATALOGUE
from daemon.core.fields import Field, Kind

_PROTO = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    Kind.STRING: _PROTO.TYPE_STRING,
    Kind.INT: _PROTO.TYPE_INT64,
    Kind.DOUBLE: _PROTO.TYPE_DOUBLE,
    Kind.BOOL: _PROTO.TYPE_BOOL,
    Kind.STRINGS: _PROTO.TYPE_STRING,
    Kind.INTS: _PROTO.TYPE_INT64,
}
_WELL_KNOWN = {Kind.TIME: ".google.protobuf.Timestamp", Kind.JSON: ".google.protobuf.Value"}
_PACKAGE = "driftd"

STREAK = (Field("start", Kind.TIME, "event time at which the streak that fired the rule began"),)
"""Fields of `streak`, which the expressions in a rule's steps may read besides `event`."""


def message_name(kind: str) -> str:
    """The message of an event type: `drift.measured` -> `driftd.DriftMeasured`."""
    return f"{_PACKAGE}.{_camel(kind)}"


@cache
def labels() -> Mapping[str, tuple[str, tuple[Field, ...]]]:
    """Message name -> how a person knows it (`event.window of drift.measured`), and its fields."""
    found: dict[str, tuple[str, tuple[Field, ...]]] = {f"{_PACKAGE}.Streak": ("streak", STREAK)}
    for kind in CATALOGUE.values():
        _label(found, message_name(kind.name), "event", kind.name, kind.fields)
    return found


@cache
def typed(kind: str, with_streak: bool) -> cel.Env:
    """The environment that type-checks expressions over an event type."""
    variables = {"event": cel.Type(message_name(kind))}
    if with_streak:
        variables["streak"] = cel.Type(f"{_PACKAGE}.Streak")
    return cel.NewEnv(_pool(kind), variables=variables)


@cache
def has_json(kind: str) -> bool:
    """Whether an event type has fields whose type only the event tells."""
    return any(field.kind is Kind.JSON for field in CATALOGUE[kind].fields)


@cache
def opened() -> cel.Env:
    """The environment that evaluates checked expressions over maps of present fields."""
    return cel.NewEnv(variables={"event": cel.Type.DYN, "streak": cel.Type.DYN})


@cache
def _pool(kind: str) -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for known in (timestamp_pb2, struct_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/struct.proto"])
    _fill(file.message_type.add(name=_camel(kind)), f".{message_name(kind)}", CATALOGUE[kind].fields)
    _fill(file.message_type.add(name="Streak"), f".{_PACKAGE}.Streak", STREAK)
    pool.Add(file)
    return pool


def _fill(message: descriptor_pb2.DescriptorProto, name: str, fields: tuple[Field, ...]) -> None:
    for number, field in enumerate(fields, start=1):
        made = message.field.add(name=field.name, number=number, label=_PROTO.LABEL_OPTIONAL)
        if field.kind in _SCALARS:
            made.type = _SCALARS[field.kind]
            if field.kind in {Kind.STRINGS, Kind.INTS}:
                made.label = _PROTO.LABEL_REPEATED
            continue
        made.type = _PROTO.TYPE_MESSAGE
        if field.kind in _WELL_KNOWN:
            made.type_name = _WELL_KNOWN[field.kind]
            continue
        inner = f"{name}.{_camel(field.name)}"
        if field.fields:
            _fill(message.nested_type.add(name=_camel(field.name)), inner, field.fields)
        made.type_name = inner
        if field.kind in {Kind.RECORDS, Kind.TEXTS}:
            made.label = _PROTO.LABEL_REPEATED
            made.type_name = f"{inner}Entry"
            _map_entry(message, f"{_camel(field.name)}Entry", inner if field.kind is Kind.RECORDS else "")


def _map_entry(message: descriptor_pb2.DescriptorProto, name: str, value: str) -> None:
    """A map field is a repeated message of keys and values; `value` is its message type, empty for strings."""
    entry = message.nested_type.add(name=name)
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=_PROTO.LABEL_OPTIONAL, type=_PROTO.TYPE_STRING)
    made = entry.field.add(name="value", number=2, label=_PROTO.LABEL_OPTIONAL, type=_PROTO.TYPE_STRING)
    if value:
        made.type, made.type_name = _PROTO.TYPE_MESSAGE, value


def _label(
    found: dict[str, tuple[str, tuple[Field, ...]]], name: str, path: str, kind: str, fields: tuple[Field, ...]
) -> None:
    found[name] = (f"{path} of {kind}", fields)
    for field in fields:
        if field.fields:
            inside = f"{path}.{field.name}" + ("[...]" if field.kind is Kind.RECORDS else "")
            _label(found, f"{name}.{_camel(field.name)}", inside, kind, field.fields)


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.replace(".", "_").split("_"))
