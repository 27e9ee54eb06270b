"""One scoring request: its records are routed, each arm is asked for its own, everything is logged, the answer is joined.

**A request of several records.** Each record goes where its unit goes, so one request may reach two versions; their
predictions come back in the order of the records. A client never gets a prediction in a wrong place and never part of an
answer: when one arm fails, the whole request fails with that arm's status (the worst, when several fail), and the answer
names the versions and the rows. The log keeps them apart: the rows of the arm that answered are logged as answered, those
of the arm that failed with their error.

**What counts as an arm's error**: whatever is not 200. MLflow's server answers 400 when the model itself raises, so 4xx
counts too; a client's own bad rows fail on every arm alike and do not tilt a comparison.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from daemon.gateway.backends import ArmFailed, Backends
from daemon.gateway.log import SERVED_AT, PredictionLog
from daemon.gateway.rows import Payload, loads, parse
from daemon.gateway.split import Split
from daemon.gateway.targets import Target, dig, put
from daemon.gateway.wire import Reply

_ERROR_TEXT = 300


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks, as the request's headers say; empty when they do not."""

    id: str
    """X-Driftd-Id: the prediction's id."""
    unit: str
    """X-Driftd-Unit: who asked, for all records of the request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client."""

    status: int
    body: bytes
    content_type: str = "application/json"
    id: str = ""
    """Of the first record."""
    versions: str = ""
    """That were asked, joined by commas."""


@dataclass(slots=True)
class _Arm:
    """What one version made of its rows."""

    version: str
    indexes: list[int]
    reply: Reply | None = None
    predictions: list[Any] = field(default_factory=list)
    status: int = 200
    error: str = ""
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """What a request of a target needs to be answered."""

    target: Target
    split: Split
    log: PredictionLog


async def score(place: Place, backends: Backends, body: bytes, asked: Asked) -> Answer:
    """Answer one request. Raises BadInput when it is none; nothing is logged then, for no version saw it."""
    payload = parse(body)
    ids, units = _identities(place.target, payload, asked)
    arms: dict[str, _Arm] = {}
    for index, unit in enumerate(units):
        version = place.split.route(unit)
        arms.setdefault(version, _Arm(version, [])).indexes.append(index)
    if "" in arms:
        return failure(503, f"no version serves {place.target.name}")
    if len(arms) == 1:
        await _ask(place, backends, payload, next(iter(arms.values())))
    else:
        await asyncio.gather(*(_ask(place, backends, payload, arm) for arm in arms.values()))
    _log(place, payload, ids, units, arms.values())
    return _joined(payload, tuple(arms.values()), ids[0])


def failure(status: int, why: str, **more: Any) -> Answer:
    """An error in the form that MLflow's clients read."""
    code = {400: "BAD_REQUEST", 404: "RESOURCE_DOES_NOT_EXIST", 503: "TEMPORARILY_UNAVAILABLE"}
    return Answer(status, orjson.dumps({"error_code": code.get(status, "INTERNAL_ERROR"), "message": why, **more}))


def _identities(target: Target, payload: Payload, asked: Asked) -> tuple[list[str], list[str]]:
    """Each record's id and unit: its own fields, else the headers, else a new id, and the id as the unit."""
    made = asked.id or uuid.uuid4().hex
    alone = len(payload.rows) == 1
    ids, units = [], []
    for index, row in enumerate(payload.rows):
        own = dig(row, target.fields["id"])
        name = str(own) if own is not None else made if alone else f"{made}-{index}"
        unit = asked.unit or dig(row, target.fields["unit"])
        ids.append(name)
        units.append(str(unit) if unit is not None else name)
    return ids, units


async def _ask(place: Place, backends: Backends, payload: Payload, arm: _Arm) -> None:
    """Ask one version for its rows, and read what it says."""
    began = time.perf_counter()
    try:
        part = payload.part(arm.indexes, place.target.withheld)
        arm.reply = await backends.ask(place.target.name, arm.version, part)
    except ArmFailed as failed:
        arm.status, arm.error = failed.status, failed.why
    arm.latency_ms = round((time.perf_counter() - began) * 1000, 3)
    if arm.reply is None:
        return
    if arm.reply.status != 200:
        arm.status = arm.reply.status
        arm.error = f"{arm.reply.status}: {_message(arm.reply.body)}"
        return
    try:
        predictions = loads(arm.reply.body)["predictions"]
    except (ValueError, KeyError, TypeError):
        arm.status, arm.error = 502, f"version {arm.version} answered without predictions"
        return
    if isinstance(predictions, list) and len(predictions) == len(arm.indexes):
        arm.predictions = predictions
    elif len(payload.rows) == 1:
        arm.predictions = [predictions]
    else:
        arm.status = 502
        arm.error = f"version {arm.version} did not answer one prediction for each of {len(arm.indexes)} rows"


def _message(body: bytes) -> str:
    """What a backend's error says, in short."""
    try:
        return str(loads(body)["message"])[:_ERROR_TEXT]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:_ERROR_TEXT]


def _log(place: Place, payload: Payload, ids: Sequence[str], units: Sequence[str], arms: Any) -> None:
    """One line for each record: its own fields, what the model answered, then ours, which stand above both."""
    now = datetime.now(UTC)
    moment = now.isoformat(timespec="microseconds")
    fields = place.target.fields
    lines = []
    for arm in arms:
        for place_in_arm, index in enumerate(arm.indexes):
            record = dict(payload.rows[index])
            if not arm.error:
                _put_prediction(record, fields, arm.predictions[place_in_arm])
            for name in place.target.drop:
                record.pop(name, None)
            own_time = dig(record, fields["time"])
            put(record, fields["id"], ids[index])
            put(record, fields["unit"], units[index])
            put(record, fields["time"], moment if own_time is None else own_time)
            put(record, fields["model"], place.target.model)
            put(record, fields["version"], arm.version)
            put(record, fields["error"], arm.error or None)
            put(record, fields["latency_ms"], arm.latency_ms)
            record[SERVED_AT] = moment
            lines.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS))
    place.log.write(lines, now)


def _put_prediction(record: dict[str, Any], fields: Mapping[str, str], prediction: Any) -> None:
    """A prediction that is an object contributes its fields under their own names, else it is the prediction."""
    if isinstance(prediction, dict):
        record.update(prediction)
    else:
        put(record, fields["prediction"], prediction)


def _joined(payload: Payload, arms: tuple[_Arm, ...], name: str) -> Answer:
    """The arms' answers as one."""
    versions = ",".join(arm.version for arm in arms)
    failed = [arm for arm in arms if arm.error]
    if len(arms) == 1 and arms[0].reply is not None and (not failed or arms[0].reply.status != 200):
        reply = arms[0].reply
        return Answer(reply.status, reply.body, reply.content_type, name, versions)
    if failed:
        worst = max(failed, key=lambda arm: arm.status)
        broken = [{"version": arm.version, "rows": arm.indexes, "error": arm.error} for arm in failed]
        answer = failure(worst.status, worst.error, failed=broken)
        return Answer(answer.status, answer.body, answer.content_type, name, versions)
    predictions: list[Any] = [None] * len(payload.rows)
    for arm in arms:
        for index, prediction in zip(arm.indexes, arm.predictions, strict=True):
            predictions[index] = prediction
    return Answer(200, orjson.dumps({"predictions": predictions}), "application/json", name, versions)
