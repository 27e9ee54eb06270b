"""config.yaml -> Config: where things are. All mistakes at once, each with file:line:col.

The only module that reads the environment: `DRIFTD_CONFIG`, `DRIFTD_HOME` and the secrets that config.yaml names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, SecretStr

from daemon import kafkaparts, limitparts, nodeparts, payloadparts, platformparts, sourceparts, storeparts
from daemon.core.errors import ConfigError, Mistake
from daemon.core.spelling import did_you_mean
from daemon.documents import Document, Where, load, parse
from daemon.kafkaparts import KafkaConnection, KafkaSource
from daemon.limitparts import Breaker, Budget, Freeze, RetentionConfig, Storm
from daemon.nodeparts import NodesSource
from daemon.parts import Duration, Part, Secret, value_of
from daemon.payloadparts import Kserve, PayloadHook
from daemon.platformparts import AnyPlatform, PlatformConfig
from daemon.sourceparts import AnySource, Schedule, StorageSource
from daemon.storeparts import StoreConfig
from daemon.webparts import Web, WebConfig, clashes


class _Part(Part, BaseModel):
    """As in parts.py; named here once more, so that the linter sees that defaults are copied."""


class RegistryConfig(_Part):
    """The MLflow registry."""

    uri: str = "sqlite:///{home}/mlflow.db"
    """Tracking and registry URI; `{home}` is driftd's home folder."""
    artifacts: str = "{home}/artifacts"
    """Where artifacts go when the registry's database is a file."""
    poll: Duration = timedelta(seconds=30)
    timeout: Duration = timedelta(seconds=30)


class Hook(_Part):
    """A webhook that takes signed CloudEvents at /hooks/NAME."""

    secret: Secret
    window: Duration = timedelta(minutes=5)
    """How old a signed time may be; within it an id is taken once."""


class WebhookConfig(_Part):
    """Where webhooks listen; no hooks and no streams, no listener."""

    host: str = "127.0.0.1"
    port: int = 8802
    hooks: dict[str, Hook] = {}
    max_bytes: int = 1_000_000
    streams: dict[str, PayloadHook] = {}
    """Streams that KServe's payload logger posts to."""


FeatureKind = Literal["number", "category"]


class Fields(_Part):
    """Which field of a prediction record means what. A dot reaches into nested records."""

    id: str
    """Prediction id; labels are joined by it."""
    time: str | None = None
    """Event time: ISO 8601 or epoch seconds/milliseconds; without it, the time the file landed."""
    unit: str | None = None
    """Who asked (customer, device): traffic is split and tested by it; default: the id."""
    model: str | None = None
    version: str | None = None
    """Model version that predicted; without it rows count as the champion's."""
    prediction: str | None = None
    score: str | None = None
    """Probability of the positive class (binary), or of the predicted class (multiclass)."""
    label: str | None = None
    """In the label files (or in the predictions themselves, when they bring it)."""
    error: str | None = None
    """Set when the request failed."""
    latency_ms: str | None = None
    features: dict[str, FeatureKind] = {}


class Stream(_Part):
    """A stream of prediction records, and of their labels, in files or on Kafka."""

    kind: Literal["files", "kafka"] = "files"
    predictions: Path
    """Folder, relative to `home`; JSONL, CSV or Parquet by file name. Of a topic: the archive that trainings read, and
    where the local gateway writes its log, which driftd sends to the topic."""
    labels: Path | None = None
    """The same for labels; without it they come with the predictions, or not at all."""
    archive: Duration | None = None
    """kafka: what is read is kept in `predictions` and `labels` for so long, so that trainings have rows; null: it is not,
    and somebody else fills the folders."""
    connection: str = ""
    """kafka: one of `kafka:`."""
    topic: str | None = None
    """kafka: where the predictions are measured from."""
    label_topic: str | None = None
    """kafka: labels, when they do not come with the predictions. Their records' timestamps place them in event time."""
    group: str = ""
    """kafka: the consumer group; default `driftd-NAME`."""
    dead_letters: str = ""
    """kafka: the topic that records go to which cannot be used, with reason and origin as headers; else they lie in files
    at home. Privacy is applied."""
    format: Literal["json", "kserve"] = "json"
    """kserve: requests and responses as KServe's payload logger sends them, paired by id. Of files: lines of CloudEvents in
    structured mode, as `webhook: streams:` writes them; of topics: as Knative writes them. Labels are JSON all the same."""
    kserve: Kserve | None = None
    """format kserve: more about it."""
    slice: Duration = timedelta(seconds=10)
    """kafka: event time is cut into slices, and windows are made of whole ones; `every` should be a multiple of it."""
    lateness: Duration = timedelta(seconds=5)
    """kafka: a slice is complete when its partition has brought a time so much behind its end; later rows are late."""
    pattern: str = "*"
    complete: Literal["renamed", "marker", "stable"] = "renamed"
    stable_for: Duration = timedelta(seconds=2)
    poll: Duration = timedelta(seconds=2)
    fields: Fields
    privacy: dict[str, Literal["keep", "hash", "drop"]] = {}
    """Per field, applied before anything is stored."""
    join_rate: float = Field(default=1.0, gt=0, le=1)
    """Share of predictions (by hash of the id) that are kept to be joined with their labels."""
    horizon: Duration = timedelta(days=30)
    """How long after a prediction its label may come, in event time."""
    idle: Duration = timedelta(minutes=10)
    """An open window is closed after so long without records (wall time)."""
    stalled: Duration | None = None
    """`source.stalled` after so long without records (wall time)."""
    remember: Duration = timedelta(days=1)
    """files: how long the content of a file that is gone is still known: until then it is a duplicate when it comes again."""


