"""The PostgreSQL server under the store is killed, and comes back, while everything comes in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.trials import Ground
from tests.faults.stage import Stage, stage
from tests.postgres import Database, Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def database() -> Iterator[Database]:
    """Of a server that the test may kill."""
    with Postgres() as server:
        yield server.fresh()


@pytest.fixture
def shared(ground: Ground, registry: Path, database: Database) -> Iterator[Stage]:
    """A scene on PostgreSQL; its daemon has not been started."""
    undisturbed = ground.reference()
    with stage(ground.scene, registry, undisturbed, database) as made:
        yield made


def test_a_killed_server_is_waited_for_and_nothing_acked_is_lost(shared: Stage, database: Database) -> None:
    """While it is away no sender is acked, and probes say why; when it is back all goes on by itself. Killed four times,
    at any moment of the commits that go on: nothing acked is lost, nothing is decided or started twice, the chain holds.
    """
    here, senders = shared.here, shared.senders
    senders.land_rest()
    here.start()
    with shared.traffic():
        for turn in range(4):
            acks = senders.acks
            here.wait("acks", lambda acks=acks: senders.acks > acks + 5)
            database.server.kill()
            here.wait("it to say so", lambda: shared.probe("/readyz").status_code == 503, 60)
            assert "nothing can be stored" in shared.probe("/readyz").text
            assert shared.probe("/healthz").status_code == 200
            acks = senders.acks
            if turn == 0:
                assert shared.knock().status_code == 503
                threading.Event().wait(3)
                assert senders.acks <= acks + 1  # one may have come in between
            database.server.start()
            senders.allow()
            here.wait("it to go on", lambda: shared.probe("/readyz").status_code == 200, 90)
    shared.settled()
