"""The supervisor with a real worker process and the real writer: nothing is lost or counted twice, whoever is killed."""

from __future__ import annotations

import os
import queue
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from daemon.clients.base import ModelVersion
from daemon.config import Config, Model, RegistryConfig, Stream
from daemon.core.errors import StoreBusy, Unavailable
from daemon.core.events import Recorded
from daemon.core.monitors import Monitor, Window
from daemon.intake import Batch, FileMark, GoneFile, Intake, Progress, Receipt
from daemon.monitors.champions import REFERENCES, Champions
from daemon.monitors.frames import Frame
from daemon.monitors.plan import Champion, StreamPlan, stream_plans
from daemon.monitors.process import WorkerProcess
from daemon.monitors.supervisor import Report, Supervisor
from daemon.running import Running
from daemon.store.rows import event_of
from daemon.store.sqlite import SqliteStore
from daemon.writer import Writer
from tests.monitors.lab import CAR_LOAN, car_loan, feed, wait_for


@dataclass
class Registry:
    """As much of a registry as is asked here: one model, whose champion a test can move."""

    reference: Path
    champion: str = "1"
    answers: bool = True

    def alias(self, name: str, alias: str) -> str:
        """The champion."""
        if not self.answers:
            raise Unavailable("registry", "alias", "it is down")
        return self.champion

    def version(self, name: str, version: str) -> ModelVersion:
        """Any version exists."""
        return ModelVersion(name, version, "1700000000000", "run", "", "READY", {})

    def fetch(self, name: str, version: str, artifact: str, folder: str) -> str:
        """The one reference, for all versions."""
        return shutil.copy(self.reference, Path(folder, "reference.parquet"))


@dataclass
class Lab:
    """A home with one stream, and the daemon's part around the supervisor."""

    home: Path
    registry: Registry
    changes: dict[str, Any] = field(default_factory=dict)
    monitors: tuple[Monitor, ...] = (Monitor("inputs", "car-loan", Window(rows=300), segments=("salary_range",)),)

    @property
    def config(self) -> Config:
        """One model on one stream."""
        stream = Stream(
            predictions=Path("predictions"), labels=Path("labels"), fields=CAR_LOAN, poll="100ms", horizon="60d",
            **self.changes,
        )  # fmt: skip
        model = Model(task="binary", registered="car-loan", stream="car-loan")
        registry = RegistryConfig(poll="200ms")
        return Config(home=self.home, streams={"car-loan": stream}, models={"car-loan": model}, registry=registry)

    @property
    def plan(self) -> StreamPlan:
        """The stream's plan."""
        (plan,) = stream_plans(self.config, self.monitors)
        for folder in (plan.predictions, plan.labels):
            Path(folder).mkdir(parents=True, exist_ok=True)
        return plan

    @contextmanager
    def daemon(self, intake: Callable[[Writer], Intake] = lambda writer: writer) -> Iterator[Daemon]:
        """Store, writer and supervisor, until the end of the block."""
        store = SqliteStore(self.home / "store.db")
        writer = Writer(store, Running(self.config, {}), lambda: datetime.now(UTC), self.home / "heads.jsonl")
        writer.start()
        supervisor = Supervisor(self.config, self.registry, lambda: datetime.now(UTC))
        supervisor.apply(self.monitors)
        stop = threading.Event()
        thread = threading.Thread(target=supervisor.run, args=(intake(writer), stop))
        thread.start()
        try:
            yield Daemon(supervisor, writer, store)
        finally:
            stop.set()
            thread.join(30)
            writer.stop()
            store.close()
        assert not thread.is_alive()


@dataclass
class Daemon:
    """What a test looks at."""

    supervisor: Supervisor
    writer: Writer
    store: SqliteStore

    def events(self, *kinds: str) -> list[Recorded]:
        """The stored events of some types, in order."""
        with self.store.read() as session:
            rows = session.rows("events_after", 0, 100_000)
        found = [event_of(row).recorded for row in rows]
        return [recorded for recorded in found if not kinds or recorded.event.type in kinds]

    def measured(self) -> list[tuple[str, str, Any]]:
        """All that was measured, as far as it must not depend on when it was."""
        kinds = ("drift.measured", "quality.measured", "performance.measured", "traffic.measured")
        return [(r.event.type, r.event.id, r.event.data) for r in self.events(*kinds)]


@pytest.fixture
def lab(tmp_path: Path, reference: Path) -> Lab:
    """A stream with no files yet."""
    return Lab(tmp_path, Registry(reference))


