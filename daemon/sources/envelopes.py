"""CloudEvents with their data as it came: from HTTP or Kafka to one line of JSON (structured mode), and back.

The data stays bytes (`data_base64`), because not everything that is sent with a CloudEvent is the JSON that it says to be.
Pure functions; who needs events for rules has `cloudevents`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from daemon.core.errors import BadInput

STRUCTURED = "application/cloudevents+json"
_KIND = "datacontenttype"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A CloudEvent whose data was not looked at."""

    attributes: Mapping[str, str]
    """All that are text, extensions too; `datacontenttype` is as it was sent."""
    data: bytes | None
    """None when it came as JSON within the envelope, or not at all."""
    value: Any = None
    """The data, where it came as JSON within the envelope."""

    @property
    def is_empty(self) -> bool:
        """There is no data."""
        return self.value is None if self.data is None else not self.data.strip()

    def content(self) -> Any:
        """The data as JSON. Raises BadInput when it is none."""
        if self.data is None:
            return self.value
        try:
            return orjson.loads(self.data)
        except orjson.JSONDecodeError as error:
            raise BadInput(f"the body is not JSON ({error})") from None


def line_of_request(headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """The line of an HTTP request in binary or structured mode, without its end; header names in any case.

    Raises BadInput when it has no `ce-id` or `ce-type`, or its structured content is not what it should be.
    """
    texts = {name.lower(): text for name, text in headers}
    kind = texts.get("content-type", "")
    if kind.lower().partition(";")[0].strip() == STRUCTURED:
        return _one_line(body)
    attributes = {name[3:]: unquote(text) for name, text in texts.items() if name.startswith("ce-")}
    for name in ("id", "type"):
        if not attributes.get(name):
            raise BadInput(f"the request has no ce-{name}")
    return _line({**attributes, _KIND: kind}, body)


def line_of_record(headers: Sequence[tuple[str, bytes | None]], value: bytes) -> bytes:
    """The line of a Kafka record in binary mode; any other record's value, which should be the structured mode, as it is."""
    if not is_event(headers):
        return value
    texts = {name.lower(): (text or b"").decode("utf-8", "backslashreplace") for name, text in headers}
    attributes = {name[3:]: text for name, text in texts.items() if name.startswith("ce_")}
    return _line({**attributes, _KIND: texts.get("content-type", "")}, value)


def is_event(headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Whether the headers of a Kafka record are those of an event in binary mode."""
    return any(name[:3].lower() == "ce_" for name, _ in headers)


def opened(line: bytes) -> Envelope:
    """The CloudEvent of a line. Raises BadInput when it is none."""
    try:
        told = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"neither ce_ headers nor structured JSON: {error}") from None
    if not isinstance(told, dict):
        raise BadInput("a CloudEvent in structured mode is a JSON object")
    data, coded = told.pop("data", None), told.pop("data_base64", None)
    attributes = {name: text for name, text in told.items() if isinstance(text, str)}
    if coded is None:
        return Envelope(attributes, None, data)
    try:
        return Envelope(attributes, base64.b64decode(coded, validate=True))
    except (binascii.Error, TypeError, ValueError):
        raise BadInput("data_base64 is not base64") from None


def _line(attributes: Mapping[str, str], body: bytes) -> bytes:
    return orjson.dumps({**attributes, "data_base64": base64.b64encode(body).decode()})


def _one_line(body: bytes) -> bytes:
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the content is not JSON: {error}") from None
    if not isinstance(told, dict) or not all(isinstance(told.get(name), str) and told[name] for name in ("id", "type")):
        raise BadInput("the event has no id or no type")
    return orjson.dumps(told)
