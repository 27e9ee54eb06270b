"""A world for handlers: the protocols in one process, with the gateway's own split, and crashes at every operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.clients.base import ModelVersion, RegisteredModel
from daemon.config import Config, Model
from daemon.core.calls import Again, Call, Done, Failed, Inconclusive, Outcome, Working
from daemon.core.errors import Refused, Unavailable
from daemon.core.events import LATENCY_EDGES_MS, Event, Recorded
from daemon.gateway.split import Split
from daemon.handling import Template
from daemon.platforms.base import JobSpec, JobState, JobStatus, Served, Traffic

START = datetime(2026, 1, 1, tzinfo=UTC)
Run = Callable[[Call, Any], Outcome]


class Crash(Exception):
    """The process died right after an operation outside."""


@dataclass
class World:
    """Everything outside, and the context that shows it to a handler."""

    config: Config
    now: datetime = START
    split: Split = field(default_factory=lambda: Split("car-loan"))
    loaded: dict[str, bool] = field(default_factory=dict)
    """Deployed versions; they load at once unless they are in `broken`."""
    broken: set[str] = field(default_factory=set)
    versions: dict[str, ModelVersion] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    log: list[Recorded] = field(default_factory=list)
    jobs_made: dict[str, JobSpec] = field(default_factory=dict)
    job_states: dict[str, JobStatus] = field(default_factory=dict)
    served_by: dict[str, int] = field(default_factory=dict)
    posts: list[tuple[str, bytes, dict[str, str]]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    barred: dict[str, str] = field(default_factory=dict)
    templates: dict[str, Template] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    """Every operation that changed something outside, in order."""
    away: set[str] = field(default_factory=set)
    """Services that do not answer: `serving`, `log`, `registry`, `jobs`, `http`."""
    real_jobs: Any = None
    real_registry: Any = None
    real_serving: Any = None
    objects: Any = None
    crash_after: int | None = None
    """Die after this many further operations."""

    # -- the context

    @property
    def jobs(self) -> Any:
        """Itself: it is every service that no real one stands for."""
        return self.real_jobs or self

    @property
    def serving(self) -> Any:
        """Itself, or the real one."""
        return self.real_serving or self

    @property
    def registry(self) -> Any:
        """Itself, or the real one."""
        return self.real_registry or self

    @property
    def evidence(self) -> Path:
        """No handler writes evidence files in these tests."""
        raise AssertionError("must not be called")

    def model(self, name: str) -> Model:
        """See Context."""
        return self.config.models[name]

    def target(self, name: str) -> str:
        """See Context."""
        return name

    def template(self, name: str) -> Template:
        """See Context."""
        if name not in self.templates:
            raise Refused("templates", "read", f"there is no template {name!r}")
        return self.templates[name]

    def events(self, kind: str, subject: str, after: int, limit: int = 1000) -> tuple[Recorded, ...]:
        """See Context."""
        chosen = [
            one for one in self.log if one.event.type == kind and one.event.subject == subject and one.seq > after
        ]
        return tuple(chosen[:limit])

    def last_seq(self) -> int:
        """See Context."""
        return len(self.log)

    def quarantined(self, model: str, version: str) -> str:
        """See Context."""
        return self.barred.get(version, "")

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float = 10.0) -> int:
        """See Context; answers come from `statuses`."""
        self._reached("http")
        self.posts.append((url, body, dict(headers)))
        return self._did("post", self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0])

    # -- serving

    def deploy(self, target: str, version: str, model_uri: str) -> None:
        """See Serving."""
        self._reached("serving")
        if version not in self.loaded:
            self.loaded[version] = version not in self.broken
            self.changes.append(f"deploy {version}")
        self._did("deploy", None)

    def traffic(self, target: str) -> Traffic:
        """See Serving."""
        self._reached("serving")
        return Traffic(self.split.weights, self.split.epoch, dict(self.loaded), self.split.by)

    def shift(self, target: str, weights: Mapping[str, float], epoch: int, by: str) -> Traffic:
        """See Serving; the gateway's own rules."""
        self._reached("serving")
        for version, share in weights.items():
            if share and not self.loaded.get(version):
                raise Refused("serving", "shift", f"version {version} is not ready")
        made = self.split.shifted(weights, epoch, by)
        if made is not self.split:
            self.split = made
            self.changes.append(f"shift {made.weights}")
        return self._did("shift", self.traffic(target))

    def retire(self, target: str, version: str) -> None:
        """See Serving."""
        self._reached("serving")
        assert not self.split.weights.get(version)
        if self.loaded.pop(version, None) is not None:
            self.changes.append(f"retire {version}")
        self._did("retire", None)

    def settle(self, target: str) -> str:
        """See Serving."""
        self._reached("serving")
        return ""

    def served(self, target: str, since: str) -> Served:
        """See Serving; the log may be away on its own."""
        self._reached("serving")
        self._reached("log")
        return Served(dict(self.served_by), since)

    # -- registry

    def models(self, names: Mapping[str, int]) -> tuple[RegisteredModel, ...]:
        """No handler lists models."""
        raise AssertionError("must not be called")

    def version(self, name: str, version: str) -> ModelVersion:
        """See Registry."""
        self._reached("registry")
        if version not in self.versions:
            raise Refused("registry", "version", f"no version {version}")
        return self.versions[version]

    def alias(self, name: str, alias: str) -> str:
        """See Registry."""
        self._reached("registry")
        return self.aliases.get(alias, "")

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """See Registry."""
        self._reached("registry")
        self.aliases[alias] = version
        self.changes.append(f"alias {alias} {version}")
        self._did("set_alias", None)

    def set_tag(self, name: str, version: str, key: str, value: str) -> None:
        """See Registry."""
        self._reached("registry")
        known = self.versions[version]
        self.versions[version] = replace(known, tags={**known.tags, key: value})
        self._did("set_tag", None)

    def find(self, name: str, tag: str, value: str) -> ModelVersion | None:
        """See Registry."""
        self._reached("registry")
        return next((one for one in reversed(self.versions.values()) if one.tags.get(tag) == value), None)

    def location(self, name: str, version: str) -> str:
        """No handler asks where artifacts lie."""
        raise AssertionError("must not be called")

    def digest(self, name: str, version: str) -> str:
        """See Registry."""
        self._reached("registry")
        return f"digest-{version}"

    def fetch(self, name: str, version: str, artifact: str, folder: str) -> str:
        """No handler fetches artifacts itself."""
        raise AssertionError("must not be called")

    # -- jobs

    def submit(self, spec: JobSpec) -> JobStatus:
        """See Jobs."""
        self._reached("jobs")
        if spec.id not in self.jobs_made:
            self.jobs_made[spec.id] = spec
            self.changes.append(f"job {spec.id}")
            self.job_states.setdefault(spec.id, JobStatus(JobState.RUNNING, "runs", {}, ""))
        return self._did("submit", self.job_states[spec.id])

    def status(self, job: str) -> JobStatus:
        """See Jobs."""
        self._reached("jobs")
        if job not in self.jobs_made:
            return JobStatus(JobState.UNKNOWN, "no such job", {}, "")
        return self.job_states[job]

    def cancel(self, job: str, why: str) -> None:
        """See Jobs."""
        self._reached("jobs")
        self.changes.append(f"cancel {job}")
        self.job_states[job] = JobStatus(JobState.FAILED, why, {}, "")

    # -- for the tests

    def ends(self, job: str, state: JobState, outputs: Mapping[str, Any] | None = None, why: str = "") -> None:
        """Let a job end so."""
        self.job_states[job] = JobStatus(state, why, outputs or {}, "")

    def register(self, version: str, **tags: str) -> None:
        """Put a version into the registry."""
        source = f"models:/car-loan/{version}"
        self.versions[version] = ModelVersion("car-loan", version, "1700", "run", source, "READY", dict(tags))

    def serve(self, version: str) -> None:
        """Give a version all the traffic, as its promotion by another run did."""
        self.loaded[version] = True
        self.split = self.split.shifted({version: 100}, self.split.epoch, "earlier/call")

    def measured(self, **arms: Mapping[str, Any]) -> None:
        """Store a block of measured traffic; arms by version, e.g. `v1={...}`."""
        named = {name.removeprefix("v"): dict(arm) for name, arm in arms.items()}
        data = {"model": "car-loan", "stream": "car-loan", "arms": named}
        event = Event(f"b{len(self.log)}", "monitor:car-loan", "traffic.measured", "car-loan", self.now, data)
        self.log.append(Recorded(len(self.log) + 1, self.now, event))

    def drive(self, run: Run, call: Call, each: Callable[[], None] = lambda: None, most: int = 400) -> Outcome:
        """Run the call to its end; a `Crash` loses the state of the call that it met. `each` happens between two calls."""
        for _ in range(most):
            try:
                outcome = run(call, self)
            except Crash:
                self.crash_after = None
                continue
            if isinstance(outcome, Done | Failed | Inconclusive):
                return outcome
            wait = outcome.poll_after if isinstance(outcome, Working) else outcome.after
            self.now += timedelta(seconds=wait)
            attempt = call.attempt + isinstance(outcome, Again)
            call = replace(call, state=dict(outcome.state), attempt=attempt)
            each()
        raise AssertionError(f"no end after {most} calls: {outcome}")

    def _reached(self, service: str) -> None:
        if service in self.away:
            raise Unavailable(service, "any", "does not answer")

    def _did(self, operation: str, answer: Any) -> Any:
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                raise Crash(operation)
        return answer