def kill(pid: int | None) -> None:
    """SIGKILL a worker that a supervisor of this test started."""
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def test_files_become_stored_events(lab: Lab, data: Path) -> None:
    """What lands in the stream's folders comes out as measured events of the store."""
    rows, labels = car_loan(data, 0, 1000)
    feed(lab.plan, rows, labels, size=500)

    with lab.daemon() as daemon:
        wait_for(lambda: len([e for e in daemon.events("performance.measured") if not e.event.data["segment"]]) == 3)
        wait_for(lambda: daemon.supervisor.health().alive_at)

        assert daemon.supervisor.health().problem == ""
        drift = [e.event.data for e in daemon.events("drift.measured") if not e.event.data["segment"]]
        assert [event["window"]["first"] for event in drift] == [0, 300, 600]
        assert {"taken"} == {mark.status for mark in daemon.writer.files("stream:car-loan").values()}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_workers_change_nothing(lab: Lab, data: Path, tmp_path: Path, reference: Path) -> None:
    """A worker killed at random moments is replaced, and all events and state are those of an undisturbed run."""
    rows, labels = car_loan(data, 22_000, 27_000)
    calm = Lab(tmp_path / "calm", Registry(reference))
    for each in (calm, lab):
        feed(each.plan, rows, labels, size=250)
    with calm.daemon() as daemon:
        wait_for(lambda: len(daemon.writer.files("stream:car-loan")) == 40)
        expected, states = daemon.measured(), daemon.writer.states("car-loan")

    chance, pause = random.Random(7), threading.Event()
    with lab.daemon() as daemon:
        for _ in range(6):
            pid = wait_for(lambda: daemon.supervisor.pid)
            pause.wait(chance.uniform(0.5, 3.0))
            if daemon.supervisor.pid == pid:
                kill(pid)
            wait_for(lambda pid=pid: daemon.supervisor.pid not in {pid, None})
        wait_for(lambda: len(daemon.writer.files("stream:car-loan")) == 40)
        found, left = daemon.measured(), daemon.writer.states("car-loan")

    assert [identity for _, identity, _ in expected] == [identity for _, identity, _ in found]
    assert expected == found
    assert {key: blob for key, blob in states.items() if key != "head"} == {
        k: b for k, b in left.items() if k != "head"
    }


def test_a_daemon_that_comes_back_goes_on(lab: Lab, data: Path) -> None:
    """After the daemon was down the open windows go on, and files that landed meanwhile are measured."""
    rows, labels = car_loan(data, 0, 1000)
    feed(lab.plan, rows[:400], labels[:400], size=400)
    with lab.daemon() as daemon:
        wait_for(lambda: len(daemon.writer.files("stream:car-loan")) == 2)

    feed(lab.plan, rows[400:], labels[400:], size=600, first=5)
    with lab.daemon() as daemon:
        wait_for(lambda: len(daemon.writer.files("stream:car-loan")) == 4)
        windows = [e.event.data["window"] for e in daemon.events("drift.measured") if not e.event.data["segment"]]

    assert [(window["first"], window["last"]) for window in windows] == [(0, 299), (300, 599), (600, 899)]


def test_progress_that_somebody_else_moved_is_taken_from_the_store(lab: Lab, data: Path) -> None:
    """A batch whose progress another owner moved is refused whole; the stream begins anew from the store and goes on."""
    rows, labels = car_loan(data, 0, 900)
    feed(lab.plan, rows[:300], labels[:300], size=300)
    with lab.daemon() as daemon:
        wait_for(lambda: len(daemon.writer.files("stream:car-loan")) == 2)
        position = daemon.writer.progress("car-loan", "0")
        daemon.writer.submit(Batch(progress=(Progress("car-loan", "0", position, position + 1),)))
        feed(lab.plan, rows[300:], labels[300:], size=600, first=5)
        wait_for(lambda: len(daemon.writer.files("stream:car-loan")) == 4)
        windows = [e.event.data["window"] for e in daemon.events("drift.measured") if not e.event.data["segment"]]

    assert [(window["first"], window["last"]) for window in windows] == [(0, 299), (300, 599), (600, 899)]


