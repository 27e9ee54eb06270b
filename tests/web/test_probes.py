"""Liveness and readiness over real HTTP: what they say is what `driftd status` says, and why."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon import condition, listening
from daemon.condition import STARTING
from daemon.intake import Batch
from daemon.lanes import Item
from daemon.ledger import Ledger
from daemon.sources.stalls import STALLED
from daemon.web import server
from daemon.web.server import WebServer
from daemon.webparts import WebConfig
from tests.builders import landed
from tests.contract.desk import eventually
from tests.web.conftest import Site, sample


def ready(site: Site) -> tuple[int, list[str]]:
    """The answer's status and reasons; they are those of the status."""
    answer = site.get("/readyz")
    status = site.condition.status()
    told = answer.json()
    assert answer.status_code == (200 if told["ready"] else 503)
    assert told["ready"] == (not told["reasons"])
    assert told == {"ready": status["ready"], "reasons": status["reasons"]}
    return answer.status_code, told["reasons"]


def test_a_daemon_that_takes_what_comes_is_ready(site: Site) -> None:
    """200 on both, and nothing that a proxy could keep; other paths and methods are none."""
    assert ready(site) == (200, [])
    answer = site.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"alive": True, "why": ""})
    assert answer.headers["cache-control"] == "no-store"
    assert site.get("/").status_code == 404
    assert httpx.post(f"{site.base}/readyz", trust_env=False).status_code == 405


def test_a_daemon_that_starts_is_alive_and_not_ready(site: Site) -> None:
    """So that it gets no traffic yet, and nobody restarts it."""
    site.condition.phase = STARTING
    assert ready(site) == (503, [STARTING])
    assert site.get("/healthz").status_code == 200


def test_while_nothing_can_be_stored_it_is_not_ready_and_says_why(site: Site) -> None:
    """A locked store is waited for: 503 with SQLite's reason, alive all the while, and ready again by itself."""
    with site.locked():
        waiting = threading.Thread(target=site.submit, args=(landed(1),))
        waiting.start()
        status, reasons = eventually(lambda: (told := ready(site))[0] == 503 and told)
        assert (status, len(reasons)) == (503, 1)
        assert reasons[0].startswith("nothing can be stored: database is locked")
        assert site.get("/healthz").status_code == 200
        scraped = site.scrape()
        assert (scraped[sample("ready")], scraped[sample("store_waiting")]) == (0, 1)
        assert scraped[sample("unhandled_event_age_seconds", waits_for="store")] > 0
    waiting.join(10)
    assert ready(site) == (200, [])
    assert site.scrape()[sample("unhandled_event_age_seconds", waits_for="store")] == 0


def test_a_source_that_is_silently_stuck_makes_it_not_ready(site: Site) -> None:
    """After two minutes without its system, until it reaches it again; `source.stalled` is stored once."""
    source = site.quiet_source()
    source.pulse.ails("no broker at kafka:9092")
    site.condition.look()
    assert ready(site) == (200, [])
    since = site.clock().isoformat()
    site.clock.now += STALLED
    for _ in range(3):
        site.condition.look()
    assert ready(site) == (503, [f"kafka:shop is stuck: no broker at kafka:9092 (since {since})"])
    assert site.condition.status()["stalled"] == ["kafka:shop"]
    scraped = site.scrape()
    assert scraped[sample("source_stalled", source="kafka:shop")] == 1
    assert scraped[sample("events_total", type="source.stalled")] == 1
    source.pulse.alive()
    site.condition.look()
    assert ready(site) == (200, [])


def test_a_stream_that_is_stuck_makes_it_not_ready(site: Site, tmp_path: Path) -> None:
    """Something has been wrong with it for two minutes without a break; who comes back in between begins anew."""
    stream = site.stream(tmp_path / "stream")
    stream.problems[0, "files"] = "the folder is gone"
    site.condition.look()
    since = site.clock().isoformat()
    site.clock.now += STALLED - timedelta(seconds=1)
    site.condition.look()
    assert ready(site) == (200, [])
    assert site.scrape()[sample("stream_stalled", stream="car-loan")] == 0
    site.clock.move(seconds=1)
    assert ready(site) == (503, [f"stream:car-loan is stuck: the folder is gone (since {since})"])
    assert site.scrape()[sample("stream_stalled", stream="car-loan")] == 1
    stream.problems[0, "files"] = ""
    assert ready(site) == (200, [])
    site.condition.look()
    stream.problems[0, "files"] = "it is gone again"
    site.condition.look()
    assert ready(site) == (200, [])


