"""What handlers import: the only module of the daemon that code in `handlers/` may use.

A verb is one file in `handlers/`: a `VERB` that declares its inputs, what it needs and gives, and its target; and a
`run(call, context)` that makes one step of progress and returns an outcome. It never sleeps and never loops: work that
takes long is started, `Working` is returned, and the next call looks at where it stands. It may be called twice for the
same call at any point; names derived from `call.id` make the second one find what the first one made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from daemon.clients.base import ModelVersion, RegisteredModel, Registry
from daemon.config import Channel, Config, Model, Stream
from daemon.core import canary as judge
from daemon.core.calls import Again, Answer, Call, Done, Failed, Inconclusive, Outcome, Working
from daemon.core.canonical import canonical, content_id, unit_hash
from daemon.core.durations import parse_duration, write_duration
from daemon.core.errors import BadInput, ClientError, Conflict, Refused, Unavailable
from daemon.core.events import LATENCY_EDGES_MS, Event, Recorded
from daemon.core.manifests import filled
from daemon.core.programs import Parameter, Template
from daemon.core.runs import UNDO_STEP
from daemon.parts import Duration
from daemon.platforms.base import Applied, Jobs, JobSpec, JobState, JobStatus, Nodes, Objects, Served, Serving, Traffic

__all__ = [
    "LATENCY_EDGES_MS", "UNDO_STEP", "Again", "Answer", "Applied", "BadInput", "Call", "Channel", "ClientError", "Config", "Conflict", "Context",
    "Done", "Duration", "Event", "Failed", "Inconclusive", "Inputs", "JobSpec", "JobState", "JobStatus", "Jobs", "Model",
    "ModelVersion", "Nodes", "Objects", "Outcome", "Parameter", "Recorded", "Refused", "RegisteredModel", "Registry", "Served", "Serving",
    "Stream", "Template", "Traffic", "Unavailable", "Verb", "Working", "canonical", "content_id", "filled", "judge",
    "parse_duration",
    "unit_hash", "write_duration",
]  # fmt: skip


class Inputs(BaseModel):
    """Base of a verb's inputs: what a rule author may write under it. Unknown keys are mistakes with their position."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Verb:
    """The declaration of a verb: what rules are checked against."""

    name: str
    doc: str
    inputs: type[Inputs]
    needs: tuple[str, ...] = ()
    """Outputs that an earlier step (or the triggering event) must give, e.g. `version`."""
    gives: tuple[str, ...] = ()
    """Outputs for later steps."""
    target: Literal["serving", "registry", "training", "none"] = "none"
    """What is locked while a run with this step lives: `serving:car-loan`, `training:car-loan`; none: nothing."""
    changes: bool = False
    """It changes production although it locks nothing: a freeze holds it back all the same."""
    traffic: bool = False
    """It may touch traffic: from then on the run can only end promoted, rolled back or stuck."""
    deadline: Callable[[Inputs], float] = lambda _inputs: 3600.0
    """Longest that the step may take, in seconds."""

    @property
    def changes_production(self) -> bool:
        """A freeze holds back what it does."""
        return self.changes or self.target != "none"


class Context(Protocol):
    """What a handler may use. Everything has a timeout; everything outside raises the ClientError tree."""

    @property
    def config(self) -> Config:
        """All of config.yaml."""
        ...

    @property
    def jobs(self) -> Jobs:
        """Programs that run to an end."""
        ...

    @property
    def serving(self) -> Serving:
        """Versions and their traffic."""
        ...

    @property
    def nodes(self) -> Nodes:
        """Nodes of a cluster; Refused where there is none."""
        ...

    @property
    def objects(self) -> Objects:
        """Objects of a cluster; Refused where there is none."""
        ...

    @property
    def registry(self) -> Registry:
        """The model registry."""
        ...

    @property
    def now(self) -> datetime:
        """The time, aware UTC."""
        ...

    @property
    def evidence(self) -> Path:
        """A folder of this run for files that its report links to."""
        ...

    def model(self, name: str) -> Model:
        """The model's entry in config.yaml; Refused when there is none."""
        ...

    def target(self, name: str) -> str:
        """The model's serving target."""
        ...

    def template(self, name: str) -> Template:
        """An approved template; Refused when there is none."""
        ...

    def events(self, kind: str, subject: str, after: int, limit: int = 1000) -> tuple[Recorded, ...]:
        """Stored events of a type about a subject with `seq > after`, in order."""
        ...

    def last_seq(self) -> int:
        """The newest event's place."""
        ...

    def quarantined(self, model: str, version: str) -> str:
        """Why this version (or one with the same artifacts) is barred; empty when it is not."""
        ...

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float = 10.0) -> int:
        """POST over HTTP; the status code. Unavailable when there is no answer."""
        ...
