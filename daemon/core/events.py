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
from types import MappingProxyType
from typing import Any

import orjson

from daemon.core.canonical import canonical, content_id
from daemon.core.fields import EventType, Field, Kind, flag, moment, number, text, whole
from daemon.core.nodetypes import NODE_TYPES
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


_UNSET = Field("unset", Kind.TEXTS, "names of absent fields, each with the reason why it is absent")

_MEASURED = (
    text("model", "the model as config.yaml names it", required=True),
    text("monitor", "name of the monitor that measured", required=True),
    text("stream", "the prediction stream that was measured", required=True),
    text("segment", "`column=value` of the segment, empty for all rows", required=True),
    text("reference", "digest of the reference that the window was held against"),
    whole("reference_rows", "rows of the reference"),
    Field("window", Kind.RECORD, "the rows that were measured", required=True, fields=(
        moment("start", "event time of the first row", required=True),
        moment("end", "event time of the last row", required=True),
        whole("rows", "rows in the window", required=True),
        whole("first", "position of the first row in the stream, counted from 0", required=True),
        whole("last", "position of the last row in the stream", required=True),
        text("closed_by", "`rows`, `time` or `idle`", required=True),
        whole("late", "rows left out since the window before, because theirs had been closed (time windows)"),
    )),
    _UNSET,
)  # fmt: skip

_COLUMN = (
    text("method", "name of the score, e.g. `psi` or `ks`"),
    text("basis", "`histogram` (all rows) or `sample` (Evidently's test on the sampled rows)"),
    number("score", "the method's own number"),
    number("threshold", "the effect floor that `effect` is held against"),
    number("effect", "bias-corrected size of the change; 0 when nothing changed"),
    number("p_value", "probability of such a score when nothing changed, adjusted for the number of columns (BH)"),
    whole("rows", "values in the window (missing ones left out)"),
    flag("drifted", "p_value is under alpha and effect is over its floor"),
)

_QUALITY_COLUMN = (
    number("missing_rate", "share of rows without a value"),
    number("reference_missing_rate", "the same in the reference"),
    number("invalid_rate", "share of rows whose value has the wrong type"),
    number("new_category_rate", "share of rows with a category that the reference does not have"),
    number("out_of_range_rate", "share of rows outside the reference's range"),
    Field("failures", Kind.STRINGS, "the checks of this column that failed"),
)

_ARM = (
    whole("requests", "requests answered, failed ones included", required=True),
    whole("errors", "requests that failed", required=True),
    whole("units", "units first seen on this arm in this block", required=True),
    whole("failed_units", "those of them with at least one failed request", required=True),
    Field("latency", Kind.INTS, "those units' slowest answer, counted per bucket of LATENCY_EDGES_MS"),
    Field(
        "scores",
        Kind.INTS,
        "those units' first score, counted per bin of the reference's 20 quantile bins (or category)",
    ),
    whole("labelled", "units whose label arrived in this block", required=True),
    whole(
        "wrong",
        "those of them that the model got wrong (regression: error over the reference's 80 % error)",
        required=True,
    ),
)

