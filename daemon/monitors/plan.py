"""What a worker needs to know about one stream: made from config.yaml and the monitors, sent as JSON.

The worker reads no configuration of its own: all it does follows from its plan and the state in the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from daemon.clients.completeness import Complete
from daemon.config import Config, Fields, Model
from daemon.core.monitors import FeatureKind, Monitor
from daemon.kafkaparts import KafkaConnection
from daemon.payloadparts import Kserve

Privacy = Literal["keep", "hash", "drop"]
Task = Literal["binary", "multiclass", "regression"]
"""As in core/losses.py, which is not imported: the daemon process needs no scipy."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A model that predicts on the stream."""

    name: str
    """As config.yaml names it."""
    registered: str
    """As the registry, and perhaps the records, name it."""
    task: Task
    monitors: tuple[Monitor, ...]


@dataclass(frozen=True)
class StreamPlan:
    """One stream, its files and its models; durations in seconds, paths absolute."""

    name: str
    predictions: str
    labels: str
    """Empty when there are none."""
    pattern: str
    complete: Complete
    stable_for: float
    poll: float
    fields: Fields
    privacy: Mapping[str, Privacy]
    join_rate: float
    horizon: float
    idle: float
    dead_letters: str
    """Folder for what cannot be used."""
    models: tuple[ModelPlan, ...]
    kind: Literal["files", "kafka"] = "files"
    """kafka: `predictions` and `labels` are topics."""
    format: str = "json"
    slice: float = 10.0
    """kafka: event time is cut into slices of so many seconds ..."""
    lateness: float = 5.0
    """... which are complete so many seconds behind their end."""
    group: str = ""
    """kafka: the consumer group."""
    dead_letter_topic: str = ""
    """kafka: where records go that cannot be used; empty: into the folder."""
    broker: Mapping[str, Any] = field(default_factory=dict)
    """kafka: how to reach it."""
    archive: str = ""
    """kafka: the folder in which predictions are kept for trainings; empty: they are not."""
    label_archive: str = ""
    """kafka: the same for labels."""
    remember: float = 86_400.0
    """files: how long the content of one that is gone is known."""
    inputs: tuple[str, ...] = ()
    """kserve: names of the input columns by position."""
    component: str = "predictor"
    """kserve: whose events count."""
    within: float = 60.0
    """kserve: how long halves wait for each other."""

    @property
    def slice_us(self) -> int:
        """`slice` in µs."""
        return round(self.slice * 1e6)

    @property
    def lateness_us(self) -> int:
        """`lateness` in µs."""
        return round(self.lateness * 1e6)

    @property
    def within_us(self) -> int:
        """`within` in µs."""
        return round(self.within * 1e6)

    @cached_property
    def kinds(self) -> dict[str, FeatureKind]:
        """The features as they are measured: without the dropped ones, and a hashed one is a category."""
        kept = {name: kind for name, kind in self.fields.features.items() if self.privacy.get(name) != "drop"}
        return {name: "category" if self.privacy.get(name) == "hash" else kind for name, kind in kept.items()}

    @cached_property
    def task(self) -> Task:
        """The task of the stream's models; they share one."""
        return self.models[0].task

    @cached_property
    def output(self) -> FeatureKind:
        """The kind of predictions and labels."""
        return "number" if self.task == "regression" else "category"

    @cached_property
    def numbers(self) -> frozenset[str]:
        """The fields that are numbers."""
        f = self.fields
        roles = [f.score, f.latency_ms, *([f.prediction, f.label] if self.output == "number" else [])]
        features = [name for name, kind in f.features.items() if kind == "number" and name in self.kinds]
        return frozenset(role for role in (*roles, *features) if role)

    @cached_property
    def segments(self) -> tuple[str, ...]:
        """The columns by which some monitor looks at segments."""
        return tuple(
            sorted({column for model in self.models for monitor in model.monitors for column in monitor.segments})
        )

    @cached_property
    def labelled(self) -> bool:
        """Labels may come: in files of their own or with the predictions."""
        label = self.fields.label
        return label is not None and self.privacy.get(label) != "drop"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The fields to read of a prediction record."""
        f = self.fields
        roles = (f.id, f.time, f.unit, f.model, f.version, f.prediction, f.score, f.label, f.error, f.latency_ms)
        return _distinct((*(role for role in roles if role), *self.kinds, *self.segments))

    @cached_property
    def label_columns(self) -> tuple[str, ...]:
        """The fields to read of a label record."""
        return _distinct((self.fields.id, *([self.fields.label] if self.fields.label else [])))

    def to_json(self) -> dict[str, Any]:
        """For a frame."""
        shown: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        models = [{**asdict(model), "monitors": [m.to_json() for m in model.monitors]} for model in self.models]
        return {**shown, "fields": self.fields.model_dump(), "privacy": dict(self.privacy), "models": models}

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Self:
        """From a frame."""
        models = tuple(
            ModelPlan(**{**model, "monitors": tuple(map(Monitor.from_json, model["monitors"]))})
            for model in shown["models"]
        )
        return cls(**{**shown, "fields": Fields.model_validate(shown["fields"]), "models": models})


@dataclass(frozen=True, slots=True)
class Champion:
    """The version whose rows are measured, and the reference that it logged."""

    version: str = ""
    """Empty when nobody knows: then all rows count."""
    path: str = ""
    """Its reference file; empty when there is none."""
    digest: str = ""
    """SHA-256 of that file."""
    why: str = "nobody has said yet which version is champion"
    """Why there is no reference; empty when there is one."""


def stream_plans(config: Config, monitors: Iterable[Monitor]) -> tuple[StreamPlan, ...]:
    """The plans of all streams that a model predicts on, in order of their names."""
    wanted: dict[str, list[Monitor]] = {}
    for monitor in monitors:
        wanted.setdefault(monitor.model, []).append(monitor)
    plans = (_stream_plan(config, name, wanted) for name in sorted(config.streams))
    return tuple(plan for plan in plans if plan is not None)


def _stream_plan(config: Config, name: str, monitors: Mapping[str, list[Monitor]]) -> StreamPlan | None:
    stream = config.streams[name]
    models = {key: model for key, model in sorted(config.models.items()) if model.stream == name}
    if not models:
        return None
    kserve = stream.kserve or Kserve()
    return StreamPlan(
        name=name,
        predictions=stream.topic or str(config.home / stream.predictions),
        labels=(stream.label_topic or "")
        if stream.topic
        else str(config.home / stream.labels)
        if stream.labels
        else "",
        pattern=stream.pattern,
        complete=stream.complete,
        stable_for=_seconds(stream.stable_for),
        poll=_seconds(stream.poll),
        fields=stream.fields,
        privacy=stream.privacy,
        join_rate=stream.join_rate,
        horizon=_seconds(stream.horizon),
        idle=_seconds(stream.idle),
        dead_letters=str(Path(config.home) / "dead-letters" / name),
        models=tuple(_model_plan(key, model, monitors.get(key, [])) for key, model in models.items()),
        kind=stream.kind,
        format=stream.format,
        slice=_seconds(stream.slice),
        lateness=_seconds(stream.lateness),
        group=stream.group or f"driftd-{name}",
        dead_letter_topic=stream.dead_letters,
        remember=_seconds(stream.remember),
        inputs=kserve.inputs,
        component=kserve.component,
        within=_seconds(kserve.within),
        broker=_broker(config.kafka[stream.connection]) if stream.kind == "kafka" else {},
        archive=str(config.home / stream.predictions) if stream.archive else "",
        label_archive=str(config.home / stream.labels) if stream.archive and stream.labels else "",
    )


def _model_plan(name: str, model: Model, monitors: list[Monitor]) -> ModelPlan:
    return ModelPlan(name, model.registered, model.task, tuple(sorted(monitors, key=lambda monitor: monitor.name)))


def _broker(connection: KafkaConnection) -> dict[str, Any]:
    """The connection as JSON, with its secrets: it goes to the worker through a pipe."""
    shown = connection.model_dump(mode="json", exclude={"sasl", "timeout", "refresh"})
    sasl = connection.sasl
    if sasl is not None:
        secrets = {role: getattr(sasl, role).value.get_secret_value() for role in ("username", "password")}
        shown["sasl"] = {"mechanism": sasl.mechanism, **secrets}
    return {**shown, "timeout": _seconds(connection.timeout), "refresh": _seconds(connection.refresh)}


def _seconds(value: timedelta) -> float:
    return value.total_seconds()


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
