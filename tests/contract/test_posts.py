"""KServe's payload logger before driftd's listener, over real HTTP: what it is answered, and what is measured of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from daemon.config import Hook, Secret, WebhookConfig
from daemon.core.monitors import Monitor, Window
from daemon.intake import Batch, FileMark
from daemon.monitors.plan import ModelPlan
from daemon.payloadparts import PayloadHook
from daemon.sources import payloads, requests, spool
from daemon.sources.payloads import Posts
from daemon.sources.webhook import WebhookSource
from tests.contract.desk import Clock, Desk, eventually, running
from tests.monitors.lab import Clock as SessionClock
from tests.monitors.lab import measure, plan
from tests.monitors.payloads import FIELDS, headers

TOKEN = "t0ken-of-churn"


class Logger:
    """A sidecar that logs what its model is asked and answers."""

    def __init__(self, source: WebhookSource, folder: Path) -> None:
        self.source = source
        self.folder = folder

    def url(self, path: str = f"streams/churn/{TOKEN}") -> str:
        """Where it posts."""
        return f"http://127.0.0.1:{self.source.port}/{path}"

    def post(self, side: str, number: str, body: Any, **how: Any) -> httpx.Response:
        """One event; `how` may name another `path`, and headers of its own."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        sent = headers(side, number, how.get("second", 0.0)) | how.get("more", {})
        return httpx.post(self.url(*filter(None, [how.get("path")])), content=content, headers=sent, timeout=20)

    def call(self, number: str, age: int, second: float = 0.0) -> list[int]:
        """Both events of a call; how they were answered."""
        asked = self.post("request", number, {"instances": [{"age": age, "plan": "a"}]}, second=second)
        answered = self.post("response", number, {"predictions": [{"score": 0.5}]}, second=second + 0.1)
        return [asked.status_code, answered.status_code]

    def lines(self) -> list[dict[str, Any]]:
        """What is on the disk."""
        files = sorted(path for path in self.folder.iterdir() if ".jsonl" in path.name)
        return [orjson.loads(line) for path in files for line in path.read_bytes().splitlines()]

    def closed(self) -> list[Path]:
        """Files that are whole."""
        return sorted(self.folder.glob("*.jsonl"))


@pytest.fixture
def logger(desk: Desk, clock: Clock, tmp_path: Path) -> Iterator[Logger]:
    """A logger before a listener with a stream, an open one, and a hook."""
    streams = {
        "churn": PayloadHook(token=Secret(value=TOKEN), max_bytes=100_000, spool_mb=1),
        "open": PayloadHook(open=True),
    }
    config = WebhookConfig(port=0, hooks={"ci": Hook(secret=Secret(value="s"))}, streams=streams)
    folders = {name: tmp_path / name / "predictions" for name in streams}
    source = WebhookSource(config, clock, posts=Posts(streams, folders, clock))
    with running(source, desk):
        eventually(lambda: source.port)
        yield Logger(source, folders["churn"])


def test_a_call_that_was_posted_is_measured(logger: Logger, clock: Clock) -> None:
    """Both events are answered with exactly 200, and a stream of files of format kserve has the rows."""
    for number in range(10):
        assert logger.call(f"c{number}", number, second=number) == [200, 200]
    clock.move(seconds=spool.SEGMENT_S)
    eventually(logger.closed)

    model = ModelPlan("churn", "churn", "binary", (Monitor("inputs", "churn", Window(rows=10)),))
    made = plan(logger.folder.parent, fields=FIELDS, models=(model,), format="kserve", labels="", name="churn")
    shelf = measure(made, None, SessionClock())

    (drift,) = shelf.of("drift.measured")
    assert drift["window"]["rows"] == 10
    assert shelf.problems == []


def test_an_event_is_on_the_disk_before_it_is_answered_as_it_came(logger: Logger) -> None:
    """All its attributes, percent-encoding undone, its content type, and its body, byte for byte."""
    body = b'{"instances": [[1,\n 2.50]]}\x00'
    metadata = {"ce-metadata": "%7B%22X-User%22:%5B%22J%C3%BCrgen%22%5D%7D"}
    assert logger.post("request", "c1", body, more=metadata).status_code == 200

    (line,) = logger.lines()
    assert line["metadata"] == '{"X-User":["Jürgen"]}'
    assert (line["id"], line["type"].rsplit(".")[-1], line["datacontenttype"]) == ("c1", "request", "application/json")
    assert line["data_base64"] == "eyJpbnN0YW5jZXMiOiBbWzEsCiAyLjUwXV19AA=="


def test_structured_events_are_taken_as_one_line(logger: Logger) -> None:
    """Whatever line breaks they have."""
    event = b'{"specversion": "1.0",\n "id": "1",\n "type": "x", "data": {"a": 1}}'
    more = {"content-type": "application/cloudevents+json"}
    assert logger.post("request", "", event, more=more).status_code == 200
    assert logger.post("request", "", b"[1]", more=more).status_code == 400
    assert [line["data"] for line in logger.lines()] == [{"a": 1}]


