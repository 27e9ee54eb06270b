"""What every source promises, kept by topics on a real broker: the tests of tests/contract/test_sources.py."""

from __future__ import annotations

import itertools

import pytest

from daemon.sources.kafka import KafkaSource
from daemon.story.broker import Broker
from daemon.story.topics import Topics
from tests.contract.desk import Clock, Desk
from tests.contract.test_sources import (
    World,
    test_its_health_follows_the_clock_and_the_events,
    test_its_name_is_kind_and_name,
    test_nothing_is_lost_while_the_store_is_busy,
    test_what_happened_while_the_daemon_was_down_is_stored_once,
    test_what_happens_is_stored_in_order_and_once,
)
from tests.services.kafkas import orders, placed, plain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]

__all__ = [
    "test_its_health_follows_the_clock_and_the_events",
    "test_its_name_is_kind_and_name",
    "test_nothing_is_lost_while_the_store_is_busy",
    "test_what_happened_while_the_daemon_was_down_is_stored_once",
    "test_what_happens_is_stored_in_order_and_once",
]


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def world(broker: Broker, topics: Topics, topic: str, desk: Desk, clock: Clock) -> World:
    """A topic; somebody sends an event."""
    count = itertools.count()
    return World(
        "message.received",
        lambda: KafkaSource("shop", orders(topic), plain(broker.address), desk.home, clock),
        lambda _source: topics.send(topic, [placed(next(count))]),
        cursor=f"kafka:shop/{topic}/0",
    )