@contextmanager
def busy(site: Site) -> Iterator[None]:
    """The writer's thread hangs in a transaction."""
    entered, release = threading.Event(), threading.Event()

    def hang(_ledger: Ledger) -> None:
        entered.set()
        release.wait(20)

    future = site.writer._put(Item(hang, 1), brief=True)
    assert entered.wait(10)
    try:
        yield
    finally:
        release.set()
        future.result(10)


def test_a_writer_that_hangs_is_dead(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long in one transaction: only a restart helps, so liveness fails; one that has nothing to do is alive for ever."""
    monkeypatch.setattr(condition, "HANGS_S", 0.3)
    with busy(site):
        answer = eventually(lambda: (told := site.get("/healthz")).status_code == 503 and told)
        assert "at one transaction for" in answer.json()["why"]
        assert ready(site)[0] == 503
    eventually(lambda: site.get("/healthz").status_code == 200)
    threading.Event().wait(0.5)
    assert site.get("/healthz").status_code == 200


def test_a_writer_that_was_deposed_is_dead(site: Site) -> None:
    """Another process leads on the store: this one ends, and says so to whoever asks meanwhile."""
    site.store._writer.execute("UPDATE meta SET value = '99' WHERE name = 'epoch'")
    with pytest.raises(Exception, match="99"):
        site.submit(landed(1))
    answer = eventually(lambda: (told := site.get("/healthz")).status_code == 503 and told)
    assert "epoch 1 no longer leads" in answer.json()["why"]
    assert ready(site)[0] == 503


def test_scrapes_that_hang_hold_up_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused after a while; more than a few at once are refused at once. Liveness answers, events are taken, and
    all is well when they are over.
    """
    monkeypatch.setattr(server, "ANSWER_S", 0.5)
    release, text = threading.Event(), site.metrics.text

    def hang(accepted: str) -> tuple[bytes, str]:
        release.wait(20)
        return text(accepted)

    monkeypatch.setattr(site.metrics, "text", hang)
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(site.get("/metrics"))) for _ in range(server.AT_ONCE * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.text.split(";")[0] for answer in answers} == {
        "no answer could be made within 0.5 s", "too many ask at once"
    }  # fmt: skip
    assert site.get("/healthz").status_code == 200
    assert site.get("/readyz").json()["reasons"] == ["too many ask at once; ask again"]
    assert site.submit(landed(1)).fresh == (True,)
    release.set()
    monkeypatch.undo()
    eventually(lambda: site.get("/metrics").status_code == 200)
    assert ready(site) == (200, [])


def test_who_connects_and_says_nothing_is_sent_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent callers, and those that never finish a head, take no place for long: others are answered."""
    monkeypatch.setattr(listening, "SILENT_S", 0.3)
    port = int(site.base.rsplit(":", 1)[1])
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            for _ in range(server.CONNECTIONS)
        ]
        for one in silent[::2]:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        for one in silent:
            assert one.recv(100) == b""
        assert site.get("/healthz").status_code == 200


def test_a_port_that_is_taken_is_told_and_had_later(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second daemon on the port goes on without it, says so, and has it when the first one ends."""
    monkeypatch.setattr(listening, "BIND_AGAIN_S", 0.1)
    port = int(site.base.rsplit(":", 1)[1])
    second = WebServer(WebConfig(port=port), site.condition, site.metrics)
    with site.listening(second):
        why = eventually(lambda: second.status()["problem"])
        assert why == f"cannot listen on 127.0.0.1:{port}: Address already in use"
        assert second.status()["address"] is None
        assert ready(site) == (200, [])
    assert site.get("/healthz").status_code == 200


def test_the_port_is_had_when_it_is_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one who waited for it answers there."""
    monkeypatch.setattr(listening, "BIND_AGAIN_S", 0.1)
    made = Site(tmp_path)
    made.open()
    with ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as other:
            made.web = WebServer(WebConfig(port=other.getsockname()[1]), made.condition, made.metrics)
            stack.enter_context(made.listening())
            eventually(lambda: made.web.status()["problem"])
        eventually(lambda: made.web.status()["address"])
        assert made.get("/healthz").status_code == 200
        eventually(lambda: made.web.status()["problem"] == "")
    made.close()


def test_a_batch_that_waits_has_an_age(site: Site) -> None:
    """Also one that is under way; when all is durable, nothing waits."""
    assert site.writer.waited_s == 0
    with busy(site):
        other: list[Any] = []
        thread = threading.Thread(target=lambda: other.append(site.writer.submit(Batch(events=(landed(1),)), 20)))
        thread.start()
        eventually(lambda: site.writer.queued == 1)
        before = site.writer.waited_s
        eventually(lambda: site.writer.waited_s > before)
    thread.join(10)
    eventually(lambda: site.writer.waited_s == 0)
