"""KServe's payload logger through a real broker: pairs and windows are those of the log, whoever was killed."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from daemon.story.broker import Broker
from daemon.story.topics import Message, Topics
from tests.monitors import payloads
from tests.monitors.lab import wait_for
from tests.services.test_prediction_streams import PARTITIONS, START, Daemon, Lab, finish, make

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CALLS = 3_000
EVENTS: dict[str, Any] = {"format": "kserve", "fields": payloads.FIELDS}
assert payloads.START.timestamp() == START


def message(side: str, number: int, second: float, body: Any) -> Message:
    """An event in binary mode as Knative writes it; every tenth call's in structured mode."""
    told = payloads.headers(side, f"c{number}", second)
    where = {"partition": number % PARTITIONS, "timestamp": round((START + second) * 1000)}
    raw = b"" if body is None else json.dumps(body).encode()
    if number % 10 == 0 and body is not None:
        event = {name[3:]: text for name, text in told.items() if name.startswith("ce-")} | {"data": body}
        return Message(json.dumps(event).encode(), **where)
    named = tuple((name.replace("ce-", "ce_"), text.encode()) for name, text in told.items())
    return Message(raw or None, key=told["ce-id"].encode(), headers=named, **where)


def events(count: int) -> list[Message]:
    """Calls of one to three rows, ten a second; some are looks at health, some have no response, some come twice."""
    chance = random.Random(5)
    made: list[tuple[float, Message]] = []
    for number in range(count):
        second = number / 10
        rows = [{"age": chance.randrange(90), "plan": chance.choice("abc")} for _ in range(1 + number % 3)]
        asked = message("request", number, second, None if number % 50 == 7 else {"instances": rows})
        answered = message(
            "response", number, second + 0.2, {"predictions": [{"label": row["age"] % 2, "score": 0.5} for row in rows]}
        )
        made.append((second + chance.uniform(0, 2), asked))
        if number % 100 != 3:
            made += [(second + chance.uniform(0, 2), answered)] * (2 if number % 100 == 4 else 1)
    return [one for _, one in sorted(made, key=lambda one: one[0])]


def states(daemon: Daemon) -> dict[str, bytes]:
    """What the partitions' formats remember."""
    return {key: blob for key, blob in daemon.writer.states("churn").items() if key.endswith("/halves")}


def test_pairs_survive_killed_workers(tmp_path: Path, broker: Broker, topics: Topics, named: str) -> None:
    """Both workers are killed while halves of calls wait: the same rows, panes, events and states as without."""
    log = events(CALLS)
    labels = [
        Message(
            json.dumps({"id": f"c{n}/0", "y": n % 2}).encode(), partition=n % 2, timestamp=(START + n // 10 + 20) * 1000
        )
        for n in range(CALLS)
    ]
    half = len(log) // 2
    make(topics, named)
    topics.send(named, log)
    topics.send(f"{named}-labels", labels)
    calm = Lab(tmp_path / "calm", broker, named, changes=EVENTS)
    with calm.daemon() as daemon:
        finish(daemon, len(log) + CALLS)
        expected, remembered = daemon.measured(), states(daemon)
        rows = sum(1 + n % 3 for n in range(CALLS) if n % 50 != 7 and n % 100 != 3) + len(labels)
        wait_for(lambda: daemon.supervisor.figures()["churn"]["unpaired"] == CALLS // 100)
        figures = daemon.supervisor.figures()["churn"]
    assert (figures["rows"], figures["malformed"]) == (rows, 0)
    assert len(expected[0]) >= 10

    make(topics, f"{named}-again")
    lab = Lab(tmp_path / "pair", broker, f"{named}-again", workers=2, changes=EVENTS)
    with lab.daemon() as daemon:
        wait_for(lambda: len(daemon.supervisor.pids) == 2)
        topics.send(lab.topic, log[:half])
        topics.send(f"{lab.topic}-labels", labels)
        wait_for(lambda: daemon.read() >= half)
        first, second = daemon.supervisor.pids
        os.kill(second, signal.SIGKILL)
        topics.send(lab.topic, log[half:])
        wait_for(lambda: len(daemon.supervisor.pids) == 2 and second not in daemon.supervisor.pids)
        os.kill(first, signal.SIGKILL)
        finish(daemon, len(log) + CALLS)
        found, again = daemon.measured(), states(daemon)

    for one, other in zip(expected[:2], found[:2], strict=True):
        assert [event[:2] for event in one] == [event[:2] for event in other]
    for one, other in zip(expected, found, strict=True):
        assert one == other
    assert sorted(remembered.values()) == sorted(again.values())
