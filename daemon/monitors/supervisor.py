"""The daemon's side of the monitors: keeps a worker process up, opens streams in it, and stores what it makes.

The worker is replaced when it dies or hangs, and goes on from the store. A batch whose progress is not where it should be
is refused whole: the stream is opened anew from what the store has. The disk being full or the database locked pauses the
worker by not answering it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import structlog

from daemon.clients.base import Registry
from daemon.config import Config
from daemon.core.errors import Fenced, StoreBusy
from daemon.core.monitors import Monitor
from daemon.core.problems import Problem
from daemon.intake import Batch, Cursor, Intake
from daemon.monitors.batches import batch_of
from daemon.monitors.champions import Champions
from daemon.monitors.followed import Followed, Standing
from daemon.monitors.frames import Frame
from daemon.monitors.plan import Champion, StreamPlan, stream_plans
from daemon.monitors.process import WorkerProcess
from daemon.monitors.slots import Slot
from daemon.monitors.statekeys import part_prefix
from daemon.points import OnPoint, Point, no_point
from daemon.sources.base import Health
from daemon.sources.stalls import STALLED

PARTITION, WINDOWS = "0", "windows"
"""Under which partition the progress of a stream's windows is stored: of files, and of topics."""
INBOX = 256
"""Frames from the worker, and champions, that wait; a full inbox pauses the worker."""
PAGE = 10_000
"""Marks of files that are read at once."""
REPORTS = 32
"""Most reports asked for and not yet made."""
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


