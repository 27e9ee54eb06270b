"""CloudEvents 1.0 over HTTP or in Kafka records -> Event: pure functions.

An event type of driftd's own that may be told from outside (OUTSIDE) is taken as that event when its data is as the
catalogue says. Everything else is `webhook.received` or `message.received`, with the sender's type and data inside: a sender cannot
speak for the daemon, its operators or the registry.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

import orjson

from daemon.core.canonical import content_id
from daemon.core.errors import BadInput
from daemon.core.events import Event, utc
from daemon.core.schema import check_data

OUTSIDE: Mapping[str, str] = {
    "data.landed": "source",
    "drift.measured": "model",
    "performance.measured": "model",
    "quality.measured": "model",
    "source.stalled": "source",
}
"""Types that may come from outside, each with the field of its data that is its subject. Not among them: what the
daemon decides (`run.finished`, `timer.due`, …), what operators say (`control.changed`), what the registry's own poll
finds (`model.registered` names its author), and what a canary is judged by (`traffic.measured`)."""
MOST_EVENTS = 1000
"""Most events in one batch."""
_LONGEST = 1024
_STRUCTURED = "application/cloudevents+json"
_BATCH = "application/cloudevents-batch+json"


class Unsupported(BadInput):
    """The request holds a kind of content that is not understood."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """The attributes that are used, and the data."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime | None
    data: Any


def read_request(headers: Mapping[str, str], body: bytes) -> tuple[CloudEvent, ...]:
    """The events of a request in structured, batched or binary mode; header names in lower case.

    Raises Unsupported for content that is not understood and BadInput for content that is malformed.
    """
    kind, _, parameters = headers.get("content-type", "").lower().partition(";")
    kind = kind.strip()
    if "charset" in parameters and "utf-8" not in parameters:
        raise Unsupported("the content must be UTF-8")
    if kind == _STRUCTURED:
        return (_structured(_json(body)),)
    if kind == _BATCH:
        return _batch(_json(body))
    if "ce-specversion" not in headers:
        raise Unsupported(f"send {_STRUCTURED}, {_BATCH}, or application/json with ce- headers")
    return (_binary(headers, kind, body),)


def read_record(headers: Sequence[tuple[str, bytes | None]], value: bytes | None) -> CloudEvent | None:
    """The event of a record in structured or binary mode (CloudEvents' Kafka protocol binding); None for a tombstone.

    A record without any header is taken for structured JSON. Raises Unsupported and BadInput as `read_request` does.
    """
    texts = _header_texts(headers)
    if not any(name.startswith("ce_") for name in texts):
        kind = texts.get("content-type", _STRUCTURED).lower().partition(";")[0].strip()
        if value is None:
            return None
        if kind not in {_STRUCTURED, "application/json"}:
            raise Unsupported(f"the record is {kind}; send {_STRUCTURED}, or application/json with ce_ headers")
        return _structured(_json(value))
    kind = texts.get("content-type", "application/json").lower().partition(";")[0].strip()
    if value and not _is_json(kind):
        raise Unsupported(f"the data is {kind}; send it as application/json")
    attributes = {name[3:]: text for name, text in texts.items() if name.startswith("ce_")}
    return _event(attributes, _json(value) if value else None)


def event_of(hook: str, told: CloudEvent, now: datetime) -> Event:
    """The event of a CloudEvent that the hook of this name took; BadInput when its data is not as the catalogue says."""
    place = f"webhook:{hook}"
    if told.type in OUTSIDE:
        return _catalogued(place, told, now)
    data = {"hook": hook, "type": told.type, "sender": told.source, "payload": told.data}
    return Event(_number(told), place, "webhook.received", told.subject or hook, told.time or now, data)


def message_of(name: str, topic: str, told: CloudEvent, now: datetime) -> Event:
    """The event of a CloudEvent that came on a topic of the source `name`; BadInput as in `event_of`."""
    place = f"kafka:{name}"
    if told.type in OUTSIDE:
        return _catalogued(place, told, now)
    data = {"source": name, "topic": topic, "type": told.type, "sender": told.source, "payload": told.data}
    return Event(_number(told), place, "message.received", told.subject or name, told.time or now, data)


def _catalogued(place: str, told: CloudEvent, now: datetime) -> Event:
    mistakes = check_data(told.type, told.data)
    if mistakes:
        raise BadInput(f"data of {told.type}: {'; '.join(mistakes)}")
    return Event(_number(told), place, told.type, told.data[OUTSIDE[told.type]], told.time or now, told.data)


def _number(told: CloudEvent) -> str:
    """An id made of the sender's source and id, which CloudEvents promises to be unique together."""
    return content_id("cloudevent", told.source, told.id)


def _header_texts(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    """The headers that can matter, names in lower case; the last of a name counts."""
    texts: dict[str, str] = {}
    for name, raw in headers:
        name = name.lower()  # noqa: PLW2901 - nobody needs the other spelling
        if name != "content-type" and not name.startswith("ce_"):
            continue
        try:
            texts[name] = (raw or b"").decode()
        except UnicodeDecodeError:
            raise BadInput(f"header {name} is not UTF-8") from None
    return texts


def _batch(told: Any) -> tuple[CloudEvent, ...]:
    if not isinstance(told, list):
        raise BadInput("a batch must be a list of events")
    if len(told) > MOST_EVENTS:
        raise BadInput(f"a batch may hold {MOST_EVENTS} events; this one has {len(told)}")
    return tuple(_structured(item) for item in told)


def _structured(told: Any) -> CloudEvent:
    if not isinstance(told, Mapping):
        raise BadInput("an event must be an object")
    data = told.get("data")
    if "data_base64" in told:
        if data is not None:
            raise BadInput("an event has either data or data_base64")
        data = _from_base64(told)
    return _event(told, data)


def _binary(headers: Mapping[str, str], kind: str, body: bytes) -> CloudEvent:
    try:
        attributes = {
            name[3:]: unquote(value, errors="strict") for name, value in headers.items() if name.startswith("ce-")
        }
    except UnicodeDecodeError:
        raise BadInput("a ce- header is not percent-encoded UTF-8") from None
    if body and not _is_json(kind):
        raise Unsupported("the data must be JSON; send it as application/json")
    return _event(attributes, _json(body) if body else None)


def _event(attributes: Mapping[str, Any], data: Any) -> CloudEvent:
    if attributes.get("specversion") != "1.0":
        raise BadInput('specversion must be "1.0"')
    named = {name: _text(attributes, name) for name in ("id", "source", "type")}
    for name, value in named.items():
        if not value:
            raise BadInput(f"the event has no {name}")
    time = _text(attributes, "time")
    try:
        when = utc(time) if time else None
    except (ValueError, OverflowError):
        raise BadInput("time must be a time in ISO 8601") from None
    return CloudEvent(**named, subject=_text(attributes, "subject"), time=when, data=data)


def _text(attributes: Mapping[str, Any], name: str) -> str:
    value = attributes.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise BadInput(f"{name} must be a string of at most {_LONGEST} characters")
    return value


def _from_base64(told: Mapping[str, Any]) -> Any:
    if not _is_json(str(told.get("datacontenttype") or "application/json").partition(";")[0].strip().lower()):
        raise Unsupported("the data must be JSON")
    try:
        return _json(base64.b64decode(str(told["data_base64"]), validate=True))
    except ValueError:
        raise BadInput("data_base64 is not base64") from None


def _is_json(kind: str) -> bool:
    return kind in {"application/json", "text/json"} or kind.endswith("+json")


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the content is not JSON: {error}") from None
