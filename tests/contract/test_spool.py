"""What a spool promised is there: after a kill, on a full disk, with many senders at once; and it does not grow for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.sources.spool import Full, Spool
from tests.contract.desk import Clock
from tests.disk import small_disk

MOST = 1 << 20


def lines(folder: Path) -> list[bytes]:
    """All lines of the closed files, in order."""
    return [line for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


def spool_in(folder: Path, clock: Clock, most: int = MOST) -> Spool:
    """A spool that has looked at what was there."""
    made = Spool(folder, most, clock)
    made.recover()
    return made


def test_a_file_is_closed_when_it_is_old_enough(tmp_path: Path, clock: Clock) -> None:
    """Until then its name says that it is not whole; names sort by time, also when the clock goes back."""
    spool = spool_in(tmp_path, clock)
    for number, seconds in enumerate((0, 10, -60)):
        clock.move(seconds=seconds)
        spool.append(b"%d" % number)
        spool.turn()
        assert len(list(tmp_path.glob("*.part"))) == 1
        clock.move(seconds=2)
        spool.turn()
        assert list(tmp_path.glob("*.part")) == []

    assert lines(tmp_path) == [b"0", b"1", b"2"]
    assert [path.stat().st_mode & 0o777 for path in spool.files()] == [0o600] * 3


def test_many_threads_at_once_lose_and_mix_nothing(tmp_path: Path, clock: Clock) -> None:
    """Each line once and whole, while files are being closed."""
    spool = spool_in(tmp_path, clock)
    over = threading.Event()

    def close() -> None:
        while not over.is_set():
            spool.turn(at_once=True)

    def send(number: int) -> None:
        for part in range(50):
            spool.append(b"%d-%d-" % (number, part) + b"x" * 200)

    closing = threading.Thread(target=close)
    closing.start()
    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    closing.join()
    spool.turn(at_once=True)

    expected = {b"%d-%d-" % (number, part) + b"x" * 200 for number in range(8) for part in range(50)}
    found = lines(tmp_path)
    assert len(found) == len(expected)
    assert set(found) == expected


def test_what_was_answered_before_a_kill_is_there(tmp_path: Path, clock: Clock) -> None:
    """A process that is killed while it writes: every line that it told of is whole in a file after the next start."""
    code = (
        "import itertools, sys; from datetime import UTC, datetime; from pathlib import Path; "
        "from daemon.sources.spool import Spool; "
        "spool = Spool(Path(sys.argv[1]), 1 << 30, lambda: datetime.now(UTC)); spool.recover()\n"
        "for number in itertools.count():\n"
        "    spool.append(b'%d' % number); print(number, flush=True)\n"
        "    if number % 40 == 39: spool.turn(at_once=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        told = [int(victim.stdout.readline()) for _ in range(100)]
        victim.kill()
        told += [int(line) for line in victim.stdout.read().splitlines()]

    assert spool_in(tmp_path, clock).bytes > 0

    found = [int(line) for line in lines(tmp_path)]
    assert found[: len(told)] == told
    assert found in (told, [*told, len(told)])


def test_a_line_that_was_cut_off_is_not_taken(tmp_path: Path, clock: Clock) -> None:
    """It was never answered; a file of nothing else goes."""
    (tmp_path / "20260101T000000000000Z.jsonl.part").write_bytes(b'{"a": 1}\n{"b"')
    (tmp_path / "20260101T000001000000Z.jsonl.part").write_bytes(b'{"c"')

    spool = Spool(tmp_path, MOST, clock)

    assert spool.recover() == 2
    assert lines(tmp_path) == [b'{"a": 1}']
    assert spool.bytes == 9


def test_a_spool_takes_no_more_than_it_may_have(tmp_path: Path, clock: Clock) -> None:
    """What was measured makes room: at once where room is short, else when it is old enough."""
    spool = spool_in(tmp_path, clock, 1000)
    for _ in range(3):
        spool.append(b"x" * 299)
        spool.turn(at_once=True)
    with pytest.raises(Full):
        spool.append(b"x" * 299)
    first, second, third = spool.files()

    assert spool.remove({first, second}, timedelta(hours=1)) == 2
    assert (spool.files(), spool.bytes) == ([third], 300)
    spool.append(b"x" * 99)
    spool.turn(at_once=True)
    os.utime(third, (clock().timestamp(),) * 2)
    assert spool.remove({third}, timedelta(hours=1)) == 0
    clock.move(hours=2)
    assert spool.remove({third}, timedelta(hours=1)) == 1
    assert spool.bytes == 100


def test_a_full_disk_is_said_and_leaves_no_half_line(tmp_path: Path, clock: Clock) -> None:
    """Whoever is not told that it failed has his line on the disk."""
    with small_disk(tmp_path / "disk", 2) as disk:
        folder = disk.folder / "spool"
        spool = spool_in(folder, clock, 1 << 30)
        spool.append(b"before")
        disk.fill(*folder.glob("*.part"))
        with pytest.raises(OSError, match="No space"):
            spool.append(b"x" * 100_000)
        disk.free()
        spool.append(b"after")
        spool.turn(at_once=True)

        assert [line for line in lines(folder) if line] == [b"before", b"after"]


def test_a_sync_that_fails_is_a_failure_of_all_that_waited_for_it(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells it once; the next line goes to another file."""
    spool = spool_in(tmp_path, clock)
    spool.append(b"before")
    real = os.fsync

    def fail(_handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="synced"):
        spool.append(b"lost")
    monkeypatch.setattr(os, "fsync", real)
    spool.turn()
    assert len(spool.files()) == 1
    spool.append(b"after")
    spool.turn(at_once=True)

    assert len(spool.files()) == 2