class Supervisor:
    """A Source whose system are worker processes. `run` it in a thread; all else may be called from any thread."""

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
        self._streams: dict[str, Followed] = {}
        self._slots = [
            Slot(number, lambda worker, frame: self._put("frame", (worker, frame)))
            for number in range(config.monitors.workers)
        ]
        self._stop = threading.Event()
        self._health = Health(None, None, "")

    @property
    def name(self) -> str:
        """`monitors`."""
        return "monitors"

    @property
    def pid(self) -> int | None:
        """The first worker's process id, when there is one."""
        worker = self._slots[0].worker
        return worker.pid if worker is not None else None

    @property
    def pids(self) -> tuple[int, ...]:
        """The workers' process ids."""
        return tuple(slot.worker.pid for slot in self._slots if slot.worker is not None)

    def figures(self) -> dict[str, dict[str, Any]]:
        """Per stream how much its sessions keep, and what had to be given up; of partitions, the sum over the workers.

        And what is wrong with it, and how far it is: see `Followed.shown`.
        """
        now = self._clock()
        shown: dict[str, dict[str, Any]] = {}
        for name, stream in list(self._streams.items()):
            sums = shown[name] = {}
            for figures in list(stream.figures.values()):
                for key, value in figures.items():
                    sums[key] = sums.get(key, 0) + value
            sums |= stream.shown(now)
        return shown

    def problems(self) -> dict[str, str]:
        """The streams with which something is wrong now, and what."""
        return {name: stream.problem for name, stream in list(self._streams.items()) if stream.problem}

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
        self._streams = {plan.name: self._followed(plan, now) for plan in self._plans}
        over = threading.Event()
        threading.Thread(target=self._champions.run, args=(over,), name="champions", daemon=True).start()
        try:
            while not stop.is_set():
                for slot in self._slots:
                    if self._streams:
                        slot.keep_up()
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
            for slot in self._slots:
                slot.end("the daemon stops")

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
            case "report", Report():
                self._tell_report(self._streams[what.stream], what)
            case "frame", (WorkerProcess() as worker, frame):
                slot = next((slot for slot in self._slots if slot.worker is worker), None)
                if slot is None:
                    return  # of one that was replaced
                if frame is None:
                    slot.replace(worker.why())
                    for stream in self._streams.values():
                        stream.went(slot.number)
                    self._health = replace(self._health, problem=slot.problem)
                else:
                    self._frame(intake, slot, frame)

    def _frame(self, intake: Intake, slot: Slot, frame: Frame) -> None:
        body = frame.body
        self._health = Health(self._clock(), self._health.event_at, self._problem())
        stream = self._streams.get(body.get("stream", ""))
        match frame.kind:
            case "ready" | "alive":
                for name, role, problem, figures in body.get("sessions", ()):
                    if name in self._streams:
                        self._ails(intake, self._streams[name], (slot.number, role), problem)
                        self._streams[name].figures[slot.number, role] = figures
                for name, places in body.get("places", {}).items():
                    if name in self._streams:
                        self._streams[name].heard(slot.number, places, self._clock())
                self._health = replace(self._health, problem=self._problem())
                self._open_streams(intake)
            case "batch" if stream is not None:
                self._store(intake, slot, stream, frame)
            case "want" if stream is not None:
                self._tell_partitions(intake, slot, stream, body["partitions"])
            case "note":
                self._log.info("stream_note", stream=body["stream"], text=body["text"])
            case "failed" if stream is not None:
                stream.problems[slot.number, body["role"]] = body["why"]
                self._problem_stored(intake, Problem("worker", f"stream:{body['stream']}", body["why"]))
            case "unmeasurable" if stream is not None:
                self._unmeasurable(intake, slot, stream, body)
            case "reported":
                self._reported(intake, body)

    def _ails(self, intake: Intake, stream: Followed, who: tuple[int, str], problem: str) -> None:
        """What is wrong with a stream's folders or topics is stored when it is new: nothing is passed over silently."""
        before, stream.problems[who] = stream.problems.get(who), problem
        if problem and problem != before and who[1] != "windows":
            kind = "file" if who[1] == "files" else "kafka"
            self._problem_stored(intake, Problem(kind, f"stream:{stream.plan.name}", problem))

    def _unmeasurable(self, intake: Intake, slot: Slot, stream: Followed, body: Mapping[str, Any]) -> None:
        """A file is given up; a slice that cannot be measured is kept, and nothing goes on behind it."""
        if body["role"] == "files":
            self._log.error("file_given_up", stream=stream.plan.name, file=body["where"], why=body["why"])
            stream.skip[body["where"]] = body["why"]
            self._open(intake, slot, stream, "files")
            return
        stream.problems[slot.number, body["role"]] = body["why"]
        self._problem_stored(intake, Problem("worker", body["where"], body["why"]))

    def _store(self, intake: Intake, slot: Slot, stream: Followed, frame: Frame) -> None:
        """Store a batch and tell the worker; a refused one makes it begin anew from the store."""
        body, name = frame.body, stream.plan.name
        batch = batch_of(frame)
        now = self._clock()
        if body["rows"]:
            stream.brought = now
            batch = replace(batch, cursors=(Cursor(f"stream:{name}", {"brought": now.isoformat()}),))
        try:
            self._submit(intake, batch)
        except Fenced as error:
            self._log.warning("progress_moved", stream=name, why=str(error))
            if body["role"] == "partitions":
                slot.tell("fenced", {"stream": name, "role": "partitions"})
            else:
                self._open(intake, slot, stream, body["role"])
            return
        slot.lives()
        self._on_point(Point.MEASURED)
        for mark in batch.files:
            stream.skip.pop(mark.path, None)
        if batch.events:
            self._health = replace(self._health, event_at=now)
        slot.tell("stored", {"stream": name, "role": body["role"]})
        if body["role"] == "partitions":
            self._pass_on(stream, frame)

    def _pass_on(self, stream: Followed, frame: Frame) -> None:
        """What owners of partitions have stored goes to the closer; how far they are, to all."""
        body, name = frame.body, stream.plan.name
        home = self._slots[stream.home]
        if (name, "windows") in home.open:
            home.tell("parts", {**_windows(name), "kept": body["kept"], "dropped": body["dropped"]}, frame.blobs)
        before = stream.frontier
        for head in body["heads"]:
            stream.stand(Standing(*head))
        far, tail = stream.frontier
        if (far, tail) == before:
            return
        for slot in self._slots:
            if (name, "partitions") in slot.open:
                slot.tell("frontier", {"stream": name, "role": "partitions", "far": far, "tail": tail})

    def _submit(self, intake: Intake, batch: Batch) -> None:
        """Submit until it is durable. Raises Fenced; returns at once, with nothing stored, when all is over."""
        while not self._stop.is_set():
            try:
                intake.submit(batch)
            except StoreBusy as error:
                self._health = replace(self._health, problem=f"nothing can be stored: {error}")
                self._stop.wait(BUSY_S)
                continue
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
                self._streams[plan.name] = self._followed(plan, now)
            elif stream.plan != plan:
                stream.plan = plan
                for slot in self._slots:
                    slot.open -= {(plan.name, role) for _, role in stream.roles(len(self._slots))}
        self._open_streams(intake)

    def _followed(self, plan: StreamPlan, now: datetime) -> Followed:
        """A stream, and the slot that is its home: neighbours by name have different ones."""
        names = sorted(self._config.streams)
        return Followed(plan, names.index(plan.name) % len(self._slots), now)

    def _open_streams(self, intake: Intake) -> None:
        """Open the streams whose champions are known (or cannot be found out)."""
        for stream in self._streams.values():
            models = [model.name for model in stream.plan.models]
            if not self._champions.given_up and not all(model in self._known for model in models):
                continue
            for number, role in stream.roles(len(self._slots)):
                slot = self._slots[number]
                if slot.worker is not None and (stream.plan.name, role) not in slot.open:
                    self._open(intake, slot, stream, role)

    def _open(self, intake: Intake, slot: Slot, stream: Followed, role: str) -> None:
        plan = stream.plan
        champions = {model.name: asdict(self._known[model.name]) for model in plan.models if model.name in self._known}
        body: dict[str, Any] = {"plan": plan.to_json(), "role": role, "champions": champions}
        slot.open.add((plan.name, role))
        stream.problems.pop((slot.number, role), None)
        if role == "partitions":
            if not stream.heads:
                stream.restore_heads(intake.states(plan.name))
            slot.tell("open", {**body, "frontier": stream.frontier})
            return
        states = intake.states(plan.name)
        position = intake.progress(plan.name, PARTITION if role == "files" else WINDOWS)
        files = _files(intake, f"stream:{plan.name}") if role == "files" else ()
        slot.tell(
            "open",
            {**body, "position": position, "states": list(states), "skip": stream.skip},
            (*states.values(), *files),
        )
        with self._lock:
            waiting = [report for report in self._reports if report.stream == plan.name]
        for report in waiting:
            self._tell_report(stream, report)

    def _tell_partitions(self, intake: Intake, slot: Slot, stream: Followed, wanted: Sequence[tuple[str, int]]) -> None:
        """What the store has of partitions that a worker was given."""
        states = intake.states(stream.plan.name)
        told: list[dict[str, Any]] = []
        blobs: list[bytes] = []
        for topic, partition in wanted:
            mine = {key: blob for key, blob in states.items() if key.startswith(part_prefix(topic, partition))}
            told.append({"topic": topic, "partition": partition, "states": list(mine)})
            blobs += mine.values()
        slot.tell("partitions", {"stream": stream.plan.name, "role": "partitions", "partitions": told}, tuple(blobs))

    def _tell_report(self, stream: Followed, report: Report) -> None:
        home = self._slots[stream.home]
        if (stream.plan.name, stream.role) in home.open:  # else it is told when the stream is opened
            home.tell("report", asdict(report))

    def _tell_champion(self, model: str, champion: Champion) -> None:
        for stream in self._streams.values():
            if any(plan.name == model for plan in stream.plan.models):
                body = {"stream": stream.plan.name, "model": model, "champion": asdict(champion)}
                for slot in self._slots:
                    if any(name == stream.plan.name for name, _ in slot.open):
                        slot.tell("champion", body)

    def _problem(self) -> str:
        """What is wrong now, if anything."""
        streams = (f"stream {s.plan.name}: {s.problem}" for s in self._streams.values() if s.problem)
        return next(streams, self._champions.problem)

    def _watch(self, intake: Intake) -> None:
        """Report the streams that bring nothing although they should, or do not reach their broker, once each."""
        now = self._clock()
        for stream in self._streams.values():
            stream.look(now)
            if stream.ails_since is not None and now - stream.ails_since >= STALLED and not stream.ails_told:
                self._submit(intake, Batch(events=(stream.unreached(now),)))
                stream.ails_told = True
            limit = self._config.streams[stream.plan.name].stalled
            if limit is None or now - stream.brought < limit or stream.told == stream.brought:
                continue
            stream.told = stream.brought
            event = stream.stalled(self._since(intake, stream), limit, now)
            self._submit(intake, Batch(events=(event,)))

    def _since(self, intake: Intake, stream: Followed) -> datetime:
        """When the stream last brought rows, also before this daemon began."""
        stored = intake.cursor(f"stream:{stream.plan.name}")
        return datetime.fromisoformat(stored["brought"]) if stored else stream.brought


def _files(intake: Intake, owner: str) -> Iterator[bytes]:
    """What is known of the owner's files: of those that are gone, and the marks of the others.

    Some thousand marks at once: all of them as objects would take many times the space.
    """
    yield intake.gone(owner)
    last = ""
    while page := intake.files(owner, last, PAGE):
        yield orjson.dumps([(m.path, m.size, m.mtime_ns, m.digest, m.status, m.device) for m in page.values()])
        last = next(reversed(page))


def _windows(name: str) -> dict[str, str]:
    return {"stream": name, "role": "windows"}
