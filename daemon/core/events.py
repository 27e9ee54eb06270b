"""Events, and the catalogue of their types.

An event is a CloudEvents 1.0 envelope plus `data`. The catalogue is the single description of each type's fields: the
CEL types of rule conditions, the JSON Schema, the documentation table and the pages are made from it.

A field that is not `required` may be absent; null, NaN and infinities count as absent, and an absent field makes a
condition that reads it unknown, never false. Types that are measured carry `unset`: field name -> why it is absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from types import MappingProxyType
from typing import Any

import orjson

from daemon.core.canonical import canonical, content_id
from daemon.core.problems import KINDS


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. (`source`, `id`) names it for good: the same pair again is the same event."""

    id: str
    """Unique within `source`, derived from what happened, never random: a repeat is recognised."""
    source: str
    """Where it was seen: `storage:landing`, `monitor:churn-inputs`, `registry:mlflow`, `schedule:nightly`, `operator:ann`."""
    type: str
    """Past tense and dotted, one of CATALOGUE."""
    subject: str
    """What it is about: a model's name in config.yaml; for data.landed the storage source; for schedules their name."""
    time: datetime
    """When it happened, aware UTC. Rules run on the time it was recorded, monitors on this one."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """JSON values as the catalogue describes them."""
    chain: tuple[str, ...] = ()
    """Ids of the runs that led to this event, oldest first; empty when nobody here caused it."""

    @property
    def key(self) -> str:
        """The dedupe key: a hash of source and id."""
        return content_id("event", self.source, self.id)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event with its place in the store: `seq` is the order of all decisions, `at` the `now` of each."""

    seq: int
    at: datetime
    event: Event


def event_json(event: Event) -> dict[str, Any]:
    """An event as JSON values."""
    return {
        "id": event.id, "source": event.source, "type": event.type, "subject": event.subject,
        "time": event.time.isoformat(), "data": dict(event.data), "chain": list(event.chain),
    }  # fmt: skip


def event_from_json(stored: Mapping[str, Any]) -> Event:
    """An event from what `event_json` made."""
    return Event(
        stored["id"], stored["source"], stored["type"], stored["subject"], datetime.fromisoformat(stored["time"]),
        stored["data"], tuple(stored["chain"]),
    )  # fmt: skip


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


def _s(name: str, doc: str, required: bool = False) -> Field:
    return Field(name, Kind.STRING, doc, required)


def _i(name: str, doc: str, required: bool = False) -> Field:
    return Field(name, Kind.INT, doc, required)


def _d(name: str, doc: str) -> Field:
    return Field(name, Kind.DOUBLE, doc)


def _b(name: str, doc: str) -> Field:
    return Field(name, Kind.BOOL, doc)


def _t(name: str, doc: str, required: bool = False) -> Field:
    return Field(name, Kind.TIME, doc, required)


_UNSET = Field("unset", Kind.TEXTS, "names of absent fields, each with the reason why it is absent")

_MEASURED = (
    _s("model", "the model as config.yaml names it", required=True),
    _s("monitor", "name of the monitor that measured", required=True),
    _s("stream", "the prediction stream that was measured", required=True),
    _s("segment", "`column=value` of the segment, empty for all rows", required=True),
    _s("reference", "digest of the reference that the window was held against"),
    _i("reference_rows", "rows of the reference"),
    Field("window", Kind.RECORD, "the rows that were measured", required=True, fields=(
        _t("start", "event time of the first row", required=True),
        _t("end", "event time of the last row", required=True),
        _i("rows", "rows in the window", required=True),
        _i("first", "position of the first row in the stream, counted from 0", required=True),
        _i("last", "position of the last row in the stream", required=True),
        _s("closed_by", "`rows`, `time` or `idle`", required=True),
        _i("late", "rows left out since the window before, because theirs had been closed (time windows)"),
    )),
    _UNSET,
)  # fmt: skip

_COLUMN = (
    _s("method", "name of the score, e.g. `psi` or `ks`"),
    _s("basis", "`histogram` (all rows) or `sample` (Evidently's test on the sampled rows)"),
    _d("score", "the method's own number"),
    _d("threshold", "the effect floor that `effect` is held against"),
    _d("effect", "bias-corrected size of the change; 0 when nothing changed"),
    _d("p_value", "probability of such a score when nothing changed, adjusted for the number of columns (BH)"),
    _i("rows", "values in the window (missing ones left out)"),
    _b("drifted", "p_value is under alpha and effect is over its floor"),
)

