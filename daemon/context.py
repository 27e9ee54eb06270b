"""What a handler may use, for one call: the real services behind `daemon.handling.Context`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import httpx

from daemon.clients.base import Registry
from daemon.config import Config, Model
from daemon.core.errors import Refused, Unavailable
from daemon.core.events import Recorded
from daemon.handling import Template
from daemon.platforms.base import Jobs, NoCluster, Nodes, Objects, Serving
from daemon.store.base import Store
from daemon.store.rows import event_of


@dataclass(frozen=True, slots=True)
class Services:
    """What all calls share."""

    config: Config
    jobs: Jobs
    serving: Serving
    registry: Registry
    store: Store
    templates: Mapping[str, Template]
    clock: Callable[[], datetime]
    objects: Objects = field(default_factory=NoCluster)
    nodes: Nodes = field(default_factory=NoCluster)


@dataclass(frozen=True, slots=True)
class LiveContext:
    """The context of one call of one run."""

    services: Services
    run: str

    @property
    def config(self) -> Config:
        """All of config.yaml."""
        return self.services.config

    @property
    def jobs(self) -> Jobs:
        """Programs that run to an end."""
        self._lead_holds()
        return self.services.jobs

    @property
    def serving(self) -> Serving:
        """Versions and their traffic."""
        self._lead_holds()
        return self.services.serving

    @property
    def nodes(self) -> Nodes:
        """Nodes of a cluster."""
        self._lead_holds()
        return self.services.nodes

    @property
    def objects(self) -> Objects:
        """Objects of a cluster."""
        self._lead_holds()
        return self.services.objects

    @property
    def registry(self) -> Registry:
        """The model registry. An alias has no precondition: a call must end while nobody else can lead."""
        self._lead_holds(self.config.registry.timeout.total_seconds())
        return self.services.registry

    @property
    def now(self) -> datetime:
        """The time, aware UTC."""
        return self.services.clock()

    @property
    def evidence(self) -> Path:
        """The run's folder of evidence."""
        folder = self.config.home / "evidence" / self.run
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def model(self, name: str) -> Model:
        """The model's entry in config.yaml."""
        try:
            return self.config.models[name]
        except KeyError:
            raise Refused("config.yaml", "models", f"there is no model {name!r}") from None

    def target(self, name: str) -> str:
        """The model's serving target."""
        return self.model(name).serving or name

    def template(self, name: str) -> Template:
        """An approved template."""
        try:
            return self.services.templates[name]
        except KeyError:
            known = ", ".join(sorted(self.services.templates))
            raise Refused("templates", "read", f"there is no template {name!r}", f"approved are {known}") from None

    def events(self, kind: str, subject: str, after: int, limit: int = 1000) -> tuple[Recorded, ...]:
        """Stored events of a type about a subject after a place."""
        with self.services.store.read() as session:
            rows = session.rows("events_of", kind, subject, after, limit)
        return tuple(event_of(row).recorded for row in rows)

    def last_seq(self) -> int:
        """The newest event's place."""
        with self.services.store.read() as session:
            rows = session.rows("last_event")
        return int(rows[0][0]) if rows else 0

    def quarantined(self, model: str, version: str) -> str:
        """Why this version, or one with the same artifacts, is barred."""
        name = self.model(model).registered
        found = self.registry.version(name, version)
        digest = found.tags.get("driftd.digest") or self.registry.digest(name, version)
        with self.services.store.read() as session:
            rows = session.rows("quarantined", model, version, found.created, digest)
        return str(rows[0][0]) if rows else ""

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float = 10.0) -> int:
        """POST over HTTP; the status code."""
        self._lead_holds()
        try:
            answer = httpx.post(url, content=body, headers=dict(headers), timeout=timeout)
        except httpx.HTTPError as error:
            # The message may hold the address, and an address may hold a secret.
            raise Unavailable("http", "post", type(error).__name__) from error
        return answer.status_code

    def _lead_holds(self, seconds: float = 0.0) -> None:
        """Before each use of a service: a process that was stopped, or cut off, may find that another leads by now.

        Handlers ask for a service right before they call it. What comes between is guarded by derived names and epochs.
        """
        left = self.services.store.lease_s
        if left <= seconds:
            told = (
                f"the lead is sure for {max(left, 0.0):.1f} s, and the call may take {seconds:g} s"
                if seconds
                else "another may lead by now"
            )
            raise Unavailable("driftd", "lead", f"{told}: nothing was called")