@pytest.mark.parametrize(
    ("path", "status", "where"),
    [
        ("streams/churn/wrong", 401, "streams/churn"),
        ("streams/churn", 401, "streams/churn"),
        ("streams/churn/t%C3%B6ken", 401, "streams/churn"),
        ("streams/nobody/knows", 404, "streams"),
        ("streams/open/token", 401, "streams/open"),
        (f"hooks/churn/{TOKEN}", 404, ""),
    ],
)
def test_who_does_not_know_the_token_is_refused(logger: Logger, desk: Desk, path: str, status: int, where: str) -> None:
    """And told once, without what he said."""
    assert [logger.post("request", "1", {}, path=path).status_code for _ in range(3)] == [status] * 3

    assert logger.lines() == []
    if where:
        ((place, reason),) = eventually(lambda: desk.problems("webhook"))
        assert place == where
        assert "t0ken" not in reason


def test_a_stream_may_be_open_to_all_where_it_is_configured(logger: Logger) -> None:
    """The logger's URL may then have no secret."""
    assert logger.post("request", "1", {}, path="streams/open").status_code == 200


def test_what_is_no_event_or_too_large_or_too_slow_is_refused(
    logger: Logger, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its status, and a stored problem that says that it is lost."""
    assert httpx.post(logger.url(), json={"instances": []}).status_code == 400
    assert logger.post("request", "1", b"x" * 100_001).status_code == 413
    monkeypatch.setattr(requests, "BODY_S", 0.2)
    with socket.create_connection(("127.0.0.1", logger.source.port or 0)) as slow:
        slow.sendall(f"POST /streams/churn/{TOKEN} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{{".encode())
        assert b" 408 " in slow.recv(1000).splitlines()[0]

    told = eventually(lambda: len(desk.problems("webhook")) == 3 and desk.problems("webhook"))
    assert {place for place, _ in told} == {"streams/churn"}
    assert logger.lines() == []


def test_nothing_but_the_disk_has_to_work(logger: Logger, desk: Desk) -> None:
    """While the store is locked events are taken all the same: the logger does not repeat."""
    desk.patience = 0.2
    with desk.locked():
        assert logger.call("c1", 1) == [200, 200]


def test_a_full_spool_is_told_and_has_room_when_files_were_measured(logger: Logger, desk: Desk, clock: Clock) -> None:
    """503 while there is no room; what the stream has read to its end makes some."""
    body = {"instances": [{"plan": "x" * 90_000}]}
    statuses = []
    while 503 not in statuses:
        statuses.append(logger.post("request", f"c{len(statuses)}", body).status_code)
        assert len(statuses) < 20
    assert len(statuses) > 6
    assert "the spool has its 1 MiB" in eventually(lambda: logger.source.health().problem)
    clock.move(seconds=spool.SEGMENT_S)
    eventually(logger.closed)
    assert any("lost" in reason for _, reason in eventually(lambda: desk.problems("webhook")))

    marks = tuple(
        FileMark("stream:churn", str(path), path.stat().st_size, path.stat().st_mtime_ns, path.name, "taken")
        for path in logger.closed()
    )
    desk.submit(Batch(files=marks))
    clock.move(seconds=payloads.SWEEP_S)
    eventually(lambda: not logger.closed())

    assert logger.call("c1", 1) == [200, 200]


def test_what_a_killed_daemon_left_is_taken_up(desk: Desk, clock: Clock, tmp_path: Path) -> None:
    """The file that was open is closed at the next start."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    (folder / "20251231T000000000000Z.jsonl.part").write_bytes(b'{"id": "c1"}\n{"i')
    hooks = {"churn": PayloadHook(open=True)}
    source = WebhookSource(WebhookConfig(port=0, streams=hooks), clock, posts=Posts(hooks, {"churn": folder}, clock))
    with running(source, desk):
        (path,) = eventually(lambda: sorted(folder.glob("*.jsonl")))
    assert path.read_bytes() == b'{"id": "c1"}\n'


def test_what_came_before_the_end_is_closed_at_the_end(desk: Desk, clock: Clock, tmp_path: Path) -> None:
    """A daemon that stops leaves whole files."""
    hooks = {"churn": PayloadHook(open=True)}
    source = WebhookSource(WebhookConfig(port=0, streams=hooks), clock, posts=Posts(hooks, {"churn": tmp_path}, clock))
    with running(source, desk):
        eventually(lambda: source.port)
        assert Logger(source, tmp_path).post("request", "1", {}, path="streams/churn").status_code == 200
    assert [path.suffix for path in tmp_path.glob("2*")] == [".jsonl"]


def test_a_folder_that_cannot_be_written_to_is_said(desk: Desk, clock: Clock, tmp_path: Path) -> None:
    """By the health of the listener, and by a 503."""
    (tmp_path / "predictions").write_text("a file")
    hooks = {"churn": PayloadHook(open=True)}
    folders = {"churn": tmp_path / "predictions"}
    source = WebhookSource(WebhookConfig(port=0, streams=hooks), clock, posts=Posts(hooks, folders, clock))
    with running(source, desk):
        eventually(lambda: source.port)
        assert Logger(source, tmp_path).post("request", "1", {}, path="streams/churn").status_code == 503
        assert "stream churn" in eventually(lambda: source.health().problem)


def test_many_pods_at_once_are_all_served(logger: Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may be read at once wait for their turn: each event once."""
    monkeypatch.setattr(payloads, "AT_ONCE", 4)
    statuses: list[int] = []

    def pod(number: int) -> None:
        with httpx.Client(timeout=30) as client:
            for part in range(5):
                sent = headers("request", f"{number}-{part}", 0)
                statuses.append(client.post(logger.url(), content=b"{}", headers=sent).status_code)

    threads = [threading.Thread(target=pod, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [200] * 100
    assert len({line["id"] for line in logger.lines()}) == 100
