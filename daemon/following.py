"""A daemon that does not lead yet: it waits for the lead, says so to probes, and does nothing else.

Several daemons may share a PostgreSQL. One leads: it takes events, decides and calls. The others follow: each asks for the
lead a few times a second and takes it when the leader leaves or has said nothing for its lease. A follower has no sources,
no monitors and no webhook, so nothing is in its memory that could be old when it comes to lead; it reads all from the store
then. It is ready as long as it could take the lead: a rollout waits for ready pods, and would wait for ever otherwise.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from daemon import __version__
from daemon.config import Config
from daemon.core.errors import StoreBusy
from daemon.store.base import Store
from daemon.storing import open_store
from daemon.web.families import gauge
from daemon.web.server import WebServer

ASKING_S = 0.25
"""How often a follower asks for the lead."""


class Following(Collector):
    """One daemon's wait. `status` and `text` may be called from any thread."""

    def __init__(self, config: Config, opened: Callable[[Config], Store] = open_store) -> None:
        self._config = config
        self._opened = opened
        self._store: Store | None = None
        self._why = "it has not asked yet"
        self._log = structlog.get_logger("app")
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def lead(self, stop: threading.Event) -> Store | None:
        """Wait until this process leads, and serve probes meanwhile: the store that it leads; None when `stop` came first.

        A file is led at once, or StoreBusy is raised: another daemon on this machine has it.
        """
        if self._config.store.kind == "sqlite":
            return self._opened(self._config)
        try:
            led = self._leads() or self._wait(stop)
        except BaseException:
            self._close()
            raise
        if not led:
            self._close()
        return self._store

    def _wait(self, stop: threading.Event) -> bool:
        """Ask until this process leads, or `stop` is set."""
        over, web = threading.Event(), self._config.web
        pages = threading.Thread(
            target=lambda: None if web is None else WebServer(web, self, self).run(over), name="web", daemon=True
        )
        pages.start()
        try:
            while not self._leads():
                if stop.wait(ASKING_S):
                    return False
            return True
        finally:
            over.set()
            pages.join(10)

    def deadly(self) -> str:
        """Nothing that a new process would do better."""
        return ""

    def status(self) -> Mapping[str, Any]:
        """As `Condition.status`, as far as a follower has it."""
        ready = self._store is not None
        reasons = [] if ready else [f"the store cannot be reached: {self._why}"]
        return {"version": __version__, "ready": ready, "reasons": reasons, "role": "follower", "waits_for": self._why}

    def text(self, accepted: str) -> tuple[bytes, str]:
        """Its figures, in the best format that an Accept header takes, and the format's name."""
        encode, kind = choose_encoder(accepted)
        return encode(self._registry), kind

    def describe(self) -> list[Metric]:
        """Nothing: what there is, is known when it is asked for."""
        return []

    def collect(self) -> list[Metric]:
        """All families."""
        build = {"version": __version__, "python": platform.python_version()}
        return [
            InfoMetricFamily("driftd_build", "What runs.", build),
            gauge("ready", "Whether it is ready; GET /readyz says why not.", self._store is not None),
            gauge("leads", "Whether this process takes events, decides and calls; else it waits for the lead.", 0),
        ]

    def _leads(self) -> bool:
        """Ask for the lead."""
        try:
            if self._store is None:
                self._store = self._opened(self._config)
            epoch = self._store.lead()
        except StoreBusy as error:
            # Who leads is told again and again with other seconds left; that is one reason.
            if str(error).partition(", for ")[0] != self._why.partition(", for ")[0]:
                self._log.info("daemon.follows", why=str(error))
            self._why = str(error)
            return False
        self._log.info("daemon.leads", epoch=epoch)
        return True

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
