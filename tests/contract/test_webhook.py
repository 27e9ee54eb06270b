"""The webhook listener, over real HTTP: what it takes, what it refuses, and what the unsigned can cause."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import httpx
import orjson
import pytest

from daemon import listening
from daemon.config import Hook, Secret, WebhookConfig
from daemon.core.events import CATALOGUE
from daemon.sources import requests, webhook
from daemon.sources.cloudevents import OUTSIDE
from daemon.sources.signatures import SIGNATURE, TIMESTAMP, is_signed, sign
from daemon.sources.webhook import WebhookSource
from tests.contract.desk import Clock, Desk, eventually, running

SECRET = b"s3cret"
TOLD = {"specversion": "1.0", "id": "1", "source": "/ci", "type": "build.done", "data": {"ok": True}}
LANDED = {"source": "s3", "path": "/a/b.csv", "folder": "a", "name": "b.csv", "bytes": 7, "digest": "d"}


class Sender:
    """Somebody who shares the secret and can also do everything wrong."""

    def __init__(self, source: WebhookSource, clock: Clock) -> None:
        self.source = source
        self.clock = clock
        self.woken = 0

    @property
    def base(self) -> str:
        """Where the listener is."""
        return f"http://127.0.0.1:{self.source.port}"

    def send(self, content: Any, headers: dict[str, str] | None = None, **how: Any) -> httpx.Response:
        """POST a signed request; `how` may name another `hook`, `secret`, `stamp` or `alter`ed body."""
        body = content if isinstance(content, bytes) else orjson.dumps(content)
        headers = {"content-type": "application/cloudevents+json"} if headers is None else headers
        stamp = how.get("stamp", str(int(self.clock().timestamp())))
        attributes = [(name.lower(), value) for name, value in headers.items() if name.lower().startswith("ce-")]
        signed: dict[str, Any] = {
            **headers,
            TIMESTAMP: stamp,
            SIGNATURE: sign(how.get("secret", SECRET), stamp, attributes, body),
        }
        path = f"{self.base}/hooks/{how.get('hook', 'ci')}"
        return httpx.post(path, content=how.get("alter", body), headers=signed | how.get("more", {}), timeout=20)


@pytest.fixture
def sender(desk: Desk, clock: Clock) -> Iterator[Sender]:
    """A sender before a listener with one hook."""
    config = WebhookConfig(port=0, max_bytes=10_000, hooks={"ci": Hook(secret=Secret(value=SECRET.decode()))})
    made: Sender
    source = WebhookSource(config, clock, lambda: setattr(made, "woken", made.woken + 1))
    made = Sender(source, clock)
    with running(source, desk):
        eventually(lambda: source.port)
        yield made


def test_an_event_in_structured_mode_is_taken(sender: Sender, desk: Desk) -> None:
    """The answer comes when it is durable, with its place in the store."""
    answer = sender.send(TOLD)
    assert answer.status_code == 202
    assert answer.json()["fresh"] == [True]
    expected = {"hook": "ci", "type": "build.done", "sender": "/ci", "payload": {"ok": True}}
    assert desk.events("webhook.received") == [expected]


def test_an_event_in_binary_mode_is_taken(sender: Sender, desk: Desk) -> None:
    """Attributes are in the headers, percent-encoded, and are signed as well."""
    headers = {
        "content-type": "application/json; charset=UTF-8",
        "CE-SpecVersion": "1.0", "ce-id": "1", "ce-source": "/stra%C3%9Fe", "ce-type": "build.done",
    }  # fmt: skip
    assert sender.send({"ok": 1}, headers).status_code == 202
    assert sender.send(b"", {**headers, "ce-id": "2"}).status_code == 202
    assert [(event["sender"], event["payload"]) for event in desk.events("webhook.received")] == [
        ("/straße", {"ok": 1}),
        ("/straße", None),
    ]


def test_a_batch_is_taken_whole_or_not_at_all(sender: Sender, desk: Desk) -> None:
    """One bad event of it, and nothing is stored but the problem."""
    headers = {"content-type": "application/cloudevents-batch+json"}
    good = [{**TOLD, "id": str(number)} for number in range(3)]
    assert sender.send([*good, {**TOLD, "id": ""}], headers).status_code == 400
    assert desk.events("webhook.received") == []
    answer = sender.send(good, headers)
    assert (answer.status_code, answer.json()["fresh"]) == (202, [True] * 3)
    assert sender.send([TOLD] * 1001, {**headers}).status_code == 413  # over max_bytes before it is counted


def test_data_in_base64_is_taken_as_what_it_holds(sender: Sender, desk: Desk) -> None:
    """CloudEvents allows both ways for JSON."""
    told = {**TOLD, "data_base64": base64.b64encode(b'{"ok": 2}').decode()}
    assert sender.send(told).status_code == 400  # both
    del told["data"]
    assert sender.send(told).status_code == 202
    assert sender.send({**told, "data_base64": "§"}).status_code == 400
    assert sender.send({**told, "datacontenttype": "image/png"}).status_code == 415
    assert [event["payload"] for event in desk.events("webhook.received")] == [{"ok": 2}]


def test_a_repeat_gets_the_same_receipt(sender: Sender, desk: Desk) -> None:
    """Senders repeat what they are not sure of; the id, not the time of sending, says what is the same."""
    first = sender.send(TOLD).json()
    sender.clock.move(seconds=60)
    second = sender.send(TOLD)
    assert (second.status_code, second.json()) == (202, {"seqs": first["seqs"], "fresh": [False]})
    assert len(desk.events("webhook.received")) == 1


def test_an_event_of_the_catalogue_is_taken_as_itself(sender: Sender, desk: Desk) -> None:
    """Where outsiders may tell it, and its data is as the catalogue says; its subject is what the data is about."""
    assert sender.send({**TOLD, "type": "data.landed", "subject": "anything", "data": LANDED}).status_code == 202
    assert desk.events("data.landed") == [LANDED]
    answer = sender.send({**TOLD, "id": "2", "type": "data.landed", "data": {**LANDED, "bytes": "7"}})
    assert answer.status_code == 400
    assert "bytes must be a whole number" in answer.json()["error"]
    assert [place for place, _ in desk.problems("webhook")] == ["hooks/ci"]


@pytest.mark.parametrize("kind", sorted(CATALOGUE.keys() - OUTSIDE.keys()))
def test_a_sender_cannot_speak_for_the_daemon(kind: str, sender: Sender, desk: Desk) -> None:
    """What the daemon, its operators or the registry say is, from outside, only what a sender said."""
    before = len(desk.events(kind)) if kind != "webhook.received" else 0
    assert sender.send({**TOLD, "type": kind, "data": {"verb": "approve"}}).status_code == 202
    (event,) = desk.events("webhook.received")
    assert event["type"] == kind
    assert kind == "webhook.received" or len(desk.events(kind)) == before


@pytest.mark.parametrize(
    ("status", "send"),
    [
        pytest.param(401, lambda s: s.send(TOLD, secret=b"wrong"), id="another secret"),
        pytest.param(401, lambda s: s.send(TOLD, alter=orjson.dumps({**TOLD, "id": "2"})), id="altered body"),
        pytest.param(401, lambda s: s.send(TOLD, more={"ce-id": "2"}), id="added attribute"),
        pytest.param(401, lambda s: s.send(TOLD, stamp=str(int(s.clock().timestamp()) - 301)), id="too old"),
        pytest.param(401, lambda s: s.send(TOLD, stamp=str(int(s.clock().timestamp()) + 301)), id="from the future"),
        pytest.param(401, lambda s: s.send(TOLD, stamp="9" * 400), id="a time that is none"),
        pytest.param(401, lambda s: s.send(TOLD, more={SIGNATURE: "v1=" + "0" * 64}), id="made up"),
        pytest.param(401, lambda s: s.send(TOLD, more={SIGNATURE: "", TIMESTAMP: ""}), id="none"),
        pytest.param(401, lambda s: s.send(TOLD, more={SIGNATURE: "v1=é".encode()}), id="no ASCII"),
        pytest.param(404, lambda s: s.send(TOLD, hook="other"), id="no such hook"),
        pytest.param(405, lambda s: httpx.get(f"{s.base}/hooks/ci"), id="get"),
        pytest.param(413, lambda s: s.send(b"x" * 10_001), id="too large"),
        pytest.param(413, lambda s: s.send(TOLD, alter=iter([b"x" * 5000] * 3)), id="too large, length not told"),
        pytest.param(400, lambda s: s.send(b"{"), id="no JSON"),
        pytest.param(400, lambda s: s.send(b"[" * 9000), id="a pit of brackets"),
        pytest.param(400, lambda s: s.send([TOLD]), id="no object"),
        pytest.param(400, lambda s: s.send({**TOLD, "specversion": "0.3"}), id="version"),
        pytest.param(400, lambda s: s.send({**TOLD, "id": 7}), id="id is no string"),
        pytest.param(400, lambda s: s.send({**TOLD, "source": ""}), id="no source"),
        pytest.param(400, lambda s: s.send({**TOLD, "type": "x" * 1025}), id="endless type"),
        pytest.param(400, lambda s: s.send({**TOLD, "time": "noon"}), id="time"),
        pytest.param(400, lambda s: s.send(b"", {"ce-specversion": "1.0", "ce-id": "%ff"}), id="header no UTF-8"),
        pytest.param(415, lambda s: s.send(TOLD, {"content-type": "application/json"}), id="no CloudEvent"),
        pytest.param(415, lambda s: s.send(b"<a/>", {"content-type": "text/xml", "ce-specversion": "1.0"}), id="xml"),
        pytest.param(
            415, lambda s: s.send(TOLD, {"content-type": "application/cloudevents+json; charset=latin-1"}), id="charset"
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_reason(
    status: int, send: Callable[[Sender], httpx.Response], sender: Sender, desk: Desk
) -> None:
    """Nothing of it is taken, and it is a stored problem; a name that nobody configured is not kept."""
    answer = send(sender)
    assert answer.status_code == status
    assert desk.events("webhook.received") == []
    places = [place for place, _ in desk.problems("webhook")]
    assert places == ([] if status == 405 else ["hooks"] if status == 404 else ["hooks/ci"])


def test_a_flood_of_unsigned_requests_fills_nothing(sender: Sender, desk: Desk) -> None:
    """They are counted; one problem a minute is stored, whatever they hold."""
    for number in range(20):
        assert sender.send({**TOLD, "id": str(number)}, secret=b"wrong").status_code == 401
    assert len(desk.events("problem.recorded")) <= 1
    assert len(desk.problems("webhook")) == 1


def test_a_body_that_trickles_is_cut_off(sender: Sender, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that never ends holds a place for a bounded time, and is a problem."""
    monkeypatch.setattr(requests, "BODY_S", 0.3)
    with socket.create_connection(("127.0.0.1", sender.source.port or 0), timeout=20) as connection:
        connection.sendall(b"POST /hooks/ci HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert b" 408 " in connection.recv(4096)
    assert [reason for _, reason in desk.problems("webhook")] == [webhook._UNSIGNED[408]]


def test_with_too_many_at_once_a_sender_is_told_to_come_again(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused at once, before the body is read; it works again when the others are gone."""
    monkeypatch.setattr(webhook, "AT_ONCE", 1)
    with socket.create_connection(("127.0.0.1", sender.source.port or 0), timeout=20) as holder:
        holder.sendall(b"POST /hooks/ci HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = eventually(lambda: (a := sender.send({**TOLD, "id": "x"})).status_code == 503 and a)
        assert int(answer.headers["retry-after"]) > 0
    eventually(lambda: sender.send(TOLD).status_code == 202)


def test_while_the_store_is_busy_a_sender_is_told_to_come_again(sender: Sender, desk: Desk) -> None:
    """503 means that nothing was promised; the repeat is taken."""
    desk.patience = 0.3
    with desk.locked():
        answer = sender.send(TOLD)
        assert answer.status_code == 503
    desk.patience = 30.0
    assert sender.send(TOLD).status_code == 202
    assert len(desk.events("webhook.received")) == 1


def test_who_waits_when_the_listener_ends_is_told_to_come_again(sender: Sender, desk: Desk, clock: Clock) -> None:
    """A daemon that stops while its store is locked promises nothing, and is no failure of the sender's."""
    config = WebhookConfig(port=0, hooks={"ci": Hook(secret=Secret(value=SECRET.decode()))})
    ending = WebhookSource(config, clock)
    answers: list[httpx.Response] = []
    with desk.locked():
        with running(ending, desk):
            eventually(lambda: ending.port)
            waiting = threading.Thread(target=lambda: answers.append(Sender(ending, clock).send(TOLD)))
            waiting.start()
            eventually(lambda: desk.writer.queued or desk.writer.waiting)
        waiting.join(20)
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [(503, "5")]


def test_a_port_that_is_taken_is_said_and_had_later(desk: Desk, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener waits for its port and then works."""
    monkeypatch.setattr(listening, "BIND_AGAIN_S", 0.1)
    holder = socket.create_server(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    source = WebhookSource(WebhookConfig(port=port, hooks={"ci": Hook(secret=Secret(value="s"))}), clock)
    with running(source, desk):
        eventually(lambda: "cannot listen" in source.health().problem)
        holder.close()
        assert eventually(lambda: source.port) == port
        eventually(lambda: source.health().problem == "")


def test_mlflow_may_say_that_the_registry_changed(sender: Sender, desk: Desk) -> None:
    """With its own kind of signature; it wakes the poll and stores nothing."""
    body, stamp = b'{"entity": "model_version"}', str(int(sender.clock().timestamp()))
    signature = base64.b64encode(hmac.new(SECRET, b"d1." + stamp.encode() + b"." + body, hashlib.sha256).digest())
    headers = {
        "X-MLflow-Delivery-Id": "d1", "X-MLflow-Timestamp": stamp, "X-MLflow-Signature": f"v1,{signature.decode()}",
    }  # fmt: skip
    answer = httpx.post(f"{sender.base}/hooks/ci", content=body, headers=headers)
    assert (answer.status_code, sender.woken) == (202, 1)
    headers["X-MLflow-Timestamp"] = str(int(stamp) + 1)
    assert httpx.post(f"{sender.base}/hooks/ci", content=body, headers=headers).status_code == 401
    assert sender.woken == 1
    assert desk.events("webhook.received") == []


def test_many_senders_at_once_are_all_served(sender: Sender, desk: Desk) -> None:
    """Each event once, whoever was told to come again."""

    def send(number: int) -> None:
        eventually(lambda: sender.send({**TOLD, "id": str(number)}).status_code == 202)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.events("webhook.received")) == 40


def test_an_empty_secret_opens_nothing(clock: Clock) -> None:
    """A hook whose secret could not be read lets nobody in."""
    stamp = str(int(clock().timestamp()))
    headers = [(TIMESTAMP, stamp), (SIGNATURE, sign(b"", stamp, [], b"x"))]
    assert not is_signed(b"", headers, b"x", clock(), timedelta(minutes=5))


def test_a_signature_is_what_its_description_says(clock: Clock) -> None:
    """Worked out by hand from the sentence in the module: senders are written from it."""
    text = b"1767225600\nce-id=1\nce-type=t\n\n{}"
    expected = "v1=" + hmac.new(SECRET, text, hashlib.sha256).hexdigest()
    assert expected == sign(SECRET, "1767225600", [("ce-type", "t"), ("ce-id", "1")], b"{}")
    old = [(TIMESTAMP, "1767225600"), (SIGNATURE, f"v1=00, {sign(SECRET, '1767225600', [], b'{}')}")]
    when = clock().fromtimestamp(1767225600, clock().tzinfo)
    assert is_signed(SECRET, old, b"{}", when, timedelta(0))