class Model(_Part):
    """A model and its place in the world: rules say its name, everything else is looked up here."""

    task: Literal["binary", "multiclass", "regression"]
    registered: str
    """Its name in the registry."""
    stream: str | None = None
    serving: str | None = None
    """Its serving target; default: the model's name."""
    alias: str = "champion"
    holdout: float = Field(default=0.2, gt=0, lt=1)
    """Share of predictions (by hash of the id) that no training may use."""
    reference: Literal["registry"] | Path = "registry"
    """The champion's logged reference (`driftd/reference.parquet`), or a file."""
    owner: str = ""


class Channel(_Part):
    """Somebody to tell."""

    kind: Literal["webhook", "slack", "log"]
    url: Secret | None = None
    secret: Secret | None = None
    """Signs the request (HMAC), for kind webhook."""


class MonitorsConfig(_Part):
    """The processes that measure streams."""

    workers: int = Field(default=1, ge=1, le=64)
    """Worker processes: streams of files are spread over them, the partitions of topics shared."""


class Config(_Part):
    """All of config.yaml."""

    home: Path
    """Everything driftd keeps lies here; relative to the file; DRIFTD_HOME stands before it."""
    rules: Path = Path("rules")
    """Folder of rule files, relative to the file."""
    templates: Path = Path("handlers/templates")
    """Folder of approved job templates, relative to the file."""
    store: StoreConfig = StoreConfig()
    registry: RegistryConfig = RegistryConfig()
    platform: AnyPlatform = PlatformConfig()
    kafka: dict[str, KafkaConnection] = {}
    """Kafka clusters, by the names that sources and streams call them."""
    sources: dict[str, AnySource] = {}
    schedules: dict[str, Schedule] = {}
    webhook: WebhookConfig = WebhookConfig()
    web: Web = WebConfig()
    streams: dict[str, Stream] = {}
    monitors: MonitorsConfig = MonitorsConfig()
    models: dict[str, Model] = {}
    budgets: dict[str, Budget] = {}
    """Per verb."""
    breaker: Breaker = Breaker()
    storm: Storm | None = None
    freeze: dict[str, Freeze] = {}
    retention: RetentionConfig = RetentionConfig()
    channels: dict[str, Channel] = {}
    """Who `notify: {to: NAME}` means."""
    root: Path = Path()
    """Folder of the file; filled in at load."""

    @property
    def folders(self) -> dict[str, StorageSource]:
        """The sources that are watched folders."""
        return {name: source for name, source in self.sources.items() if isinstance(source, StorageSource)}

    @property
    def topics(self) -> dict[str, KafkaSource]:
        """The sources that are topics of events."""
        return {name: source for name, source in self.sources.items() if isinstance(source, KafkaSource)}

    @property
    def nodes(self) -> dict[str, NodesSource]:
        """The sources that are nodes of a cluster."""
        return {name: source for name, source in self.sources.items() if isinstance(source, NodesSource)}


def load_config(
    path: Path | None = None, environ: Mapping[str, str] | None = None, with_secrets: bool = True
) -> Config:
    """Read config.yaml; raises ConfigError with every mistake in it. Paths come out absolute, secrets filled in.

    `path`: default `DRIFTD_CONFIG`, else config.yaml here. `environ`: default the process's environment. Without
    `with_secrets` secrets stay empty and are not looked for: for commands that need none, but the store's where they are.
    """
    environ = os.environ if environ is None else environ
    path = path or Path(environ.get("DRIFTD_CONFIG") or "config.yaml")
    document = load(path)
    config = parse(document, Config)
    if not isinstance(config, Config):
        raise ConfigError(config)
    config = _resolved(config, path.resolve().parent, environ)
    found = [document.mistake(where, message) for where, message in _contradictions(config)]
    if with_secrets:
        config, missing = _with_secrets(config, document, environ)
        found.extend(missing)
    else:
        config = _with_what_the_store_needs(config, environ)
    if found:
        raise ConfigError(tuple(sorted(found, key=lambda mistake: (mistake.line, mistake.column))))
    return config


