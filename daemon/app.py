"""The composition root: builds every part from the configuration, starts them in order, and stops them in reverse.

Order matters at start: leadership first (nobody else may write), then the writer with its rules, then the workers that
settle what was left open, and only then the sources that bring something new. Nothing here decides anything.
"""

from __future__ import annotations

import functools
import gc
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from daemon import __version__
from daemon.clients.registry import RegistryProcess
from daemon.condition import STOPPING, Condition
from daemon.config import Config
from daemon.context import LiveContext, Services
from daemon.control import Controls, ControlServer
from daemon.core.calls import Call
from daemon.core.errors import ConfigError, DaemonError, Deposed, Mistake, StoreBusy
from daemon.core.events import Event
from daemon.core.problems import Problem
from daemon.dispatcher import Dispatcher
from daemon.following import Following
from daemon.handling import Context, Template
from daemon.intake import Batch
from daemon.logs import start_logging
from daemon.monitors.supervisor import Report, Supervisor
from daemon.platformparts import KubernetesPlatform
from daemon.platforms.base import NoCluster, Serving
from daemon.platforms.local import LocalJobs, LocalServing
from daemon.points import OnPoint, no_point
from daemon.retention import Retention
from daemon.rulefiles import Loaded as LoadedRules
from daemon.rulefiles import RuleFolder
from daemon.running import Running
from daemon.sources.base import Source
from daemon.sources.cluster import ClusterSource
from daemon.sources.mlflow import MlflowSource
from daemon.sources.payloads import Posts
from daemon.sources.schedule import ScheduleSource
from daemon.sources.storage import StorageSource
from daemon.sources.webhook import WebhookSource
from daemon.store.base import Store
from daemon.storing import open_store
from daemon.templates import load_templates
from daemon.verbs import load_verbs
from daemon.web.metrics import Metrics, Seen
from daemon.web.server import WebServer
from daemon.writer import Writer

if TYPE_CHECKING:
    from daemon.platforms.kubernetes import InCluster

RELOAD_SECONDS = 1.0
"""How often the rule files are looked at."""
LEAVE_SECONDS = 5.0
"""How long sources and watches may take, together, to leave when the daemon stops."""


def utc_now() -> datetime:
    """The one clock."""
    return datetime.now(UTC)


