"""Full disks, locked databases, other leaders, ends without warning: made to happen, not pretended."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from daemon.auditing import Head, HeadFile, exported_heads
from daemon.core.audit import GENESIS, AuditRecord, verify
from daemon.core.calls import Done, Failed, Working
from daemon.core.errors import AuditBroken, Deposed, StoreBusy, StoreError
from daemon.core.rules import RuleSet
from daemon.core.runs import State
from daemon.intake import Batch
from tests.builders import T0, landed, measured, rule, rules, said, step, windows
from tests.disk import SmallDisk, small_disk
from tests.writer.conftest import PATIENCE, World

EACH = rules(rule(on="data.landed", when=(), steps=(step("train"),)))


def chain(world: World) -> list[AuditRecord]:
    """The stored audit chain."""
    records: list[AuditRecord] = []
    for seq, _kind, _ref, body, stored in world.rows("audit_after", 0, 100_000):
        records.append(AuditRecord(seq, body.encode(), records[-1].hash if records else GENESIS, stored))
    return records


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of 24 MB."""
    with small_disk(tmp_path / "disk", 24) as made:
        yield made


def test_a_full_disk_loses_nothing(disk: SmallDisk) -> None:
    """On a full disk intake waits and gives no receipt; when there is room again what waited is stored, once, and it goes on."""
    world = World(disk.folder).open(EACH, workers=0)
    try:
        disk.fill()
        receipts: list[int] = []
        refused: list[StoreBusy] = []

        def feed() -> None:
            number = 0
            while number < 200 and len(refused) < 60:
                try:
                    receipts.extend(world.writer.submit(Batch(events=(landed(number, path="x" * 4000),)), 0.5).seqs)
                except StoreBusy as error:
                    refused.append(error)
                    if len(refused) == 2:
                        disk.free()
                else:
                    number += 1

        thread = threading.Thread(target=feed)
        thread.start()
        thread.join(60)
        assert not thread.is_alive()
        assert len(refused) >= 2
        stored = [one.recorded for one in world.events() if one.recorded.event.type == "data.landed"]
        assert [f"file-{number}" for number in range(200)] == [one.event.id for one in stored]
        assert receipts == [one.seq for one in stored]
        verify(chain(world))
    finally:
        world.close()