def test_a_new_champion_is_followed(lab: Lab, data: Path) -> None:
    """When the alias moves, rows of the new version are measured and those of the old one are not."""
    rows, labels = car_loan(data, 0, 900)
    newer = [row | {"version": "2"} for row in rows]
    feed(lab.plan, rows[:300], labels[:300], size=300)
    with lab.daemon() as daemon:
        wait_for(lambda: len(daemon.writer.files("stream:car-loan")) == 2)
        lab.registry.champion = "2"
        daemon.supervisor.champion_changed()
        wait_for(lambda: b'"version":"2"' in daemon.writer.states("car-loan")["head"])
        feed(lab.plan, [*rows[300:600], *newer[600:]], [], size=600, first=5)
        wait_for(lambda: len(daemon.events("drift.measured")) and len(daemon.writer.files("stream:car-loan")) == 3)
        windows = [e.event.data["window"] for e in daemon.events("drift.measured") if not e.event.data["segment"]]
        arms = daemon.events("traffic.measured")[-1].event.data["arms"]

    assert [(window["first"], window["last"]) for window in windows] == [(0, 299), (600, 899)]
    assert {version: arm["requests"] for version, arm in arms.items()} == {"1": 300, "2": 300}


def test_a_registry_that_stays_away_holds_no_stream_up(lab: Lab, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the stream is measured as far as it can be without; health says what is wrong until it answers."""
    monkeypatch.setattr("daemon.monitors.champions.PATIENCE_S", 1.0)
    lab.registry.answers = False
    feed(lab.plan, car_loan(data, 0, 300)[0], [], size=300)
    with lab.daemon() as daemon:
        (event, *_) = wait_for(lambda: daemon.events("drift.measured"))
        assert "reference is missing" in event.event.data["unset"]["drifted_columns"]
        wait_for(lambda: "it is down" in daemon.supervisor.health().problem)

        lab.registry.answers = True
        wait_for(lambda: b'"version":"1"' in daemon.writer.states("car-loan")["head"])


def test_a_registry_that_fails_at_first_costs_no_row_its_reference(lab: Lab, data: Path) -> None:
    """A stream is not opened before it is known which version is champion, while that is still to be hoped for."""
    lab.registry.answers = False
    feed(lab.plan, car_loan(data, 0, 300)[0], [], size=300)
    with lab.daemon() as daemon:
        wait_for(lambda: "it is down" in daemon.supervisor.health().problem)
        assert daemon.events("drift.measured") == []
        lab.registry.answers = True
        (event, *_) = wait_for(lambda: daemon.events("drift.measured"))
    assert event.event.data["columns"]


def test_a_reference_that_finds_no_place_is_had_later(lab: Lab, data: Path) -> None:
    """While the reference cannot be put down health says so; when it can, it is fetched without being asked for."""
    place = lab.home / "references"
    place.write_text("a file where the folder should be")
    feed(lab.plan, car_loan(data, 0, 300)[0], [], size=300)
    with lab.daemon() as daemon:
        wait_for(lambda: "references" in daemon.supervisor.health().problem)
        place.unlink()
        wait_for(lambda: b'"version":"1"' in daemon.writer.states("car-loan").get("head", b""))


def test_a_name_that_cannot_be_stored_is_a_problem_of_its_stream(lab: Lab, data: Path) -> None:
    """A file whose name is no UTF-8 is not read, and not passed over silently either: it is told once."""
    feed(lab.plan, car_loan(data, 0, 300)[0], [], size=300)
    Path(lab.plan.predictions, os.fsdecode(b"\xff.jsonl")).write_bytes(b"{}\n")
    with lab.daemon() as daemon:
        wait_for(lambda: daemon.events("problem.recorded"))
        wait_for(lambda: daemon.events("drift.measured"))
        (event,) = daemon.events("problem.recorded")
    assert (event.event.data["kind"], event.event.data["where"]) == ("file", "stream:car-loan")
    assert "\\udcff.jsonl" in event.event.data["reason"]


def test_references_of_former_champions_do_not_pile_up(lab: Lab) -> None:
    """The latest are kept, among them the one that is measured against."""
    told: dict[str, Champion] = {}
    stop = threading.Event()
    champions = Champions(lab.config, lab.registry, told.__setitem__)
    thread = threading.Thread(target=champions.run, args=(stop,))
    thread.start()
    for number in range(REFERENCES + 5):
        lab.registry.champion = str(number)
        champions.look_now()
        wait_for(lambda number=number: "car-loan" in told and told["car-loan"].version == str(number))
        assert Path(told["car-loan"].path).is_file()
    stop.set()
    champions.look_now()
    thread.join(30)
    kept = {path.name.rpartition("-")[2] for path in (lab.home / "references" / "car-loan").iterdir()}
    assert kept == {str(number) for number in range(5, REFERENCES + 5)}


def test_a_silent_stream_is_reported_once(lab: Lab, data: Path) -> None:
    """A stream that brings nothing for its `stalled` time is one event, and one more after it has spoken again."""
    lab.changes["stalled"] = "1s"
    feed(lab.plan, car_loan(data, 0, 100)[0], [], size=100)
    with lab.daemon() as daemon:
        wait_for(lambda: daemon.events("source.stalled"))
        feed(lab.plan, car_loan(data, 100, 200)[0], [], size=100, first=5)
        wait_for(lambda: len(daemon.events("source.stalled")) == 2)
        sinces = [event.event.data["since"] for event in daemon.events("source.stalled")]

    assert len(set(sinces)) == 2
    assert sorted(sinces) == sinces


@pytest.mark.slow
def test_the_report_of_a_window_is_made_in_the_worker(lab: Lab, data: Path, tmp_path: Path) -> None:
    """Asked for a closed window, Evidently's report is a whole HTML file; of a window nobody knows it is a problem."""
    feed(lab.plan, car_loan(data, 25_000, 25_300)[0], [], size=300)
    with lab.daemon() as daemon:
        wait_for(lambda: daemon.events("drift.measured"))
        path = tmp_path / "evidence" / "report.html"
        assert daemon.supervisor.evidence(Report("car-loan", "inputs", "", 299, str(path)))
        assert daemon.supervisor.evidence(Report("car-loan", "inputs", "", 12345, str(tmp_path / "none.html")))
        assert not daemon.supervisor.evidence(Report("nobody", "inputs", "", 299, str(path)))

        (problem,) = wait_for(lambda: daemon.events("problem.recorded"))

    assert "car_value" in path.read_text()
    assert "the window is not kept any more" in problem.event.data["reason"]


def test_a_full_store_pauses_the_worker(lab: Lab, data: Path) -> None:
    """While nothing can be stored nothing is lost: the batch is handed in again until it is taken."""
    feed(lab.plan, car_loan(data, 0, 300)[0], [], size=300)
    refusals = iter(range(3))

    class Full:
        """The writer, with a disk that is full for a while."""

        def __init__(self, writer: Writer) -> None:
            self.writer = writer
            self.cursor, self.files, self.gone = writer.cursor, writer.files, writer.gone
            self.progress, self.states = writer.progress, writer.states

        def submit(self, batch: Batch, timeout: float = 30.0) -> Receipt:
            """Refuse the first ones."""
            if next(refusals, None) is not None:
                raise StoreBusy("the disk is full")
            return self.writer.submit(batch, timeout)

    with lab.daemon(Full) as daemon:
        wait_for(lambda: daemon.events("drift.measured"))

        assert next(refusals, None) is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stream_with_very_many_files_is_opened(lab: Lab, data: Path) -> None:
    """200,000 files were there last, others had gone before: the worker gets to know them all, and measures what is new."""
    folder = Path(lab.plan.predictions)
    feed(lab.plan, car_loan(data, 0, 300)[0], [], size=300)
    there = [_mark(folder, number) for number in range(200_000)]
    now = time.time_ns() // 1000
    lost = [GoneFile("stream:car-loan", f"{folder}/old-{n}", sha256(b"%d" % n).hexdigest(), now) for n in range(10_000)]
    with lab.daemon() as daemon:
        while there:
            daemon.writer.submit(Batch(files=tuple(there[-10_000:]), gone=tuple(lost[-500:])), 300)
            del there[-10_000:], lost[-500:]
    (folder / "again.jsonl").write_bytes(b"7")  # the content of one that is gone
    with lab.daemon() as daemon:
        wait_for(lambda: daemon.events("drift.measured"), 240)
        path = str(folder / "again.jsonl")
        again = wait_for(lambda: daemon.writer.files("stream:car-loan", path[:-1], 1).get(path))
        wait_for(lambda: len(daemon.writer.gone("stream:car-loan")) > 32 * 12_000)
    assert again.status == "duplicate"


def _mark(folder: Path, number: int) -> FileMark:
    """The mark of a file of the folder that is not there any more."""
    path = folder / f"part-{number:06}.jsonl"
    return FileMark(
        "stream:car-loan", str(path), 1, number, sha256(b"_%d" % number).hexdigest(), "taken", folder.stat().st_dev
    )


def test_a_worker_whose_daemon_is_gone_leaves() -> None:
    """The end of its standard input is the end of the worker: no worker outlives its daemon."""
    ended: queue.Queue[Frame | None] = queue.Queue()
    worker = WorkerProcess(lambda _, frame: ended.put(frame))

    ready = ended.get(timeout=60)
    worker.end()

    assert ready is not None
    assert ready.kind == "ready"
    assert worker.why() == "exit status 0"
