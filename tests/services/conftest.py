"""The services that tests need: started once, the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.story.broker import Broker
from daemon.story.topics import Topics
from tests.contract.desk import Desk


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Kafka broker with all its listeners, shared by the session; who stops it starts it again."""
    with Broker(tmp_path_factory.mktemp("kafka"), secure=True) as one:
        yield one


@pytest.fixture
def topics(broker: Broker) -> Iterator[Topics]:
    """The broker's administrator."""
    with Topics(broker.address) as one:
        yield one


@pytest.fixture
def named(request: pytest.FixtureRequest) -> str:
    """A topic's name of the test's own: all modules share one broker, and tests in two of them may be called the same."""
    name = f"{request.path.stem}.{request.node.name}"
    return name.replace("test_", "").replace("[", ".").replace("]", "")


@pytest.fixture
def topic(named: str, topics: Topics) -> str:
    """A topic of one partition of the test's own."""
    topics.create(named)
    return named


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A daemon's store and writer in a folder of their own."""
    home = tmp_path / "home"
    home.mkdir()
    opened = Desk(home)
    yield opened
    opened.close()