CATALOGUE: Mapping[str, EventType] = MappingProxyType({
    kind.name: kind
    for kind in (
        EventType("data.landed", "A complete new file is in a watched folder.", (
            text("source", "name of the storage source", required=True),
            text("path", "path of the file", required=True),
            text("folder", "its folder, relative to the watched one", required=True),
            text("name", "its file name", required=True),
            whole("bytes", "its size", required=True),
            text("digest", "SHA-256 of its content", required=True),
        )),
        EventType("drift.measured", "A window of predictions was held against its reference.", (
            *_MEASURED,
            Field("columns", Kind.RECORDS, "per feature column", fields=_COLUMN),
            whole("drifted_columns", "number of feature columns that drifted"),
            number("drifted_share", "the same as a share of all measured columns"),
            text("worst_column", "the feature column with the largest effect"),
            number("worst_effect", "its effect"),
            flag("prediction_drifted", "the model's outputs drifted"),
            number("prediction_effect", "effect of the outputs' drift (score where there is one, else prediction)"),
            number("prediction_p_value", "its p-value"),
            number("estimated_loss", "loss estimated from the scores, without labels (CBPE); an estimate"),
            number("reference_estimated_loss", "the same on the reference"),
            number("estimated_loss_ratio", "estimated_loss / reference_estimated_loss"),
            number("estimated_loss_p_value", "one-sided z-test that the estimated loss has grown"),
        ), lasting=True),
        EventType("performance.measured", "Labels arrived for a window of predictions.", (
            *_MEASURED,
            text("version", "model version that predicted; empty when the log does not say"),
            text("metric", "`accuracy` or `mae`"),
            number("value", "the metric on the labelled rows"),
            number("lower", "lower end of its 95 % interval"),
            number("upper", "upper end of its 95 % interval"),
            whole("labelled", "rows with a label", required=True),
            number("coverage", "labelled rows / rows of the window that could have one"),
            number("loss", "mean loss: error rate, or absolute error"),
            number("reference_loss", "the same on the reference"),
            number("loss_ratio", "loss / reference_loss"),
            number("evidence", "log evidence that the loss has grown (e-CUSUM); 6.9 is 1000 to 1"),
            number("loss_ratio_since_onset", "mean loss since the change began / reference_loss"),
            moment("onset", "event time at which the change began by the e-CUSUM's account"),
            flag("alarm", "evidence is over its limit and the loss since the onset is over its floor"),
        ), lasting=True),
        EventType("quality.measured", "A window of predictions was checked for schema, types, gaps, categories, range.", (
            *_MEASURED,
            flag("passed", "no check failed"),
            Field("failures", Kind.STRINGS, "`column: check` of each check that failed"),
            Field("columns", Kind.RECORDS, "per feature column", fields=_QUALITY_COLUMN),
        ), lasting=True),
        EventType("traffic.measured", "A block of served requests, per model version.", (
            text("model", "the model as config.yaml names it", required=True),
            text("stream", "the prediction stream", required=True),
            moment("start", "event time of the first request", required=True),
            moment("end", "event time of the last request", required=True),
            Field("arms", Kind.RECORDS, "per model version", required=True, fields=_ARM),
            _UNSET,
        ), lasting=True),
        EventType("model.registered", "A new version is in the registry.", (
            text("model", "the model as config.yaml names it", required=True),
            text("registry", "its name in the registry", required=True),
            text("version", "the version", required=True),
            text("created", "creation time of the registered model, which tells a re-created one apart", required=True),
            text("digest", "digest of its artifacts, where known"),
            text("run", "the registry's training run"),
            text("registered_by", "id of the driftd run that registered it; empty when somebody else did", required=True),
            Field("tags", Kind.TEXTS, "tags of the version"),
        )),
        EventType("model.alias_changed", "An alias points elsewhere.", (
            text("model", "the model as config.yaml names it", required=True),
            text("registry", "its name in the registry", required=True),
            text("alias", "the alias", required=True),
            text("version", "the version it points to now; empty when it was deleted", required=True),
            text("previous", "the version it pointed to; empty when it is new", required=True),
        )),
        EventType("model.deleted", "A version, or a whole registered model, is gone.", (
            text("model", "the model as config.yaml names it", required=True),
            text("registry", "its name in the registry", required=True),
            text("version", "the version; empty when the whole model is gone", required=True),
        )),
        *NODE_TYPES,
        EventType("schedule.due", "A schedule's time has come.", (
            text("schedule", "its name", required=True),
            moment("due", "when it was due", required=True),
            whole("missed", "earlier due times that this one stands for", required=True),
        )),
        EventType("timer.due", "A due time that a decision asked for has come.", (
            text("rule", "the rule; empty when a run is meant", required=True),
            text("key", "the rule's memory key, or the run and step", required=True),
            moment("due", "when it was due", required=True),
            text("why", "what it is for: `for`, `absent`, `repeat`, `cooldown`, `again`; of a run: `deadline`, `approval`, `lock`, `queue`, `held`", required=True),
        )),
        EventType("run.finished", "A run has ended.", (
            text("model", "the model, empty when the rule has none", required=True),
            text("run", "id of the run", required=True),
            text("rule", "the rule that started it", required=True),
            text("state", "how it ended: one of the end states of a run", required=True),
            text("reason", "why, in a sentence", required=True),
            text("version", "the model version it was about; empty when there was none", required=True),
        )),
        EventType("webhook.received", "A signed CloudEvent came in.", (
            text("hook", "name of the webhook in config.yaml", required=True),
            text("type", "the sender's event type", required=True),
            text("sender", "the sender's `source`", required=True),
            Field("payload", Kind.JSON, "the sender's data"),
        )),
        EventType("message.received", "A CloudEvent came on a Kafka topic.", (
            text("source", "name of the source in config.yaml", required=True),
            text("topic", "the topic", required=True),
            text("type", "the sender's event type", required=True),
            text("sender", "the sender's `source`", required=True),
            Field("payload", Kind.JSON, "the sender's data"),
        )),
        EventType("rules.loaded", "A rule set took effect.", (
            text("revision", "hash of all its rules", required=True),
            text("commit", "Git commit of the rules folder; empty when unknown", required=True),
            whole("rules", "number of rules", required=True),
            flag("started", "the daemon has just started; else it was running and has loaded them anew"),
        )),
        EventType("storm.began", "More rules fired than `storm:` allows; what they would start is held. Told once per storm.", (
            text("run", "id of the first run that is held", required=True),
            text("rule", "the rule that would have started it", required=True),
            text("model", "its model; empty when it has none", required=True),
            text("why", "how many fired, in a sentence", required=True),
        )),
        EventType("source.stalled", "A source or stream brings nothing although it should.", (
            text("source", "the source or stream", required=True),
            moment("since", "when it last brought something or answered", required=True),
            text("why", "what is wrong, in a sentence", required=True),
        )),
        EventType("source.gap", "Records of a Kafka topic were gone, or could not be decoded, before they were read.", (
            text("source", "name of the source or stream in config.yaml", required=True),
            text("topic", "the topic", required=True),
            whole("partition", "number of the partition", required=True),
            whole("from_offset", "offset that was to be read next", required=True),
            whole("to_offset", "offset at which reading goes on", required=True),
            whole("lost", "how many offsets lie between; absent when that is not known, as for a topic that was made anew"),
            text("why", "what happened, in a sentence", required=True),
        )),
        EventType("partition.closed", "A partition of a stream had brought nothing for a while, so slices of it were closed.", (
            text("stream", "the prediction stream", required=True),
            text("topic", "the topic", required=True),
            whole("partition", "number of the partition", required=True),
            whole("offset", "offset of the record that came next", required=True),
            whole("place", "as the offset, but it goes on counting when the topic is made anew", required=True),
            moment("until", "event time up to which slices were closed before that record was read", required=True),
        )),
        EventType("problem.recorded", "Something came in that could not be used; nothing was dropped silently.", (
            text("kind", ", ".join(f"`{kind}`" for kind in KINDS), required=True),
            text("where", "file and position, or the sender", required=True),
            text("reason", "why, in a sentence", required=True),
        )),
        EventType("control.changed", "An operator said something.", (
            text("verb", "`pause`, `resume`, `approve`, `reject`, `cancel`, `quarantine`, `release`", required=True),
            text("target", "the run, or model and version, that it is about; `held:storm`, `held:freeze`; empty for all", required=True),
            text("by", "who", required=True),
            text("reason", "why", required=True),
            text("override_freeze", "of `approve`: why it may be done during a freeze"),
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
    for name, value in (("id", event.id), ("source", event.source), ("type", event.type), ("subject", event.subject)):
        if not value.isascii() and legible(value) != value:
            return f"an event whose {name} is {legible(value)!r}: half of a surrogate pair cannot be stored"
        if "\x00" in value:
            return f"an event whose {name} is {value!r}: the character NUL cannot be stored"
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