class App:
    """One running daemon."""

    def __init__(
        self,
        config: Config,
        on_point: OnPoint = no_point,
        clock: Callable[[], datetime] = utc_now,
        store: Store | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """`store`: one that this process leads already; it is closed with the rest."""
        self.config = config
        self.stop = stop or threading.Event()
        self._clock = clock
        self._on_point = on_point
        self._log = structlog.get_logger("app")
        self._verbs = load_verbs()
        self._rules = RuleFolder(config, {name: loaded.verb for name, loaded in self._verbs.items()})
        self._store = open_store(config) if store is None else store
        running = Running(config, {name: loaded.verb for name, loaded in self._verbs.items()})
        heads = config.home / "audit" / "heads.jsonl"
        self.writer = Writer(self._store, running, clock, heads, on_point, self._gather_evidence)
        registry = config.registry
        timeout = registry.timeout.total_seconds()
        self._registry = RegistryProcess(registry.uri, registry.artifacts, timeout, on_point)
        templates = load_templates(config.templates)
        programs = LocalJobs(config.home, on_point=on_point)
        self._in_cluster = _in_cluster(config, programs, templates, clock, on_point)
        self._gateway: LocalServing | None = None
        self._hurry: Callable[[], None] = lambda: None
        self._serving = self._serves(config, clock)
        jobs = programs if self._in_cluster is None else self._in_cluster.jobs
        there, nowhere = self._in_cluster, NoCluster()
        objects, nodes = (there.objects, there.nodes) if there is not None else (nowhere, nowhere)
        self._retention = Retention(config, jobs, self._store, clock)
        self._services = Services(
            config, jobs, self._serving, self._registry, self._store, templates, clock, objects, nodes
        )  # fmt: skip
        self._dispatcher = Dispatcher(self.writer, self._verbs, self._context, on_point=on_point)
        self._supervisor = Supervisor(config, self._registry, clock, on_point)
        self._condition = Condition(self.writer, self._supervisor, clock)
        self._web = self._web_server()
        self._control = ControlServer(
            config.home, Controls(self.writer, self.status, self.reload, self.stop.set, clock)
        )
        self._reloading = threading.Lock()
        self._threads: list[threading.Thread] = []

    # -- life

    def start(self) -> None:
        """Start everything; when it returns, events are taken and rules decide."""
        self._make_folders()
        self.writer.start()
        if self._web is not None:
            web = self._web
            self._thread("web", lambda: web.run(self.stop))
        self.reload(first=True)
        self._control.start()
        if self.config.models:
            self._registry.start()
        self._dispatcher.start()
        sources = self._all_sources()
        for source in sources:
            self._condition.watch(source)
        for source in sources:
            self._thread(source.name, functools.partial(self._keep, source))
        self._thread("rules", self._watch_rules)
        if self._gateway is not None:
            self._thread("serving", functools.partial(self._watch_gateway, self._gateway))
        self._thread("stalls", lambda: self._condition.run(self.stop))
        self._thread("retention", lambda: self._retention.run(self.stop))
        self._condition.phase = ""
        self._log.info("daemon.ready", epoch=self.writer.epoch, seq=self.writer.standing.seq, version=__version__)

    def wait(self) -> int:
        """Until somebody says stop; the exit code."""
        while not self.stop.wait(0.5):
            if self._store.lease_s == -math.inf or isinstance(self.writer.failure, Deposed):
                self._log.error(
                    "daemon.deposed", epoch=self.writer.epoch, hint="another leads; started again, this one follows"
                )
                return 5
            if self.writer.failure is not None:
                return 1
        return 0

    def close(self) -> None:
        """Stop in reverse: nothing new comes in, what is at work is settled, what is queued is stored."""
        self.stop.set()
        self._condition.phase = STOPPING
        # Who waits for a full disk or a locked database is told to give up by the writer, further down, and not before.
        patience = 0.5 if self.writer.waiting else LEAVE_SECONDS
        until = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        self._control.stop()
        self._hurry()
        self._dispatcher.stop(patience * 2)
        self._registry.stop()
        if self.writer.stop():
            self._store.close()
        self._log.info("daemon.stopped", seq=self.writer.standing.seq)

    # -- parts

    def _make_folders(self) -> None:
        """Watched folders inside our own home are ours to make; others are not, and are reported when they are missing."""
        config = self.config
        streams = config.streams.values()
        wanted = [entry.path for entry in config.folders.values()]
        wanted += [stream.predictions for stream in streams] + [stream.labels for stream in streams if stream.labels]
        for path in (config.home / path for path in wanted):
            if path.is_relative_to(config.home):
                path.mkdir(parents=True, exist_ok=True)

    def _all_sources(self) -> list[Source]:
        config, clock = self.config, self._clock
        sources: list[Source] = [
            StorageSource(name, entry, config.home, clock, self._on_point) for name, entry in config.folders.items()
        ]
        registry: MlflowSource | None = None
        if config.models:
            registry = MlflowSource(self._registry, config.models, config.registry.poll.total_seconds(), clock)
            sources.append(registry)
        sources.extend(ScheduleSource(name, entry, clock) for name, entry in config.schedules.items())
        posts = _posts(config, clock)
        if config.webhook.hooks or posts is not None:
            sources.append(WebhookSource(config.webhook, clock, registry.wake if registry else lambda: None, posts))
        sources.extend(_topics(config, clock))
        sources.extend(_nodes(config, clock))
        sources.extend(_gateway_logs(config, clock))
        if self._in_cluster is not None:
            sources.append(ClusterSource(self._in_cluster, clock))
        if config.streams:
            sources.append(self._supervisor)
        return sources

    def _web_server(self) -> WebServer | None:
        config = self.config
        if config.web is None:
            return None
        verbs = frozenset(self._verbs)
        seen = Seen(self._condition, self.writer, self._supervisor, self._store, config.store.path, verbs, self._clock)
        return WebServer(config.web, self._condition, Metrics(seen))

    def _context(self, call: Call) -> Context:
        return LiveContext(self._services, call.run)

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # -- keeping it all going

    def _keep(self, source: Source) -> None:
        """Run a source until the end; one that breaks is reported and started again, ever more slowly."""
        pause = 1.0
        while not self.stop.is_set():
            began = time.monotonic()
            try:
                source.run(self.writer, self.stop)
            except Exception as error:  # noqa: BLE001 - a source that breaks is started again
                self._log.exception("source.broke", source=source.name, why=str(error))
                self._report(Problem("worker", source.name, f"it broke and is started again: {error}"))
            if time.monotonic() - began > 60:
                pause = 1.0
            self.stop.wait(pause)
            pause = min(pause * 2, 60.0)

    def _watch_rules(self) -> None:
        while not self.stop.wait(RELOAD_SECONDS):
            if not self._rules.changed():
                continue
            try:
                self.reload()
            except ConfigError as error:
                self._log.warning("rules.kept", mistakes=[str(mistake) for mistake in error.mistakes])
            except StoreBusy as error:
                self._log.warning("rules.not_loaded", why=str(error))
                self._rules.forget()

    def _serves(self, config: Config, clock: Callable[[], datetime]) -> Serving:
        """Who serves models: KServe where the platform says so, else the local gateway."""
        if (
            self._in_cluster is None
            or not isinstance(config.platform, KubernetesPlatform)
            or config.platform.serving == "gateway"
        ):
            self._gateway = LocalServing(config, self._on_point)
            return self._gateway
        from daemon.served import kserve  # noqa: PLC0415 - who has no cluster need not wait for kubernetes

        parts = (config, config.platform.serving, self._in_cluster.cluster, self._registry, self._store)
        serving = kserve(*parts, clock, self._on_point)
        self._hurry = serving.close
        return serving

    def _watch_gateway(self, gateway: LocalServing) -> None:
        while not self.stop.is_set():
            try:
                gateway.ensure()
            except DaemonError as error:
                self._log.warning("serving.unavailable", why=str(error))
            self.stop.wait(2.0)

    def _report(self, problem: Problem) -> None:
        try:
            self.writer.submit(Batch(problems=(problem,)))
        except DaemonError as error:
            self._log.warning("problem.not_stored", place=problem.where, reason=problem.reason, why=str(error))

    def _gather_evidence(self, run: str, trigger: Event) -> None:
        """A run began because of a measurement: keep Evidently's report on that window while its sample is there."""
        if "window" not in trigger.data:
            return
        folder = self.config.home / "evidence" / run
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._log.warning("evidence.not_asked", run=run, why=str(error))
            return
        data = trigger.data
        path = str(folder / "drift-report.html")
        asked = Report(data["stream"], data["monitor"], data["segment"], int(data["window"]["last"]), path)
        if not self._supervisor.evidence(asked):
            self._log.warning("evidence.not_asked", run=run, why="too many reports wait")

    # -- for the control socket

    def reload(self, first: bool = False) -> Mapping[str, Any]:
        """Read the rules and put them in force, all or nothing; ConfigError leaves the last good set in force.

        StoreBusy when neither the rules nor what is wrong with them could be stored: to be done again.
        """
        with self._reloading:
            return self._reload(first)

    def _reload(self, first: bool) -> Mapping[str, Any]:
        try:
            loaded = self._rules.load()
        except ConfigError as error:
            self.writer.submit(Batch(problems=tuple(_problem_of(mistake) for mistake in error.mistakes)))
            if not first:
                raise
            # A daemon that restarts beside a broken file goes on with the set that was in force before.
            loaded = self._last_good(error)
        self.writer.load(loaded.rules, loaded.files)
        self._supervisor.apply(loaded.monitors)
        self._log.info("rules.loaded", revision=loaded.rules.revision, rules=len(loaded.rules.rules))
        return {"revision": loaded.rules.revision, "rules": len(loaded.rules.rules)}

    def _last_good(self, error: ConfigError) -> LoadedRules:
        with self._store.read() as session:
            rows = session.rows("newest_ruleset")
        if not rows:
            raise error
        return self._rules.parse(orjson.loads(rows[0][0]))

    def status(self) -> Mapping[str, Any]:
        """How it is doing, as JSON values: see Condition.status; and `web`: where that is told over HTTP."""
        web = {} if self._web is None else {"web": self._web.status()}
        return {**self._condition.status(), **web}


def _problem_of(mistake: Mistake) -> Problem:
    return Problem("rule", f"{mistake.file}:{mistake.line}:{mistake.column}", mistake.message)


def _posts(config: Config, clock: Callable[[], datetime]) -> Posts | None:
    hooks = config.webhook.streams
    folders = {name: config.home / config.streams[name].predictions for name in hooks}
    return Posts(hooks, folders, clock) if hooks else None


def _in_cluster(
    config: Config,
    programs: LocalJobs,
    templates: Mapping[str, Template],
    clock: Callable[[], datetime],
    on_point: OnPoint,
) -> InCluster | None:
    if not isinstance(config.platform, KubernetesPlatform):
        return None
    from daemon.platforms.kubernetes import InCluster  # noqa: PLC0415 - who has no cluster need not wait for kubernetes

    return InCluster(config.platform, programs, templates, clock, on_point)


def _topics(config: Config, clock: Callable[[], datetime]) -> list[Source]:
    if not config.topics:
        return []
    from daemon.sources.kafka import KafkaSource  # noqa: PLC0415 - who has no topics need not wait for kafka-python

    return [
        KafkaSource(name, entry, config.kafka[entry.connection], config.home, clock)
        for name, entry in config.topics.items()
    ]


def _nodes(config: Config, clock: Callable[[], datetime]) -> list[Source]:
    if not config.nodes:
        return []
    from daemon.sources.nodes import NodesSource  # noqa: PLC0415 - who watches no nodes need not wait for kubernetes

    platform = config.platform
    shared = platform if isinstance(platform, KubernetesPlatform) else None
    return [
        NodesSource(name, entry, connection, clock)
        for name, entry in config.nodes.items()
        if (connection := entry.cluster or shared) is not None
    ]


def _gateway_logs(config: Config, clock: Callable[[], datetime]) -> list[Source]:
    if all(stream.kind == "files" for stream in config.streams.values()):
        return []
    from daemon.sources.gatewaylog import gateway_logs  # noqa: PLC0415 - as above

    return [*gateway_logs(config, clock)]


def settle_garbage() -> None:
    """What is there by now stays, and the collector need not look through it again: that took 50 ms, with all else waiting.

    What comes later is mostly freed without it, so it comes less often than usual.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    gc.enable()


def stop_at_signals(stop: threading.Event) -> None:
    """From now on SIGTERM and SIGINT set `stop`. Call it in the main thread.

    A Python handler runs in the middle of whatever the main thread does, also while that holds the lock inside of `stop`
    and would wait for itself; so the interpreter writes a byte instead (set_wakeup_fd), and a thread sets `stop`.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)

    def listen() -> None:
        os.read(told, 1)
        stop.set()

    threading.Thread(target=listen, name="signals", daemon=True).start()


def run(config: Config, on_point: OnPoint = no_point) -> int:
    """Run the daemon until SIGTERM, SIGINT or a word on the control socket; its exit code. It may have to wait for the lead."""
    start_logging()
    stop = threading.Event()
    stop_at_signals(stop)
    store = Following(config).lead(stop)
    if store is None:
        return 0
    try:
        app = App(config, on_point, store=store, stop=stop)
    except BaseException:
        store.close()
        raise
    try:
        app.start()
        settle_garbage()
        return app.wait()
    finally:
        app.close()
