"""What is removed after its time, and what is not: everything that somebody may yet ask for."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.config import Config, Fields, Model, RetentionConfig, Stream
from daemon.core.calls import Done
from daemon.gateway.log import SENT, PredictionLog, stamp
from daemon.intake import Cursor, FileMark
from daemon.platforms.base import JobSpec, JobState
from daemon.platforms.local_jobs import LocalJobs
from daemon.retention import LOG_BYTES, Retention, Swept
from tests.builders import landed, rule, rules, step
from tests.writer.conftest import PATIENCE, World

DAY = 86_400.0
EACH = rules(rule(on="data.landed", when=(), steps=(step("train"),)))


@pytest.fixture
def jobs(tmp_path: Path) -> LocalJobs:
    """Jobs in the world's home."""
    return LocalJobs(tmp_path, grace=0.3)


ON_KAFKA = Stream(
    kind="kafka", connection="main", topic="churn", label_topic="left", predictions=Path("predictions"), labels=Path("labels"),
    archive=timedelta(days=2), fields=Fields(id="id", label="left"),
)  # fmt: skip


def retention(world: World, local: LocalJobs, stream: Stream | None = None, **keep: timedelta | None) -> Retention:
    """What sweeps the world's home; what is not said stays for ever."""
    config = Config.model_validate({
        "home": world.folder,
        "retention": RetentionConfig(**{"jobs": None, "evidence": None, "predictions": None, **keep}),
        "models": {"churn": Model(task="binary", registered="churn", stream="churn")},
        "streams": {"churn": stream or Stream(predictions=Path("predictions"), fields=Fields(id="id"))},
    })  # fmt: skip
    return Retention(config, local, world.store, world.clock)


def worked(world: World, jobs: LocalJobs, number: int, *, settled: bool = True) -> str:
    """A run whose only step was done by a real job; the job's name."""
    world.submit(landed(number))
    claimed = world.call()
    job = f"{claimed.call.id}-0"
    jobs.submit(JobSpec(job, (sys.executable, "-I", "-S", "-c", "pass"), {}, {}, 512, 60))
    world.wait(lambda: jobs.status(job).state is not JobState.RUNNING)
    (world.folder / "evidence" / claimed.call.run).mkdir(parents=True)
    if settled:
        world.settle(claimed, Done())
        world.ended(claimed.call.run)
    return job


def test_jobs_of_runs_that_ended_long_ago_are_removed(world: World, jobs: LocalJobs) -> None:
    """Not before their time, not while the run goes on, and not what no call of ours has started."""
    world.open(EACH)
    old = worked(world, jobs, 1)
    stranger = "stranger-0"
    jobs.cancel(stranger, "never mind")
    sweeper = retention(world, jobs, jobs=timedelta(days=30))
    world.later(29 * DAY)
    assert sweeper.sweep() == Swept(0, 0, 0)
    at_work = worked(world, jobs, 2, settled=False)
    world.later(2 * DAY)
    assert sweeper.sweep() == Swept(1, 0, 0)
    assert sorted(jobs.names()) == sorted([at_work, stranger])
    assert jobs.status(old).state is JobState.UNKNOWN
    world.later(1000 * DAY)
    assert sweeper.sweep() == Swept(0, 0, 0)


def test_evidence_is_kept_for_ever_unless_it_is_said_how_long(world: World, jobs: LocalJobs) -> None:
    """Counted from the end of its run; what belongs to no run of ours stays."""
    world.open(EACH)
    worked(world, jobs, 1)
    (world.folder / "evidence" / "other").mkdir()
    world.later(1000 * DAY)
    assert retention(world, jobs).sweep() == Swept(0, 0, 0)
    assert retention(world, jobs, evidence=timedelta(days=90)).sweep() == Swept(0, 1, 0)
    assert [path.name for path in (world.folder / "evidence").iterdir()] == ["other"]


