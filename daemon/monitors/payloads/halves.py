"""One event of the payload logger -> half a prediction: the request with its inputs, or the response with its outputs.

What is not asked for is not kept, and privacy is applied at once: a half may have to be stored until the other one comes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import orjson

from daemon.core.errors import BadInput
from daemon.monitors.payloads.places import CELL, Decoded, Place
from daemon.monitors.payloads.tensors import Table, inputs, outputs
from daemon.monitors.plan import StreamPlan
from daemon.monitors.privacy import protect
from daemon.monitors.values import moment
from daemon.payloadparts import MODEL, is_prediction
from daemon.sources.envelopes import Envelope

Side = Literal["request", "response"]
TYPES: Mapping[str, Side] = {f"org.kubeflow.serving.inference.{side}": side for side in ("request", "response")}
ID, TIME, ATTRIBUTE = "id", "time", "ce."
"""What a row's id (`CE-ID/ROW`), its time (the response's), and its event's attributes (`ce.endpoint`) are called."""
_WHO = ("id", "inferenceservicename", "namespace", "component", "endpoint")
"""What both events of a call have in common."""
_MAPS = ("metadata", "annotations")
_KEY_BYTES = 16
_LEAST = 200
"""What a half without any values is taken to need (bytes)."""


@dataclass(frozen=True, slots=True)
class Half:
    """A request or a response."""

    side: Side
    key: bytes
    """The same for both halves of a call."""
    at: int
    """ce-time, µs since 1970."""
    rows: int
    columns: Mapping[str, list[Any]]
    """Those that the stream wants, each with as many values as there are rows; privacy is applied."""
    fault: str = ""
    """Why it cannot be used; then it has no rows."""
    is_empty: bool = False
    """It has no body: a look at the model's metadata or health, and no prediction."""
    size: int = _LEAST
    """About how many bytes it needs."""
    decoded: Decoded | None = None
    """Its columns, where its body was decoded with others; `columns` is empty then, and it is not stored so."""

    def to_json(self) -> list[Any]:
        """For the store."""
        return [self.side, self.key.hex(), self.at, self.rows, dict(self.columns), self.fault, self.is_empty, self.size]

    @classmethod
    def of(cls, stored: list[Any]) -> Self:
        """From the store."""
        side, key, *rest = stored
        return cls(side, bytes.fromhex(key), *rest)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a stream wants of the events."""

    plan: StreamPlan
    inputs: tuple[str, ...] = field(init=False)
    outputs: tuple[str, ...] = field(init=False)
    attributes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = self.plan.columns
        outs = tuple(name for name in names if is_output(name))
        attributes = tuple(name for name in names if name.startswith(ATTRIBUTE))
        object.__setattr__(self, "outputs", outs)
        object.__setattr__(self, "attributes", attributes)
        object.__setattr__(self, "inputs", tuple(name for name in names if name not in {*outs, *attributes, ID, TIME}))


def is_output(name: str) -> bool:
    """A field of this name comes from the response."""
    return is_prediction(name) or name in MODEL


def half_of(envelope: Envelope, wanted: Wanted, place: Place | None = None) -> Half | None:
    """The half that an event is; None when it is of a component that is not looked at. Raises BadInput when it is none.

    `place`: where the rows of its body are, if that was decoded with others; they are what they would be without.
    """
    told = envelope.attributes
    side = TYPES.get(told.get("type", ""))
    if side is None:
        raise BadInput(f"the event's type is {told.get('type', '')[:100]!r}, which the payload logger does not send")
    if not told.get("id"):
        raise BadInput("the event has no id")
    at = moment(told.get("time"))
    if at is None:
        raise BadInput("the event has no time")
    component = told.get("component", "")
    if component and component != wanted.plan.component:
        return None
    key = _key(told)
    if envelope.is_empty:
        return Half(side, key, at, 0, {}, "" if side == "request" else "the body is empty", is_empty=True)
    if place is not None:
        decoded = _decoded(side, told, wanted, place)
        return Half(side, key, at, place.rows, {}, size=_LEAST + decoded.size, decoded=decoded)
    try:
        table = _table(side, _content(envelope), wanted)
    except BadInput as error:
        return Half(side, key, at, 0, {}, str(error))
    columns: dict[str, list[Any]] = table.columns
    if side == "request":
        columns = {**columns, **_repeated(told, table.rows, wanted)}
    columns = protect(columns, wanted.plan)
    return Half(side, key, at, table.rows, columns, size=_size(columns))


def _content(envelope: Envelope) -> Any:
    try:
        return envelope.content()
    except BadInput as error:
        kind = envelope.attributes.get("datacontenttype", "").partition(";")[0].strip().lower()
        if kind == "application/octet-stream" or _is_mixed(envelope.data or b""):
            raise BadInput(
                "the body is binary (gRPC, or V2 with the binary data extension), not JSON; have tensors sent and answered "
                "as JSON"
            ) from None
        raise BadInput(str(error)) from None


def _is_mixed(body: bytes) -> bool:
    """JSON with something behind it that is no text, as tensors in binary are."""
    return b"binary_data_size" in body


def _table(side: Side, body: Any, wanted: Wanted) -> Table:
    if side == "request":
        return inputs(body, wanted.inputs, wanted.plan.inputs)
    return outputs(body, wanted.outputs)


def _repeated(told: Mapping[str, str], rows: int, wanted: Wanted) -> dict[str, list[Any]]:
    """Ids, and the attributes that are wanted, for each row."""
    columns: dict[str, list[Any]] = {}
    if wanted.plan.fields.id == ID:
        columns[ID] = [f"{told['id']}/{row}" for row in range(rows)]
    for name in wanted.attributes:
        columns[name] = [_attribute(told, name.removeprefix(ATTRIBUTE))] * rows
    return columns


def _decoded(side: Side, told: Mapping[str, str], wanted: Wanted, place: Place) -> Decoded:
    if side == "response":
        return Decoded(place)
    said = {
        name: _attribute(told, name.removeprefix(ATTRIBUTE))
        for name in wanted.attributes
        if wanted.plan.privacy.get(name) != "drop"
    }
    return Decoded(place, told["id"] if wanted.plan.fields.id == ID else "", said)


def _attribute(told: Mapping[str, str], name: str) -> str | None:
    """An attribute, or one of the request's headers or annotations that the logger was told to send."""
    where, dot, inner = name.partition(".")
    if not dot or where not in _MAPS:
        return told.get(name) or None
    try:
        values = orjson.loads(told.get(where) or b"{}")
    except orjson.JSONDecodeError:
        return None
    found = values if isinstance(values, dict) else {}
    value = next((value for key, value in found.items() if str(key).lower() == inner.lower()), None)
    if isinstance(value, list):  # headers may come several times
        value = value[0] if value else None
    return value if isinstance(value, str) and value else None


def _key(told: Mapping[str, str]) -> bytes:
    parts = orjson.dumps([told.get(name, "") for name in _WHO])
    return hashlib.blake2b(parts, digest_size=_KEY_BYTES).digest()


def _size(columns: Mapping[str, list[Any]]) -> int:
    size = _LEAST
    for name, values in columns.items():
        size += len(name) + CELL * len(values)
        if values and isinstance(values[0], str):
            size += sum(len(value) for value in values if isinstance(value, str))
        elif values and isinstance(values[0], list | dict):
            size += len(orjson.dumps(values))
    return size
