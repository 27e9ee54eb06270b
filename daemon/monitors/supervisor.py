"""The daemon's side of the monitors: keeps a worker process up, opens streams in it, and stores what it makes.

The worker is replaced when it dies or hangs, and goes on from the store. A batch whose progress is not where it should be
is refused whole: the stream is opened anew from what the store has. The disk being full or the database locked pauses the
worker by not answering it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import structlog

from daemon.clients.base import Registry
from daemon.config import Config
from daemon.core.canonical import content_id
from daemon.core.errors import Fenced, StoreBusy
from daemon.core.events import Event
from daemon.core.monitors import Monitor
from daemon.core.problems import Problem
from daemon.intake import Batch, Cursor, Intake
from daemon.monitors.batches import batch_of
from daemon.monitors.champions import Champions
from daemon.monitors.frames import Frame
from daemon.monitors.plan import Champion, StreamPlan, stream_plans
from daemon.monitors.process import WorkerProcess
from daemon.points import OnPoint, Point, no_point
from daemon.sources.base import Health

PARTITION = "0"
INBOX = 256
"""Frames from the worker, and champions, that wait; a full inbox pauses the worker."""
REPORTS = 32
"""Most reports asked for and not yet made."""
HUNG_S = 180.0
"""A worker that has given no sign of life for so long is replaced; the largest reports take a quarter of that."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Before a dead worker is replaced; doubled each time that one died before anything of its was stored."""
BUSY_S = 0.5
"""Before a batch that could not be stored is handed in again."""
TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was asked for: Evidently's view of a closed window, as a file."""

    stream: str
    monitor: str
    segment: str
    last: int
    """Position of the window's last row: `window.last` of its events."""
    path: str


@dataclass(slots=True)
class _Stream:
    """A stream as the supervisor follows it."""

    plan: StreamPlan
    brought: datetime
    """When it last brought rows; at first, when the supervisor began."""
    is_open: bool = False
    told: datetime | None = None
    """The `brought` of the stall that was reported."""
    problem: str = ""
    skip: dict[str, str] = field(default_factory=dict)
    """Files that cannot be measured, and why: given up when the stream is opened again."""