_QUALITY_COLUMN = (
    _d("missing_rate", "share of rows without a value"),
    _d("reference_missing_rate", "the same in the reference"),
    _d("invalid_rate", "share of rows whose value has the wrong type"),
    _d("new_category_rate", "share of rows with a category that the reference does not have"),
    _d("out_of_range_rate", "share of rows outside the reference's range"),
    Field("failures", Kind.STRINGS, "the checks of this column that failed"),
)

_ARM = (
    _i("requests", "requests answered, failed ones included", required=True),
    _i("errors", "requests that failed", required=True),
    _i("units", "units first seen on this arm in this block", required=True),
    _i("failed_units", "those of them with at least one failed request", required=True),
    Field("latency", Kind.INTS, "those units' slowest answer, counted per bucket of LATENCY_EDGES_MS"),
    Field(
        "scores",
        Kind.INTS,
        "those units' first score, counted per bin of the reference's 20 quantile bins (or category)",
    ),
    _i("labelled", "units whose label arrived in this block", required=True),
    _i(
        "wrong",
        "those of them that the model got wrong (regression: error over the reference's 80 % error)",
        required=True,
    ),
)

CATALOGUE: Mapping[str, EventType] = MappingProxyType({
    kind.name: kind
    for kind in (
        EventType("data.landed", "A complete new file is in a watched folder.", (
            _s("source", "name of the storage source", required=True),
            _s("path", "path of the file", required=True),
            _s("folder", "its folder, relative to the watched one", required=True),
            _s("name", "its file name", required=True),
            _i("bytes", "its size", required=True),
            _s("digest", "SHA-256 of its content", required=True),
        )),
        EventType("drift.measured", "A window of predictions was held against its reference.", (
            *_MEASURED,
            Field("columns", Kind.RECORDS, "per feature column", fields=_COLUMN),
            _i("drifted_columns", "number of feature columns that drifted"),
            _d("drifted_share", "the same as a share of all measured columns"),
            _s("worst_column", "the feature column with the largest effect"),
            _d("worst_effect", "its effect"),
            _b("prediction_drifted", "the model's outputs drifted"),
            _d("prediction_effect", "effect of the outputs' drift (score where there is one, else prediction)"),
            _d("prediction_p_value", "its p-value"),
            _d("estimated_loss", "loss estimated from the scores, without labels (CBPE); an estimate"),
            _d("reference_estimated_loss", "the same on the reference"),
            _d("estimated_loss_ratio", "estimated_loss / reference_estimated_loss"),
            _d("estimated_loss_p_value", "one-sided z-test that the estimated loss has grown"),
        ), lasting=True),
        EventType("performance.measured", "Labels arrived for a window of predictions.", (
            *_MEASURED,
            _s("version", "model version that predicted; empty when the log does not say"),
            _s("metric", "`accuracy` or `mae`"),
            _d("value", "the metric on the labelled rows"),
            _d("lower", "lower end of its 95 % interval"),
            _d("upper", "upper end of its 95 % interval"),
            _i("labelled", "rows with a label", required=True),
            _d("coverage", "labelled rows / rows of the window that could have one"),
            _d("loss", "mean loss: error rate, or absolute error"),
            _d("reference_loss", "the same on the reference"),
            _d("loss_ratio", "loss / reference_loss"),
            _d("evidence", "log evidence that the loss has grown (e-CUSUM); 6.9 is 1000 to 1"),
            _d("loss_ratio_since_onset", "mean loss since the change began / reference_loss"),
            _t("onset", "event time at which the change began by the e-CUSUM's account"),
            _b("alarm", "evidence is over its limit and the loss since the onset is over its floor"),
        ), lasting=True),
        EventType("quality.measured", "A window of predictions was checked for schema, types, gaps, categories, range.", (
            *_MEASURED,
            _b("passed", "no check failed"),
            Field("failures", Kind.STRINGS, "`column: check` of each check that failed"),
            Field("columns", Kind.RECORDS, "per feature column", fields=_QUALITY_COLUMN),
        ), lasting=True),
        EventType("traffic.measured", "A block of served requests, per model version.", (
            _s("model", "the model as config.yaml names it", required=True),
            _s("stream", "the prediction stream", required=True),
            _t("start", "event time of the first request", required=True),
            _t("end", "event time of the last request", required=True),
            Field("arms", Kind.RECORDS, "per model version", required=True, fields=_ARM),
            _UNSET,
        ), lasting=True),
        EventType("model.registered", "A new version is in the registry.", (
            _s("model", "the model as config.yaml names it", required=True),
            _s("registry", "its name in the registry", required=True),
            _s("version", "the version", required=True),
            _s("created", "creation time of the registered model, which tells a re-created one apart", required=True),
            _s("digest", "digest of its artifacts, where known"),
            _s("run", "the registry's training run"),
            _s("registered_by", "id of the driftd run that registered it; empty when somebody else did", required=True),
            Field("tags", Kind.TEXTS, "tags of the version"),
        )),
        EventType("model.alias_changed", "An alias points elsewhere.", (
            _s("model", "the model as config.yaml names it", required=True),
            _s("registry", "its name in the registry", required=True),
            _s("alias", "the alias", required=True),
            _s("version", "the version it points to now; empty when it was deleted", required=True),
            _s("previous", "the version it pointed to; empty when it is new", required=True),
        )),
        EventType("model.deleted", "A version, or a whole registered model, is gone.", (
            _s("model", "the model as config.yaml names it", required=True),
            _s("registry", "its name in the registry", required=True),
            _s("version", "the version; empty when the whole model is gone", required=True),
        )),
        EventType("schedule.due", "A schedule's time has come.", (
            _s("schedule", "its name", required=True),
            _t("due", "when it was due", required=True),
            _i("missed", "earlier due times that this one stands for", required=True),
        )),
        EventType("timer.due", "A due time that a decision asked for has come.", (
            _s("rule", "the rule; empty when a run is meant", required=True),
            _s("key", "the rule's memory key, or the run and step", required=True),
            _t("due", "when it was due", required=True),
            _s("why", "what it is for: `for`, `absent`, `repeat`, `cooldown`, `again`; of a run: `deadline`, `approval`, `lock`, `queue`", required=True),
        )),
        EventType("run.finished", "A run has ended.", (
            _s("model", "the model, empty when the rule has none", required=True),
            _s("run", "id of the run", required=True),
            _s("rule", "the rule that started it", required=True),
            _s("state", "how it ended: one of the end states of a run", required=True),
            _s("reason", "why, in a sentence", required=True),
            _s("version", "the model version it was about; empty when there was none", required=True),
        )),
        EventType("webhook.received", "A signed CloudEvent came in.", (
            _s("hook", "name of the webhook in config.yaml", required=True),
            _s("type", "the sender's event type", required=True),
            _s("sender", "the sender's `source`", required=True),
            Field("payload", Kind.JSON, "the sender's data"),
        )),
        EventType("message.received", "A CloudEvent came on a Kafka topic.", (
            _s("source", "name of the source in config.yaml", required=True),
            _s("topic", "the topic", required=True),
            _s("type", "the sender's event type", required=True),
            _s("sender", "the sender's `source`", required=True),
            Field("payload", Kind.JSON, "the sender's data"),
        )),
        EventType("rules.loaded", "A rule set took effect.", (
            _s("revision", "hash of all its rules", required=True),
            _s("commit", "Git commit of the rules folder; empty when unknown", required=True),
            _i("rules", "number of rules", required=True),
            _b("started", "the daemon has just started; else it was running and has loaded them anew"),
        )),
        EventType("source.stalled", "A source or stream brings nothing although it should.", (
            _s("source", "the source or stream", required=True),
            _t("since", "when it last brought something or answered", required=True),
            _s("why", "what is wrong, in a sentence", required=True),
        )),
        EventType("source.gap", "Records of a Kafka topic were gone, or could not be decoded, before they were read.", (
            _s("source", "name of the source or stream in config.yaml", required=True),
            _s("topic", "the topic", required=True),
            _i("partition", "number of the partition", required=True),
            _i("from_offset", "offset that was to be read next", required=True),
            _i("to_offset", "offset at which reading goes on", required=True),
            _i("lost", "how many offsets lie between; absent when that is not known, as for a topic that was made anew"),
            _s("why", "what happened, in a sentence", required=True),
        )),
        EventType("partition.closed", "A partition of a stream had brought nothing for a while, so slices of it were closed.", (
            _s("stream", "the prediction stream", required=True),
            _s("topic", "the topic", required=True),
            _i("partition", "number of the partition", required=True),
            _i("offset", "offset of the record that came next", required=True),
            _i("place", "as the offset, but it goes on counting when the topic is made anew", required=True),
            _t("until", "event time up to which slices were closed before that record was read", required=True),
        )),
        EventType("problem.recorded", "Something came in that could not be used; nothing was dropped silently.", (
            _s("kind", ", ".join(f"`{kind}`" for kind in KINDS), required=True),
            _s("where", "file and position, or the sender", required=True),
            _s("reason", "why, in a sentence", required=True),
        )),
        EventType("control.changed", "An operator said something.", (
            _s("verb", "`pause`, `resume`, `approve`, `reject`, `cancel`, `quarantine`, `release`", required=True),
            _s("target", "the run, or model and version, that it is about; empty for all", required=True),
            _s("by", "who", required=True),
            _s("reason", "why", required=True),
        )),
    )
})  # fmt: skip