def _resolved(config: Config, root: Path, environ: Mapping[str, str]) -> Config:
    """The same with absolute paths: `home` and what lies beside the file from its folder, the rest from `home`."""
    given = environ.get("DRIFTD_HOME")
    home = Path(given).expanduser().resolve() if given else (root / config.home.expanduser()).resolve()
    registry = config.registry.model_copy(update={
        "uri": config.registry.uri.replace("{home}", str(home)),
        "artifacts": config.registry.artifacts.replace("{home}", str(home)),
    })  # fmt: skip
    models = {
        name: model if model.reference == "registry" else model.model_copy(update={"reference": root / model.reference})
        for name, model in config.models.items()
    }
    return config.model_copy(update={
        "home": home, "root": root, "registry": registry, "models": models,
        # Not resolved: a git-sync or ConfigMap link must be followed anew at every look.
        "rules": root / config.rules, "templates": root / config.templates,
        "store": storeparts.rooted(config.store, home, root),
        "platform": platformparts.rooted(config.platform, root),
        "sources": {
            name: nodeparts.rooted(source, root) if isinstance(source, NodesSource) else source
            for name, source in config.sources.items()
        },
        "kafka": {name: kafkaparts.rooted(connection, root) for name, connection in config.kafka.items()},
    })  # fmt: skip


def _contradictions(config: Config) -> Iterator[tuple[Where, str]]:
    """What each part alone cannot know."""
    for name, schedule in config.schedules.items():
        for message in sourceparts.contradictions(schedule):
            yield ("schedules", name), f"schedule {name} {message}"
    for name, channel in config.channels.items():
        if channel.kind != "log" and channel.url is None:
            yield ("channels", name), f"channel {name}: kind {channel.kind} needs a url"
    yield from limitparts.contradictions(config.storm, config.freeze, config.channels)
    yield from platformparts.contradictions(config.platform, bool(config.models))
    yield from kafkaparts.contradictions(config.kafka, config.topics)
    yield from nodeparts.contradictions(config.nodes, config.platform)
    shapes = {
        name: (one.kind, one.format, one.complete, any(level != "keep" for level in one.privacy.values()))
        for name, one in config.streams.items()
    }
    yield from payloadparts.contradictions(config.webhook.streams, shapes)
    yield from storeparts.contradictions(config.store, config.registry.timeout)
    for name, message in clashes(_addresses(config)):
        yield (*name.split("."), "port"), message
    if config.retention.predictions is not None and config.retention.predictions < timedelta(days=1):
        yield (
            ("retention", "predictions"),
            "prediction logs are kept for at least a day: canaries and trainings read them",
        )
    yield from _streams(config)
    yield from _models(config)


def _addresses(config: Config) -> dict[str, tuple[str, int]]:
    parts = {
        "platform.gateway": config.platform.gateway if config.models else None,
        "webhook": config.webhook if config.webhook.hooks or config.webhook.streams else None,
        "web": config.web,
    }
    return {name: (part.host, part.port) for name, part in parts.items() if part is not None}


def _streams(config: Config) -> Iterator[tuple[Where, str]]:
    owners: dict[Path, str] = {}
    for name, stream in config.streams.items():
        for role in ("predictions", "labels"):
            folder = getattr(stream, role)
            if folder is None:
                continue
            owner = owners.setdefault(config.home / folder, f"{role} of stream {name}")
            if owner != f"{role} of stream {name}":
                yield ("streams", name, role), f"{folder} is already the folder of the {owner}"
        for field in stream.privacy:
            if field not in _names(stream.fields):
                yield ("streams", name, "privacy", field), f"stream {name} has no field {field}"
        for message in (*_topics(stream), *_format(stream)):
            yield ("streams", name), f"stream {name} {message}"
        if stream.kind == "kafka" and stream.connection not in config.kafka:
            hint = did_you_mean(stream.connection, config.kafka)
            yield ("streams", name), f"stream {name}: there is no kafka connection {stream.connection!r}{hint}"
        if stream.privacy.get(stream.fields.id) == "drop":
            yield ("streams", name, "privacy", stream.fields.id), "the id cannot be dropped: labels are joined by it"
        if stream.labels is not None and stream.fields.label is None:
            yield (
                ("streams", name, "fields"),
                f"stream {name} has label files but fields.label does not name their label",
            )


