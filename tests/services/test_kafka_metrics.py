"""What Prometheus and probes are told of a prediction stream on the real broker, over HTTP."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from daemon import condition
from daemon.condition import Condition
from daemon.monitors import followed, supervisor
from daemon.story.broker import Broker
from daemon.story.topics import Topics
from daemon.web.metrics import Metrics, Seen
from daemon.web.server import WebServer
from daemon.webparts import WebConfig
from tests.monitors.lab import wait_for
from tests.services import test_prediction_streams as streams
from tests.services.test_stream_faults import START, Lab, counted, rows, shown
from tests.web.conftest import sample, samples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]


@pytest.fixture
def lab(tmp_path: Path, broker: Broker, topics: Topics, topic: str) -> Lab:
    """A stream on a topic of two partitions, which keeps records however old they say they are."""
    topics.grow(topic, 2)
    topics.set(topic, retention_ms="-1")
    return Lab(tmp_path / "home", broker, topic)


@contextmanager
def listening(lab: Lab, daemon: streams.Daemon) -> Iterator[str]:
    """The daemon's own address, as the app builds it."""
    clock = lambda: datetime.now(UTC)  # noqa: E731 - as the app's
    about = Condition(daemon.writer, daemon.supervisor, clock)
    about.watch(daemon.supervisor)
    about.phase = ""
    seen = Seen(
        about, daemon.writer, daemon.supervisor, daemon.store, lab.home / "store.db", frozenset(), clock,
    )  # fmt: skip
    web = WebServer(WebConfig(port=0), about, Metrics(seen))
    stop = threading.Event()
    threads = [threading.Thread(target=run, args=(stop,)) for run in (about.run, web.run)]
    for thread in threads:
        thread.start()
    try:
        yield wait_for(lambda: web.status()["address"])
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()


def ready(base: str) -> tuple[int, list[str]]:
    """What a probe is told."""
    answer = httpx.get(f"{base}/readyz", timeout=20, trust_env=False)
    return answer.status_code, answer.json()["reasons"]


def test_a_stream_whose_broker_is_away_for_long_is_told(
    lab: Lab, broker: Broker, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How far each partition is while all is well; a broker that does not answer is a problem at once and makes the daemon
    not ready when it lasts; all is well again when it is back.
    """
    monkeypatch.setattr(condition, "STALLED", timedelta(hours=1))
    monkeypatch.setattr(supervisor, "STALLED", timedelta(hours=1))
    monkeypatch.setattr(condition, "LOOK_S", 0.5)
    with lab.daemon() as daemon, listening(lab, daemon) as base:

        def scrape() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
            return samples(httpx.get(f"{base}/metrics", timeout=20, trust_env=False).text)

        topics.send(lab.topic, rows(range(300)) + rows(range(100), partition=1))
        wait_for(lambda: counted(daemon) == 400)
        wait_for(lambda: (shown(daemon).get("assigned"), shown(daemon).get("lag")) == (2, 0))
        wait_for(lambda: scrape().get(sample("stream_partitions", stream="churn")) == 2)
        scraped = scrape()
        for partition, last in (("0", 299), ("1", 99)):
            of = {"stream": "churn", "topic": lab.topic, "partition": partition}
            assert scraped[sample("stream_lag_records", **of)] == 0
            assert scraped[sample("stream_unread_age_seconds", **of)] == 0
            assert scraped[sample("stream_watermark_timestamp_seconds", **of)] == START + last
        assert scraped[sample("stream_problem", stream="churn")] == 0
        assert scraped[sample("worker_resident_memory_bytes", worker="0")] > 10_000_000
        assert ready(base) == (200, [])

        broker.kill()
        try:
            wait_for(lambda: scrape()[sample("stream_problem", stream="churn")] == 1)
            assert ready(base) == (200, [])
            monkeypatch.setattr(condition, "STALLED", timedelta(seconds=1))
            monkeypatch.setattr(supervisor, "STALLED", timedelta(seconds=1))
            status, reasons = wait_for(lambda: (told := ready(base))[0] == 503 and told)
            assert (status, [reason.split(":")[:2] for reason in reasons]) == (503, [["stream", "churn is stuck"]])
            wait_for(lambda: scrape()[sample("stream_stalled", stream="churn")] == 1)
            wait_for(lambda: scrape()[sample("events_total", type="source.stalled")] == 1)
            over = threading.Event()
            for _ in range(30):  # it stays so, whatever the worker tries meanwhile
                assert ready(base)[0] == 503
                over.wait(0.2)
        finally:
            broker.start()
        wait_for(lambda: ready(base) == (200, []))
        with Topics(broker.address) as again:
            again.send(lab.topic, rows(range(300, 310)))
        wait_for(lambda: counted(daemon) == 410)
        assert scrape()[sample("stream_stalled", stream="churn")] == 0


def test_what_waits_while_a_worker_is_held_up(lab: Lab, topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lag and age are those of the records that are not read; of a worker that says nothing they are not known."""
    monkeypatch.setattr(followed, "SILENT", timedelta(seconds=5))
    lab.changes["archive"] = "1d"
    archive, away = lab.home / "archive", lab.home / "archive.away"
    names = [f"{lab.topic}/0", f"{lab.topic}/1"]
    with lab.daemon() as daemon, listening(lab, daemon) as base:

        def lags() -> list[int | None]:
            parts = shown(daemon).get("partitions_by_name", {})
            return [parts[name]["lag"] for name in names] if len(parts) == 2 else []

        topics.send(lab.topic, rows(range(40)) + rows(range(30), partition=1))
        wait_for(lambda: counted(daemon) == 70 and lags() == [0, 0])
        assert [shown(daemon)["partitions_by_name"][name]["age_s"] for name in names] == [None, None]
        archive.rename(away)
        archive.write_bytes(b"")  # no folder any more: what is read finds no place, and nothing more is read
        topics.send(lab.topic, rows([40]))
        wait_for(lambda: "the archive" in shown(daemon)["problem"])
        topics.send(lab.topic, rows(range(41, 141)) + rows(range(30, 55), partition=1))
        wait_for(lambda: lags() == [100, 25])
        before = time.time()
        status = shown(daemon)
        scraped = samples(httpx.get(f"{base}/metrics", timeout=20, trust_env=False).text)
        after = time.time()
        for name, lag, read in ((names[0], 100, 39), (names[1], 25, 29)):
            of = {"stream": "churn", "topic": lab.topic, "partition": name[-1]}
            since = START + read  # when the newest record had been written that is stored
            assert scraped[sample("stream_lag_records", **of)] == lag
            assert before - since <= scraped[sample("stream_unread_age_seconds", **of)] <= after - since
            assert before - since <= status["partitions_by_name"][name]["age_s"] + 1 <= after - since + 2
        assert status["lag"] == 125
        assert status["age_s"] == max(part["age_s"] for part in status["partitions_by_name"].values())

        (worker,) = daemon.supervisor.pids
        os.kill(worker, signal.SIGSTOP)
        try:
            wait_for(lambda: lags() == [None, None])
            assert (shown(daemon)["lag"], shown(daemon)["age_s"]) == (None, None)
        finally:
            os.kill(worker, signal.SIGCONT)
        wait_for(lambda: lags() == [100, 25])
        archive.unlink()
        away.rename(archive)
        wait_for(lambda: counted(daemon) == 196 and lags() == [0, 0])
        wait_for(lambda: shown(daemon)["problem"] == "")
    assert [shown(daemon)["partitions_by_name"][name]["age_s"] for name in names] == [None, None]