def block(units: int, failed: int = 0, slow: int = 0, shift: bool = False, **more: int) -> dict[str, Any]:
    """One arm of a measured block: so many units, some failed, some slow, their scores in other bins when shifted."""
    latency = [0] * (len(LATENCY_EDGES_MS) + 1)
    latency[20], latency[40] = units - slow, slow
    scores = [0] * 20
    for unit in range(units):
        scores[unit % 20 if not shift else unit % 4] += 1
    return {
        "requests": units, "errors": failed, "units": units, "failed_units": failed, "latency": latency,
        "scores": scores, "labelled": 0, "wrong": 0, **more,
    }  # fmt: skip


@pytest.fixture
def make_block() -> Callable[..., dict[str, Any]]:
    """`block`."""
    return block


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One model, `car-loan`, with version 1 as champion serving everything, and version 2 registered."""
    fields = {"id": "id", "time": "ts", "prediction": "y", "score": "p", "label": "repaid", "features": {"a": "number"}}
    config = Config.model_validate({
        "home": tmp_path,
        "streams": {"car-loan": {"predictions": "predictions", "labels": "labels", "fields": fields}},
        "models": {"car-loan": {"task": "binary", "registered": "car-loan", "stream": "car-loan"}},
    })  # fmt: skip
    made = World(config)
    made.register("1")
    made.register("2")
    made.aliases["champion"] = "1"
    made.serve("1")
    return made


@pytest.fixture
def call() -> Callable[..., Call]:
    """Makes a call: `call("canary", {"steps": [5]}, {"version": "2"})`."""

    def make(verb: str, inputs: Mapping[str, Any], given: Mapping[str, Any] | None = None, **more: Any) -> Call:
        trigger = Event(
            "e1", "registry:mlflow", "model.registered", "car-loan", START, {"model": "car-loan", "version": "2"}
        )
        values: dict[str, Any] = {
            "id": f"call-{verb}", "run": "run1", "step": 0, "verb": verb, "model": "car-loan", "inputs": inputs,
            "given": given or {}, "state": {}, "trigger": trigger, "attempt": 0, "deadline": START + timedelta(hours=2),
            "chain": ("run1",),
        }  # fmt: skip
        return Call(**{**values, **more})

    return make
