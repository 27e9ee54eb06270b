"""Another process has the store locked for longer than the daemon waits for a lock."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from daemon.store.sqlite import BUSY_MS
from tests.faults.stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def locked(played: Stage) -> Iterator[None]:
    """Somebody, a backup for one, has the database for itself."""
    path = played.scene.home / "store.db"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as other:
        other.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


def test_a_locked_store_is_waited_for_and_nothing_is_lost(played: Stage) -> None:
    """While it is locked no sender is acked and the daemon says why, and it can be told to stop; when it is free again all
    goes on by itself.
    """
    here, senders = played.here, played.senders
    senders.land_rest()
    here.start()
    with played.traffic():
        here.wait("some acks", lambda: senders.acks > 5)
        with locked(played):
            here.wait("the daemon to say so", lambda: "locked" in played.status()["waiting"], BUSY_MS / 1000 + 30)
            assert not played.status()["ready"]
            assert here.end("daemon", 30) == 0
        here.start()
        senders.allow()
        here.wait("the stream to be opened", played.progress)
        with locked(played):
            acks = senders.acks
            here.wait("the daemon to say so", lambda: "locked" in played.status()["waiting"], BUSY_MS / 1000 + 30)
            assert played.knock().status_code == 503
            answer = played.probe("/readyz")
            assert (answer.status_code, "database is locked" in answer.text) == (503, True)
            assert played.probe("/healthz").status_code == 200
            threading.Event().wait(BUSY_MS / 1000)
            assert senders.acks <= acks + 1  # one may have come in between
        here.wait("acks", lambda: senders.acks > acks + 1)
        here.wait("it to say that all is well", lambda: (now := played.status())["ready"] and not now["waiting"])
        assert played.probe("/readyz").json() == {"ready": True, "reasons": []}
    played.settled()