def predictions(world: World) -> Iterator[Path]:
    """Four closed files of the gateway's log, a day apart, the last one written an hour ago."""
    for days in (3, 2, 1, 0):
        log = PredictionLog("churn", world.folder / "predictions")
        at = world.clock() - timedelta(days=days, hours=1)
        log.write([b"{}\n"], at)
        segment = log.detach()
        assert segment is not None
        assert log.close(segment)
        yield segment.path.with_suffix("")


def test_prediction_logs_are_removed_once_they_were_measured(world: World, jobs: LocalJobs) -> None:
    """A file that no monitor has taken yet stays however old it is, as do those of somebody else."""
    world.open(EACH)
    first, second, *newer = predictions(world)
    for name in ("other.jsonl", f"{stamp(world.clock() - timedelta(days=9))}-cars.jsonl"):
        (world.folder / "predictions" / name).touch()
    sweeper = retention(world, jobs, predictions=timedelta(days=2))
    assert sweeper.sweep() == Swept(0, 0, 0)
    world.submit(files=(FileMark("stream:churn", str(second), 3, 1, "ab" * 32, "taken"),))
    assert sweeper.sweep() == Swept(0, 0, 1)
    assert first.exists()
    assert not second.exists()
    assert all(path.exists() for path in newer)
    assert len(list((world.folder / "predictions").iterdir())) == 5


def test_a_log_that_grew_large_is_emptied_where_it_is(world: World, jobs: LocalJobs) -> None:
    """Its writer goes on appending to it; one copy is kept."""
    world.open(EACH)
    log = world.folder / "gateway" / "gateway.log"
    log.parent.mkdir()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, b"x" * (LOG_BYTES + 1))
    retention(world, jobs).sweep()
    os.write(handle, b"more")
    os.close(handle)
    assert log.read_bytes() == b"more"
    assert log.with_suffix(".log.1").stat().st_size == LOG_BYTES + 1


def test_sweeping_goes_on_after_trouble(world: World, jobs: LocalJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be removed now costs this round."""
    monkeypatch.setattr("daemon.retention.FIRST_S", 0.0)
    monkeypatch.setattr("daemon.retention.AGAIN_S", 0.01)
    world.open(EACH)
    job = worked(world, jobs, 1)
    world.later(31 * DAY)
    lock = world.folder / "jobs" / job / "lock"
    lock.rename(lock.with_name("away"))
    stop = threading.Event()
    thread = threading.Thread(target=retention(world, jobs, jobs=timedelta(days=30)).run, args=(stop,))
    thread.start()
    stop.wait(0.1)
    lock.with_name("away").rename(lock)
    world.wait(lambda: jobs.names() == ())
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_prediction_logs_go_to_a_topic_before_they_are_removed(world: World, jobs: LocalJobs) -> None:
    """What was not sent yet stays, however old it is."""
    world.open(EACH)
    first, second, *newer = predictions(world)
    sweeper = retention(world, jobs, ON_KAFKA, predictions=timedelta(days=1))
    assert sweeper.sweep() == Swept(0, 0, 0)
    world.submit(cursors=(Cursor(SENT + "churn", {"file": second.name, "lines": 0}),))
    assert sweeper.sweep() == Swept(0, 0, 2)
    assert not first.exists()
    assert all(path.exists() for path in newer)


def test_the_archive_of_topics_is_kept_as_long_as_it_says(world: World, jobs: LocalJobs) -> None:
    """Files that nothing was added to for so long go, of predictions and of labels; what is not the archive's stays."""
    world.open(EACH)
    for folder in ("predictions", "labels"):
        (world.folder / folder).mkdir()
        for days, name in ((3, "topic-churn-0-0.jsonl"), (1, "topic-churn-0-9.jsonl"), (9, "by-hand.jsonl")):
            path = world.folder / folder / name
            path.touch()
            at = (world.clock() - timedelta(days=days)).timestamp()
            os.utime(path, (at, at))
    assert retention(world, jobs, ON_KAFKA).sweep() == Swept(0, 0, 0, 2)
    for folder in ("predictions", "labels"):
        left = sorted(path.name for path in (world.folder / folder).iterdir())
        assert left == ["by-hand.jsonl", "topic-churn-0-9.jsonl"]
