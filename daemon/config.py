"""config.yaml -> Config: where things are. All mistakes at once, each with file:line:col.

The only module that reads the environment: `DRIFTD_CONFIG`, `DRIFTD_HOME` and the secrets that config.yaml names.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from daemon.core.durations import parse_duration

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
"""`10s`, `5m`, `2h`, `1d` or a sum of them (`1h30m`)."""


class _Part(BaseModel):
    """Frozen, and strict about keys: a misspelt key is a mistake, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Secret(_Part):
    """A secret by reference, never by value: from an environment variable or a file."""

    env: str | None = None
    file: Path | None = None
    value: SecretStr = SecretStr("")
    """Filled in at load; cannot be written in the file."""


class StoreConfig(_Part):
    """Where driftd keeps its events, decisions, runs and audit."""

    kind: Literal["sqlite"] = "sqlite"
    path: Path = Path("store.db")
    """Relative to `home`."""


class RegistryConfig(_Part):
    """The MLflow registry."""

    uri: str = "sqlite:///{home}/mlflow.db"
    """Tracking and registry URI; `{home}` is driftd's home folder."""
    artifacts: str = "{home}/artifacts"
    """Where artifacts go when the registry's database is a file."""
    poll: Duration = timedelta(seconds=30)
    timeout: Duration = timedelta(seconds=30)


class GatewayConfig(_Part):
    """The local model gateway."""

    host: str = "127.0.0.1"
    port: int = 8801
    segment: Duration = timedelta(seconds=1)
    """How long a prediction-log file is written to before it is closed and renamed in."""
    timeout: Duration = timedelta(seconds=10)
    """A request that takes longer counts as failed."""


class PlatformConfig(_Part):
    """Where jobs run and models are served."""

    kind: Literal["local"] = "local"
    memory_mb: int = 4096
    """Most memory that a job may have unless its template says less."""
    seconds: Duration = timedelta(hours=1)
    """Longest a job may run unless its template says less."""
    gateway: GatewayConfig = GatewayConfig()


class StorageSource(_Part):
    """A watched folder whose complete new files are `data.landed` events."""

    kind: Literal["storage"] = "storage"
    path: Path
    """Relative to `home`."""
    pattern: str = "*"
    """Which file names count (fnmatch); names that start with `.` or end in `.part`, `.tmp` never do."""
    complete: Literal["renamed", "marker", "stable"] = "stable"
    """When a file counts: it was renamed or closed in place; a marker `NAME.done` lies beside it; its size stood still."""
    stable_for: Duration = timedelta(seconds=2)
    poll: Duration = timedelta(seconds=5)
    """How often the folder is listed beside the notifications (and instead of them where there are none)."""


class Schedule(_Part):
    """A schedule: `schedule.due` at each of its times."""

    cron: str | None = None
    """Five fields, as crontab writes them."""
    every: Duration | None = None
    start: str | None = None
    """ISO time from which `every` counts; default: the epoch."""
    timezone: str = "UTC"
    misfire: Literal["skip", "once", "all"] = "once"
    """Times that passed while driftd was down: none of them, one event for all, or one event each (at most 1000)."""


class Hook(_Part):
    """A webhook that takes signed CloudEvents at /hooks/NAME."""

    secret: Secret
    window: Duration = timedelta(minutes=5)
    """How old a signed time may be; within it an id is taken once."""


class WebhookConfig(_Part):
    """Where webhooks listen; no hooks, no listener."""

    host: str = "127.0.0.1"
    port: int = 8800
    hooks: dict[str, Hook] = {}
    max_bytes: int = 1_000_000


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
    """A stream of prediction records in files, and of their labels."""

    kind: Literal["files"] = "files"
    predictions: Path
    """Folder, relative to `home`; JSONL, CSV or Parquet by file name."""
    labels: Path | None = None
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


class Budget(_Part):
    """How much of a verb may happen."""

    concurrent: int | None = Field(default=None, ge=1)
    """Runs at once, over all models."""
    per_target: int | None = Field(default=None, ge=1)
    """Runs per target and day."""
    per_day: int | None = Field(default=None, ge=1)
    """Runs per day (24 h back from now), over all models."""


class Breaker(_Part):
    """Stops starting runs on a target that keeps failing."""

    failures: int = Field(default=3, ge=1)
    """Consecutive failed runs of a target after which it opens."""
    reset: Duration = timedelta(hours=6)
    """After so long one run may try again."""


class Channel(_Part):
    """Somebody to tell."""

    kind: Literal["webhook", "slack", "log"]
    url: Secret | None = None
    secret: Secret | None = None
    """Signs the request (HMAC), for kind webhook."""


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
    platform: PlatformConfig = PlatformConfig()
    sources: dict[str, StorageSource] = {}
    schedules: dict[str, Schedule] = {}
    webhook: WebhookConfig = WebhookConfig()
    streams: dict[str, Stream] = {}
    models: dict[str, Model] = {}
    budgets: dict[str, Budget] = {}
    """Per verb."""
    breaker: Breaker = Breaker()
    channels: dict[str, Channel] = {}
    """Who `notify: {to: NAME}` means."""
    root: Path = Path()
    """Folder of the file; filled in at load."""