class Supervisor:
    """A Source whose system is a worker process. `run` it in a thread; all else may be called from any thread."""

    def __init__(
        self, config: Config, registry: Registry, clock: Callable[[], datetime], on_point: OnPoint = no_point
    ) -> None:
        self._config = config
        self._on_point = on_point
        self._clock = clock
        self._log = structlog.get_logger("monitors")
        self._lock = threading.Lock()
        self._inbox: queue.Queue[tuple[str, Any]] = queue.Queue(INBOX)
        self._champions = Champions(config, registry, lambda model, champion: self._put("champion", (model, champion)))
        self._known: dict[str, Champion] = {}
        self._plans: tuple[StreamPlan, ...] = stream_plans(config, ())
        self._plans_changed = False
        self._reports: dict[Report, None] = {}
        self._streams: dict[str, _Stream] = {}
        self._worker: WorkerProcess | None = None
        self._start_at = 0.0
        self._pause = FIRST_PAUSE_S
        self._stop = threading.Event()
        self._health = Health(None, None, "")

    @property
    def name(self) -> str:
        """`monitors`."""
        return "monitors"

    @property
    def pid(self) -> int | None:
        """The worker's process id, when there is one."""
        worker = self._worker
        return worker.pid if worker is not None else None

    def apply(self, monitors: Iterable[Monitor]) -> None:
        """From now on measure these. Windows of monitors that measure the same as before go on; others begin anew."""
        plans = stream_plans(self._config, monitors)
        with self._lock:
            self._plans_changed = self._plans_changed or plans != self._plans
            self._plans = plans

    def champion_changed(self) -> None:
        """An alias may point elsewhere: ask the registry now."""
        self._champions.look_now()

    def evidence(self, report: Report) -> bool:
        """Have a report made in the worker, when it gets to it; False when too many wait or there is no such stream.

        A report that cannot be made becomes a problem.
        """
        with self._lock:
            if len(self._reports) >= REPORTS or report.stream not in self._streams:
                return False
            self._reports[report] = None
        return self._put("report", report)

    def health(self) -> Health:
        """How it is doing now."""
        return self._health

    def run(self, intake: Intake, stop: threading.Event) -> None:
        """Keep the worker up and store what it makes, until `stop` is set."""
        self._stop = stop
        now = self._clock()
        self._streams = {plan.name: _Stream(plan, now) for plan in self._plans}
        over = threading.Event()
        threading.Thread(target=self._champions.run, args=(over,), name="champions", daemon=True).start()
        try:
            while not stop.is_set():
                self._keep_up()
                try:
                    kind, what = self._inbox.get(timeout=TICK_S)
                except queue.Empty:
                    pass
                else:
                    self._handle(intake, kind, what)
                self._replan(intake)
                self._watch(intake)
        finally:
            over.set()
            self._champions.look_now()  # so that it sees that it is over
            self._end("the daemon stops")

    # -- the worker

    def _keep_up(self) -> None:
        """Start a worker when there is none, and something to measure; replace one that hangs."""
        worker = self._worker
        if worker is not None:
            if worker.silent_s() > HUNG_S:
                self._replace(f"it gave no sign of life for {HUNG_S:.0f} s")
            return
        if self._streams and time.monotonic() >= self._start_at:
            self._worker = WorkerProcess(lambda worker, frame: self._put("frame", (worker, frame)))
            self._log.info("worker_started", pid=self._worker.pid)

    def _replace(self, why: str) -> None:
        worker = self._worker
        if worker is None:
            return
        self._log.warning("worker_ended", pid=worker.pid, why=why, again_in_s=self._pause)
        self._health = replace(self._health, problem=f"the worker ended: {why}")
        self._start_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_S)
        self._end(why)

    def _end(self, why: str) -> None:
        worker, self._worker = self._worker, None
        for stream in self._streams.values():
            stream.is_open = False
        if worker is not None:
            worker.end()
            self._log.info("worker_gone", pid=worker.pid, why=why)

    def _tell(self, kind: str, body: dict[str, Any], blobs: tuple[bytes, ...] = ()) -> None:
        if self._worker is not None and not self._worker.tell(Frame(kind, body, blobs)):
            self._replace("its pipe is closed")

    # -- what comes in

    def _put(self, kind: str, what: Any) -> bool:
        """Put something into the inbox; waits while it is full, and gives up when all is over."""
        while not self._stop.is_set():
            try:
                self._inbox.put((kind, what), timeout=TICK_S)
            except queue.Full:
                continue
            return True
        return False

    def _handle(self, intake: Intake, kind: str, what: Any) -> None:
        match kind, what:
            case "champion", (model, champion):
                self._known[model] = champion
                self._tell_champion(model, champion)
                self._open_streams(intake)
            case "report", Report() if self._streams[what.stream].is_open:  # else it is told when the stream is opened
                self._tell("report", asdict(what))
            case "frame", (WorkerProcess() as worker, frame) if worker is self._worker:
                if frame is None:
                    self._replace(worker.why())
                else:
                    self._frame(intake, frame)

    def _frame(self, intake: Intake, frame: Frame) -> None:
        body = frame.body
        self._health = Health(self._clock(), self._health.event_at, self._problem())
        match frame.kind:
            case "ready" | "alive":
                for name, problem in body.get("problems", {}).items():
                    if name in self._streams:
                        self._streams[name].problem = problem
                self._open_streams(intake)
            case "batch" if body["stream"] in self._streams:
                self._store(intake, frame)
            case "note":
                self._log.info("stream_note", stream=body["stream"], text=body["text"])
            case "failed":
                self._streams[body["stream"]].problem = body["why"]
                self._problem_stored(intake, Problem("worker", f"stream:{body['stream']}", body["why"]))
            case "unmeasurable" if body["stream"] in self._streams:
                stream = self._streams[body["stream"]]
                self._log.error("file_given_up", stream=stream.plan.name, file=body["where"], why=body["why"])
                stream.skip[body["where"]] = body["why"]
                self._open(intake, stream)
            case "reported":
                self._reported(intake, body)

    def _store(self, intake: Intake, frame: Frame) -> None:
        """Store a batch and tell the worker; a refused one makes it begin anew from the store."""
        body = frame.body
        stream = self._streams[body["stream"]]
        batch = batch_of(frame)
        now = self._clock()
        if body["rows"]:
            stream.brought = now
            batch = replace(batch, cursors=(Cursor(f"stream:{stream.plan.name}", {"brought": now.isoformat()}),))
        try:
            self._submit(intake, batch)
        except Fenced as error:
            self._log.warning("progress_moved", stream=stream.plan.name, why=str(error))
            self._open(intake, stream)
            return
        self._on_point(Point.MEASURED)
        for mark in batch.files:
            stream.skip.pop(mark.path, None)
        if batch.events:
            self._health = replace(self._health, event_at=now)
        self._tell("stored", {"stream": stream.plan.name})

    def _submit(self, intake: Intake, batch: Batch) -> None:
        """Submit until it is durable. Raises Fenced; returns at once, with nothing stored, when all is over."""
        while not self._stop.is_set():
            try:
                intake.submit(batch)
            except StoreBusy as error:
                self._health = replace(self._health, problem=f"nothing can be stored: {error}")
                self._stop.wait(BUSY_S)
                continue
            if self._worker is not None:
                self._worker.heard()  # it had to wait for us
            self._pause = FIRST_PAUSE_S
            return

    def _reported(self, intake: Intake, body: Mapping[str, Any]) -> None:
        names = ("stream", "monitor", "segment", "last", "path")
        with self._lock:
            self._reports.pop(Report(**{name: body[name] for name in names}), None)
        if body["why"]:
            where = f"monitor:{body['monitor']}"
            reason = f"the report {Path(body['path']).name} could not be made: {body['why']}"
            self._problem_stored(intake, Problem("worker", where, reason))

    def _problem_stored(self, intake: Intake, problem: Problem) -> None:
        self._submit(intake, Batch(problems=(problem,)))

    # -- the streams

    def _replan(self, intake: Intake) -> None:
        """Take over new monitors: streams whose plan changed are opened anew, from what the store has."""
        with self._lock:
            if not self._plans_changed:
                return
            plans, self._plans_changed = self._plans, False
        now = self._clock()
        for plan in plans:
            stream = self._streams.get(plan.name)
            if stream is None:
                self._streams[plan.name] = _Stream(plan, now)
            elif stream.plan != plan:
                stream.plan = plan
                stream.is_open = False
        self._open_streams(intake)

    def _open_streams(self, intake: Intake) -> None:
        """Open the streams whose champions are known (or cannot be found out)."""
        if self._worker is None:
            return
        for stream in self._streams.values():
            models = [model.name for model in stream.plan.models]
            if not stream.is_open and (self._champions.problem or all(model in self._known for model in models)):
                self._open(intake, stream)

    def _open(self, intake: Intake, stream: _Stream) -> None:
        plan, states = stream.plan, intake.states(stream.plan.name)
        marks = orjson.dumps([astuple(mark) for mark in intake.files(f"stream:{plan.name}").values()])
        champions = {model.name: asdict(self._known[model.name]) for model in plan.models if model.name in self._known}
        body = {
            "plan": plan.to_json(), "position": intake.progress(plan.name, PARTITION), "states": list(states),
            "champions": champions, "skip": stream.skip,
        }  # fmt: skip
        stream.is_open = True
        self._tell("open", body, (marks, *states.values()))
        with self._lock:
            waiting = [report for report in self._reports if report.stream == plan.name]
        for report in waiting:
            self._tell("report", asdict(report))

    def _tell_champion(self, model: str, champion: Champion) -> None:
        for stream in self._streams.values():
            if stream.is_open and any(plan.name == model for plan in stream.plan.models):
                body = {"stream": stream.plan.name, "model": model, "champion": asdict(champion)}
                self._tell("champion", body)

    def _problem(self) -> str:
        """What is wrong now, if anything."""
        streams = (f"stream {s.plan.name}: {s.problem}" for s in self._streams.values() if s.problem)
        return next(streams, self._champions.problem)

    def _watch(self, intake: Intake) -> None:
        """Report the streams that bring nothing although they should, once each."""
        now = self._clock()
        for stream in self._streams.values():
            limit = self._config.streams[stream.plan.name].stalled
            if limit is None or now - stream.brought < limit or stream.told == stream.brought:
                continue
            stream.told = stream.brought
            event = _stalled(stream, self._since(intake, stream), limit, now)
            self._submit(intake, Batch(events=(event,)))

    def _since(self, intake: Intake, stream: _Stream) -> datetime:
        """When the stream last brought rows, also before this daemon began."""
        stored = intake.cursor(f"stream:{stream.plan.name}")
        return datetime.fromisoformat(stored["brought"]) if stored else stream.brought


def _stalled(stream: _Stream, since: datetime, limit: timedelta, now: datetime) -> Event:
    name = stream.plan.name
    why = stream.problem or f"no predictions for {limit}"
    data = {"source": f"stream:{name}", "since": since.isoformat(), "why": why}
    return Event(
        content_id("stalled", name, since.isoformat()), f"stream:{name}", "source.stalled", f"stream:{name}", now, data
    )