def test_a_locked_database_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the write lock intake waits; afterwards everything is stored once."""
    monkeypatch.setattr("daemon.store.sqlite.BUSY_MS", 50)
    world.open(EACH)
    other = sqlite3.connect(world.folder / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        world.writer.submit(Batch(events=(landed(1),)), 0.3)
    waiting = threading.Thread(target=lambda: world.submit(landed(2)))
    waiting.start()
    world.wait(lambda: world.writer.queued or waiting.is_alive())
    other.execute("ROLLBACK")
    other.close()
    waiting.join(PATIENCE)
    world.submit(landed(1))
    assert sorted(one.recorded.event.id for one in world.events() if one.recorded.event.type == "data.landed") == [
        "file-1",
        "file-2",
    ]


def test_a_writer_that_is_stopped_while_nothing_can_be_stored_gives_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not try what waits one by one, each for as long as it waits for a lock: all who wait are told at once."""
    monkeypatch.setattr("daemon.store.sqlite.BUSY_MS", 300)
    world.open(EACH)
    refused: list[BaseException] = []

    def hand_in(number: int) -> None:
        try:
            world.writer.submit(Batch(events=tuple(landed(number * 100 + n) for n in range(20))))
        except StoreBusy as error:
            refused.append(error)

    with contextlib.closing(sqlite3.connect(world.folder / "store.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        threads = [threading.Thread(target=hand_in, args=(number,)) for number in range(30)]
        for thread in threads:
            thread.start()
        world.wait(lambda: world.writer.waiting and world.writer.queued + 1 >= len(threads) - 12)
        assert world.writer.stop(5)
        for thread in threads:
            thread.join(PATIENCE)
    assert len(refused) == len(threads)
    assert world.writer.failure is None


def test_a_second_daemon_on_the_same_store_is_refused(world: World) -> None:
    """Only one leads."""
    world.open(EACH)
    with pytest.raises(StoreBusy, match="another driftd"):
        World(world.folder).open(EACH)


def test_a_deposed_writer_stops(world: World) -> None:
    """When another leader's epoch is in the store nothing more is written, everybody is told, and the writer says why."""
    world.open(EACH)
    with contextlib.closing(sqlite3.connect(world.folder / "store.db")) as other, other:
        other.execute("UPDATE meta SET value = '99' WHERE name = 'epoch'")
    with pytest.raises(Deposed):
        world.submit(landed(1))
    world.wait(lambda: world.writer.failure)
    with pytest.raises(StoreError, match="stopped"):
        world.submit(landed(2))
    assert [one for one in world.events() if one.recorded.event.type == "data.landed"] == []


def test_a_restart_goes_on_where_it_was(world: World) -> None:
    """Claimed calls come back, memory and counters are as they were, and the run goes to its end."""
    kept = rules(rule(hold=windows(2)), rule("each", on="data.landed", when=(), steps=(step("serve"),)))
    world.open(kept)
    world.submit(measured(1, 1), landed(1))
    lost = world.call()
    before = world.writer.standing
    world.restart(kept)
    assert dict(before.memory) == dict(world.writer.standing.memory)
    assert before.seq + 1 == world.writer.standing.seq  # the load
    again = world.call()
    assert (lost.call.id, lost.epoch + 1) == (again.call.id, again.epoch)
    assert world.settle(lost, Failed("from another life")) is False
    world.settle(again, Done())
    assert State.PROMOTED is world.ended(again.call.run).state
    world.submit(measured(2, 1))
    assert world.verdicts() == ["held", "fired"]


def test_a_paused_daemon_is_paused_after_a_restart(world: World) -> None:
    """An operator's pause outlives the process."""
    world.open(EACH)
    world.submit(said("pause"))
    world.restart(EACH)
    world.submit(landed(1))
    assert world.verdicts() == ["paused"]


def test_the_chain_verifies_and_its_heads_are_exported(world: World) -> None:
    """After runs of all kinds the chain verifies, holds every exported head, and a cut tail is found by the last one."""
    world.open(EACH)
    for number, outcome in enumerate([Done(), Failed("x"), Done()]):
        world.submit(landed(number))
        world.answer("train", Working(0, note="a"))
        world.answer("train", outcome)
    records = chain(world)
    heads_file = world.folder / "audit" / "heads.jsonl"
    world.wait(lambda: heads_file.exists() and len(heads_file.read_bytes().splitlines()) == 3)
    heads = [orjson.loads(line) for line in heads_file.read_bytes().splitlines()]
    assert [run.id for run in world.runs()] == [head["runs"][0] for head in heads]
    for head in heads:
        assert records[-1].hash == verify(records, head["hash"])
    with pytest.raises(AuditBroken, match="cut off"):
        verify(records[:-2], heads[-1]["hash"])


def test_a_start_exports_the_head_that_a_crash_kept_from_it(world: World) -> None:
    """A process that dies after the commit of a run's end, and before its head is written down, leaves that to the next."""
    world.open(EACH)
    world.submit(landed(1))
    world.answer("train", Done())
    heads_file = world.folder / "audit" / "heads.jsonl"
    world.wait(heads_file.exists)
    heads_file.unlink()
    before = chain(world)
    world.restart(EACH)
    (head,) = [orjson.loads(line) for line in heads_file.read_bytes().splitlines()]
    assert (before[-1].seq, before[-1].hash) == (head["seq"], head["hash"])


def test_heads_that_cannot_be_exported_stop_nothing(world: World) -> None:
    """When the file of heads cannot be written the run goes on, and its head is exported, by itself, once it can be."""
    folder = world.folder / "audit"
    folder.write_text("a file where the folder should be")
    world.open(EACH)
    for number in (1, 2):
        world.submit(landed(number))
        world.answer("train", Done())
    runs = [world.ended(run.id) for run in world.runs()]
    assert len(runs) == 2
    folder.unlink()
    world.later(6)
    (head,) = world.wait(lambda: exported_heads(folder / "heads.jsonl")[0])
    assert tuple(run.id for run in runs) == head.runs
    assert head.hash == verify(chain(world), head.hash)


def test_a_head_that_finds_no_room_leaves_no_half_line(disk: SmallDisk) -> None:
    """The file of heads on a full disk stays readable, and the next line after a cut one is a line of its own."""
    path = disk.folder / "heads.jsonl"
    heads = HeadFile(path)
    path.touch()
    page = disk.folder / "page"
    page.write_bytes(b"x" * 4096)
    disk.fill()
    page.unlink()
    head = Head(1, "h" * 64, T0.isoformat(), tuple(f"run-{number}" for number in range(3000)))
    assert "No space" in heads.export(head, T0)
    assert path.read_bytes() == b""
    disk.free()
    path.write_bytes(b'{"seq": 1, "ha')
    assert heads.export(Head(2, "g" * 64, T0.isoformat(), ("last",)), T0) == ""
    exported, unreadable = exported_heads(path)
    assert ([one.seq for one in exported], unreadable) == ([2], (1,))
    assert exported[0].runs == (*head.runs, "last")


def test_rules_that_are_not_in_force_in_time_may_be_loaded_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store takes nothing a load says so after a while instead of waiting for ever; the next one counts."""
    world.open(EACH)
    monkeypatch.setattr("daemon.writer.LOAD_S", 0.2)
    monkeypatch.setattr("daemon.store.sqlite.BUSY_MS", 50)
    with contextlib.closing(sqlite3.connect(world.folder / "store.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy, match="load them again"):
            world.writer.load(rules(rule("other", on="data.landed", when=())), {})
        world.wait(lambda: "locked" in world.writer.waiting)
        other.execute("ROLLBACK")
    world.wait(lambda: not world.writer.waiting)
    monkeypatch.undo()
    world.writer.load(rules(rule("third", on="data.landed", when=())), {})
    assert [rule.name for rule in world.writer.rules.rules] == ["third"]


def test_no_rules_at_all(world: World) -> None:
    """An empty rule set is a rule set."""
    world.open(RuleSet(()))
    assert world.submit(landed(1)).seqs == (2,)
