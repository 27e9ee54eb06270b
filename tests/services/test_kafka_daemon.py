"""The daemon as a program, with a topic of events behind SCRAM and TLS."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.control import ask
from daemon.core.runs import State
from daemon.story.broker import ANN, ANNS_PASSWORD, Broker
from daemon.story.topics import Message, Topics
from tests.e2e.home import Home, home
from tests.services.kafkas import placed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]

RULES = """
rules:
  - name: hear-of-orders
    on: message.received
    when: event.source == "shop" && event.type == "order.placed" && event.payload == 3.0
    do:
      - notify: {to: ops}
  - name: hear-of-gaps
    on: source.gap
    when: event.lost >= 2
    do:
      - notify: {to: ops}
"""


@pytest.fixture
def here(tmp_path: Path, broker: Broker, topic: str) -> Iterator[Home]:
    """A home whose daemon reads the topic."""
    with home(tmp_path) as made:
        (tmp_path / "password").write_text(ANNS_PASSWORD)
        (tmp_path / "user").write_text(ANN)
        sasl = {"username": {"file": "user"}, "password": {"file": "password"}}
        made.configure({
            "kafka": {
                "main": {
                    "bootstrap": [broker.scram_address], "security": "SASL_SSL", "sasl": sasl,
                    "tls": {"ca": str(broker.ca)}, "timeout": "5s", "refresh": "1s",
                },
            },
            "sources": {"shop": {"kind": "kafka", "connection": "main", "topics": [topic], "group": f"group-{topic}"}},
            "channels": {"ops": {"kind": "log"}},
        })  # fmt: skip
        made.rules(RULES)
        yield made


def _came(here: Home) -> list[Any]:
    return [event.recorded.event.data["payload"] for event in reversed(here.events("message.received"))]


def _health(here: Home) -> dict[str, Any]:
    sources: dict[str, Any] = ask(here.state, {"op": "status"}, 10)["status"]["sources"]
    found: dict[str, Any] = sources["kafka:shop"]
    return found


def test_rules_hear_of_events_on_topics_over_crashes(here: Home, broker: Broker, topics: Topics, topic: str) -> None:
    """Killed in mid-stream, with records that run out unread and a broker that goes away: each event is decided once."""
    here.start()
    topics.send(topic, [placed(number) for number in range(200)])
    here.wait("the first events", lambda: _came(here))
    os.kill(here.playing["daemon"].pid, signal.SIGKILL)
    here.playing.pop("daemon").wait()
    topics.send(topic, [placed(number) for number in range(200, 205)] + [Message(b"{")])
    here.start()
    here.wait("all events", lambda: len(_came(here)) == 205)
    assert _came(here) == list(range(205))
    assert State.SUCCEEDED is here.ended("hear-of-orders").state
    assert len(here.fired("hear-of-orders")) == 1
    assert here.end("daemon") == 0

    topics.send(topic, [placed(number) for number in range(205, 210)])
    topics.forget(topic, before=209)
    here.start()
    here.wait("the event behind the gap", lambda: _came(here)[-1] == 209)
    (gap,) = here.events("source.gap")
    assert (gap.recorded.event.data["from_offset"], gap.recorded.event.data["to_offset"]) == (206, 209)
    assert State.SUCCEEDED is here.ended("hear-of-gaps").state

    here.wait("no lag", lambda: _health(here)["lag"] == 0)
    broker.kill()
    try:
        here.wait("the health to say so", lambda: "Connection refused" in _health(here)["problem"])
    finally:
        broker.start()
    with Topics(broker.address) as again:
        again.send(topic, [placed(210)])
    here.wait("the event after all that", lambda: _came(here)[-1] == 210, 90)
    here.wait("no problem", lambda: _health(here)["problem"] == "")
    assert "Traceback" not in here.log("daemon").read_text()
    assert here.end("daemon") == 0