LATENCY_EDGES_MS: tuple[float, ...] = tuple(round(2 ** (step / 4), 3) for step in range(-8, 61))
"""Upper edges of the latency buckets, in milliseconds: quarter octaves from 0.25 ms to 32 s; one more bucket is above."""

_DEEPEST = 100
"""Levels of nesting that are kept."""


def clean(data: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """`data` as it will be read back from the store, and the canonical JSON that is stored.

    What is decided is what was stored, so a replay decides the same. Total: whatever JSON cannot hold is made null, with
    the reason noted under `unset` at the top level.
    """
    try:
        raw = canonical(data)
    except TypeError:
        raw = b"null"
    if b"null" in raw:
        unset: dict[str, str] = {}
        cleaned = {_text(name): _json(value, _text(name), 0, unset) for name, value in data.items()}
        given = cleaned.get("unset")
        if unset and (given is None or isinstance(given, dict)):
            cleaned["unset"] = {**unset, **(given or {})}
        raw = canonical(cleaned)
    stored: dict[str, Any] = orjson.loads(raw)
    return stored, raw


def _json(value: Any, path: str, depth: int, unset: dict[str, str]) -> Any:
    """`value` as orjson can write it; what it cannot is None, and noted."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int | float):
        if isinstance(value, int) and -(2**63) <= value < 2**63:
            return value
        try:
            number = float(value)  # JSON has no integers beyond 64 bits
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            unset[path] = "not a finite number"
            return None
        return number
    if depth > _DEEPEST:
        unset[path] = "nested too deep"
        return None
    if isinstance(value, Mapping):
        return {_text(name): _json(item, f"{path}.{_text(name)}", depth + 1, unset) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item, f"{path}[{index}]", depth + 1, unset) for index, item in enumerate(value)]
    if isinstance(value, datetime):
        return value
    unset[path] = f"{type(value).__name__} is no JSON value"
    return None


def unstorable(event: Event) -> str:
    """Why the event cannot be stored under its name; empty when it can. Its data always can: see `clean`."""
    for name, text in (("id", event.id), ("source", event.source), ("type", event.type), ("subject", event.subject)):
        if not text.isascii() and legible(text) != text:
            return f"an event whose {name} is {legible(text)!r}: half of a surrogate pair cannot be stored"
    if any(legible(run) != run for run in event.chain):
        return "an event whose chain has half of a surrogate pair in it, which cannot be stored"
    return ""


def legible(text: str) -> str:
    """The text as UTF-8 can hold it: lone surrogates (JSON has them, and file names that are no UTF-8) written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _text(value: Any) -> str:
    """A text without lone surrogates, which UTF-8 cannot hold."""
    return str(value).encode("utf-8", "replace").decode()


def utc(text: str) -> datetime:
    """An ISO 8601 time as aware UTC; a time without zone is taken as UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
