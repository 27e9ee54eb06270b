"""The local gateway's log comes to the topic of its stream: every record, in order, over crashes of everybody."""

from __future__ import annotations

import contextlib
import os
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from daemon.clients.kafka import Consumer
from daemon.config import Fields
from daemon.gateway.log import PredictionLog, closed_after
from daemon.intake import Batch, Cursor, Receipt
from daemon.sources import gatewaylog
from daemon.sources.gatewaylog import GatewayLogSource
from daemon.story.broker import Broker
from daemon.story.topics import Topics
from tests.contract.desk import Desk, eventually, running
from tests.services.kafkas import plain, read

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]
CURSOR = "gateway-log:churn"


def sent_from(broker: Broker, topic: str, desk: Desk) -> GatewayLogSource:
    """The source of the log of target `churn`."""
    place = (desk.home / "rows", topic, Fields(id="id", unit="who"))
    return GatewayLogSource("churn", place, plain(broker.address), lambda: datetime.now(UTC))


def log_of(desk: Desk) -> PredictionLog:
    """A gateway's log."""
    return PredictionLog("churn", desk.home / "rows")


def write(log: PredictionLog, first: int, last: int) -> None:
    """A file of the log, closed."""
    lines = [orjson.dumps({"id": f"r{n}", "who": f"u{n % 5}" if n % 2 else None}) + b"\n" for n in range(first, last)]
    log.write(lines, datetime.now(UTC))
    segment = log.detach()
    assert segment is not None
    assert log.close(segment)


def came(broker: Broker, topic: str, count: int) -> list[tuple[bytes | None, str]]:
    """Key and id of the first records of the topic."""
    with closing(Consumer(plain(broker.address), "tool", f"tool-{topic}-{count}")) as consumer:
        consumer.subscribe([topic])
        return [(one.key, orjson.loads(one.value or b"{}")["id"]) for one in read(consumer, count)]


def test_what_the_gateway_has_closed_is_sent_once_and_in_order(
    broker: Broker, topics: Topics, topic: str, desk: Desk
) -> None:
    """Keyed by the unit or else the id; what is open waits; what was there before the stream was watched is not sent."""
    log = log_of(desk)
    write(log, 0, 3)
    with running(sent_from(broker, topic, desk), desk):
        eventually(lambda: desk.cursor(CURSOR))
        write(log, 3, 1_300)
        eventually(lambda: topics.ends(topic) == {0: 1_297})
        log.write([b'{"id": "open"}\n'], datetime.now(UTC))
        eventually(lambda: desk.cursor(CURSOR)["lines"] == 0)
    segment = log.detach()
    assert segment is not None
    assert log.close(segment)
    desk.reopen()
    with running(sent_from(broker, topic, desk), desk):
        eventually(lambda: topics.ends(topic) == {0: 1_298})
    found = came(broker, topic, 1_298)

    assert [name for _, name in found] == [*(f"r{n}" for n in range(3, 1_300)), "open"]
    assert found[:2] == [(b"u3", "r3"), (b"r4", "r4")]
    assert desk.problems("kafka") == []


class Dying(Desk):
    """A store whose daemon dies before it has stored that a block was sent."""

    lives = 3

    def submit(self, batch: Batch, timeout: float = 30.0) -> Receipt:
        """Die, at first."""
        if batch.cursors and batch.cursors[0].value["lines"] == gatewaylog.BLOCK and self.lives:
            self.lives -= 1
            raise SystemExit
        return super().submit(batch, timeout)


def test_a_daemon_that_dies_sends_at_most_a_block_again(broker: Broker, topics: Topics, topic: str, desk: Desk) -> None:
    """None is missing, whatever was stored."""
    with closing(Dying(desk.home.parent)) as dying:
        dying.submit(Batch(cursors=(Cursor(CURSOR, {"file": "", "lines": 0}),)))
        write(log_of(dying), 0, 700)
        for _ in range(3):
            with contextlib.suppress(SystemExit):
                sent_from(broker, topic, dying).run(dying, threading.Event())
        with running(sent_from(broker, topic, dying), dying):
            eventually(lambda: dying.cursor(CURSOR)["lines"] == 0 and dying.cursor(CURSOR)["file"])
    ends = topics.ends(topic)[0]

    assert ends == 700 + 3 * gatewaylog.BLOCK
    assert {name for _, name in came(broker, topic, ends)} == {f"r{n}" for n in range(700)}


def test_a_broker_that_is_away_is_told_and_nothing_is_lost(
    broker: Broker, topics: Topics, topic: str, desk: Desk
) -> None:
    """While it is away the log waits in its files; health and a problem say so."""
    desk.submit(Batch(cursors=(Cursor(CURSOR, {"file": "", "lines": 0}),)))
    log = log_of(desk)
    with running(one := sent_from(broker, topic, desk), desk):
        write(log, 0, 10)
        eventually(lambda: topics.ends(topic) == {0: 10})
        broker.kill()
        try:
            write(log, 10, 20)
            eventually(lambda: one.health().problem)
            eventually(lambda: desk.problems("kafka"))
        finally:
            broker.start()
        with Topics(broker.address) as again:
            eventually(lambda: again.ends(topic)[0] >= 20)
        eventually(lambda: not one.health().problem)
    names = [name for _, name in came(broker, topic, 20)]

    assert set(names) == {f"r{n}" for n in range(20)}


def test_only_whole_files_in_order_are_sent(desk: Desk) -> None:
    """A file that is open holds up those behind it; others' files are none of ours."""
    folder = desk.home / "rows"
    folder.mkdir()
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    names = [f"{(begin + timedelta(seconds=n)):%Y%m%dT%H%M%S%fZ}-churn.jsonl" for n in range(5)]
    for name in (*names, "20260101T000000000000Z-other.jsonl", "topic-x-0-00000000000000000000.jsonl"):
        (folder / name).touch()
    os.rename(folder / names[3], folder / f"{names[3]}.part")  # noqa: PTH104 - as the gateway has it

    assert [path.name for path in closed_after(folder, "churn", "")] == names[:3]
    assert [path.name for path in closed_after(folder, "churn", names[1])] == names[2:3]
    assert [path.name for path in closed_after(folder, "churn", names[1], included=True)] == names[1:3]