def _topics(stream: Stream) -> Iterator[str]:
    if stream.kind == "files" and (stream.topic or stream.label_topic):
        yield "has a topic but is of kind files"
    if stream.kind == "kafka" and not stream.topic:
        yield "is of kind kafka and needs a topic"
    if stream.label_topic and stream.fields.label is None:
        yield "has a label_topic but fields.label does not name their label"
    if stream.topic and stream.topic == stream.label_topic:
        yield "has the same topic for predictions and labels"
    yield from _letters(stream)
    if stream.slice < timedelta(milliseconds=100):
        yield "has slices of less than 100ms"
    of_topics, homeless = stream.kind == "kafka", bool(stream.label_topic) and stream.labels is None
    yield from kafkaparts.wrong_with_archive(stream.archive, of_topics, homeless)


def _format(stream: Stream) -> Iterator[str]:
    roles: dict[str, Any] = stream.fields.model_dump(exclude={"features"})
    features = {f"features {name}": name for name in stream.fields.features}
    yield from payloadparts.wrong_with_format(stream.kserve, stream.format == "kserve", {**roles, **features})


def _letters(stream: Stream) -> Iterator[str]:
    if stream.dead_letters and stream.kind == "files":
        yield "has dead_letters, which are a topic, but is of kind files"
    if stream.dead_letters and stream.dead_letters in {stream.topic, stream.label_topic}:
        yield "would read its own dead letters"
    for topic in filter(None, (stream.topic, stream.label_topic, stream.dead_letters)):
        if not kafkaparts.is_topic(topic):
            yield f"has a topic {topic!r}; {kafkaparts.TOPIC_NAMES}"


def _names(fields: Fields) -> set[str]:
    roles: dict[str, Any] = fields.model_dump(exclude={"features"})
    return {*(name for name in roles.values() if name), *fields.features}


def _models(config: Config) -> Iterator[tuple[Where, str]]:
    registered: dict[str, str] = {}
    serving: dict[str, str] = {}
    streams: dict[str, str] = {}
    for name, model in config.models.items():
        where: Where = ("models", name)
        other = registered.setdefault(model.registered, name)
        if other != name:
            yield (*where, "registered"), f"models {other} and {name} have the same registered name {model.registered}"
        other = serving.setdefault(model.serving or name, name)
        if other != name:
            yield (*where, "serving"), f"models {other} and {name} have the same serving target {model.serving or name}"
        if model.stream is None:
            continue
        if model.stream not in config.streams:
            hint = did_you_mean(model.stream, config.streams)
            yield (*where, "stream"), f"model {name}: there is no stream {model.stream}{hint}"
            continue
        other = streams.setdefault(model.stream, name)
        if other == name:
            continue
        if config.streams[model.stream].fields.model is None:
            yield (
                (*where, "stream"),
                f"models {other} and {name} share stream {model.stream}, whose fields.model is not set",
            )
        if config.models[other].task != model.task:
            yield (*where, "task"), f"models {other} and {name} share stream {model.stream}, so they need the same task"


def _with_what_the_store_needs(config: Config, environ: Mapping[str, str]) -> Config:
    def found(secret: Secret, _where: Where) -> Secret:
        return secret.model_copy(update={"value": SecretStr(value_of(secret, config.root, environ)[0])})

    return config.model_copy(update={"store": storeparts.filled(config.store, found)})


def _with_secrets(config: Config, document: Document, environ: Mapping[str, str]) -> tuple[Config, list[Mistake]]:
    found: list[Mistake] = []

    def filled(secret: Secret, where: Where) -> Secret:
        value, wrong = value_of(secret, config.root, environ)
        if wrong:
            found.append(document.mistake(where, wrong))
        return secret.model_copy(update={"value": SecretStr(value)})

    hooks = {
        name: hook.model_copy(update={"secret": filled(hook.secret, ("webhook", "hooks", name, "secret"))})
        for name, hook in config.webhook.hooks.items()
    }
    channels = {
        name: channel.model_copy(update={
            role: filled(secret, ("channels", name, role))
            for role in ("url", "secret") if (secret := getattr(channel, role)) is not None
        })
        for name, channel in config.channels.items()
    }  # fmt: skip
    kafka = {name: kafkaparts.filled(connection, name, filled) for name, connection in config.kafka.items()}
    for name, connection in kafka.items():
        found.extend(document.mistake(where, wrong) for where, wrong in kafkaparts.missing_files(connection, name))
    posted = {
        name: hook.model_copy(update={"token": filled(hook.token, ("webhook", "streams", name, "token"))})
        for name, hook in config.webhook.streams.items() if hook.token is not None
    }  # fmt: skip
    webhook = config.webhook.model_copy(update={"hooks": hooks, "streams": {**config.webhook.streams, **posted}})
    store = storeparts.filled(config.store, filled)
    filled_in = {"webhook": webhook, "channels": channels, "kafka": kafka, "store": store}
    return config.model_copy(update=filled_in), found
