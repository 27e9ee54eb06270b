"""The disk of the daemon's home is full for a while: a real one of a few MB, filled to the last byte and name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from daemon.auditing import exported_heads
from tests.disk import SmallDisk, small_disk
from tests.faults.stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def mounts() -> Iterator[ExitStack]:
    """What is mounted for the test; made before all else, so that it is unmounted when daemon and gateway have gone."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def disk(mounts: ExitStack, played: Stage) -> SmallDisk:
    """The disk of the scene's home."""
    return mounts.enter_context(small_disk(played.scene.home, 100))


def test_a_full_disk_pauses_everything_and_loses_nothing(played: Stage, mounts: ExitStack, disk: SmallDisk) -> None:
    """No event that was acked is lost, whoever is not acked is told to come again, the daemon says what is wrong, also in a
    log on the same disk, and all goes on by itself when there is room again: intake, files, measuring, runs.
    """
    here, scene, senders = played.here, played.scene, played.senders
    here.log("daemon").symlink_to(scene.home / "daemon.log")
    senders.land_rest()
    last = scene.home / "streams" / "loan" / "predictions" / "p07.csv"
    labels = scene.home / "streams" / "loan" / "labels" / "l07.csv"
    move_labels, move_last = played.hold_back(labels), played.hold_back(last)
    here.start()
    with played.traffic():
        here.wait("the stream to be opened", played.progress)
        landed = scene.landing / "meanwhile.bin"
        landed.write_bytes(b"landed while the disk was full")
        move_landed = played.hold_back(landed)

        disk.fill(scene.home / "daemon.log")
        here.wait("the daemon to say so", lambda: not (status := played.status())["ready"] and status["waiting"])
        assert "full" in played.status()["waiting"]
        answer = played.probe("/readyz")
        assert (answer.status_code, "nothing can be stored: database or disk is full" in answer.text) == (503, True)
        assert played.probe("/healthz").status_code == 200
        before = played.progress()
        assert here.driftd("status").returncode == 1
        move_last()
        senders.landed.append(str(move_landed()))
        here.wait("a sender to be told to come again", lambda: senders.waiting)
        answer = played.knock()
        assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True)
        assert played.progress() == before

        disk.free()
        here.wait("the daemon to go on", lambda: played.probe("/readyz").status_code == 200)
        assert played.status()["ready"]
        senders.allow()
        acks = senders.acks
        here.wait("acks", lambda: senders.acks > acks)
    here.wait("the last file to be measured", lambda: _is_read(played, str(last)))
    move_labels()
    played.settled()


def test_an_audit_head_that_finds_no_room_is_exported_later(played: Stage, mounts: ExitStack) -> None:
    """A run ends although its head cannot be put down where heads are kept; that is done, by itself, when it can be."""
    here, heads = played.here, played.scene.home / "audit" / "heads.jsonl"
    disk = mounts.enter_context(small_disk(heads.parent, 1))
    disk.fill()
    played.senders.land_rest()
    here.start()
    played.senders.allow()
    with played.traffic():
        here.wait("the log to say so", lambda: here.said("audit.head_not_exported"))
    played.quiet()
    assert exported_heads(heads) == ((), ())
    disk.free()
    here.wait("the head", lambda: exported_heads(heads)[0])
    assert exported_heads(heads)[1] == ()
    told = {run for head in exported_heads(heads)[0] for run in head.runs}
    assert told == {run for (run,) in played.store.rows("SELECT id FROM runs")}
    assert here.json("audit", "verify")["heads_checked"] >= 1
    played.settled()


def _is_read(played: Stage, path: str) -> bool:
    return bool(played.store.rows("SELECT 1 FROM files WHERE path = ? AND status = 'taken'", path))
