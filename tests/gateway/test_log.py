"""The prediction log alone: files, their order, what a crash leaves, a full disk, and counting."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from daemon.gateway.log import PredictionLog, closed_before, count_served, recover

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def line(version: str, at: datetime, number: int = 0) -> bytes:
    """One record as the gateway logs it."""
    return orjson.dumps({"n": number, "v": version, "served_at": at.isoformat()}) + b"\n"


def closed(log: PredictionLog) -> None:
    """Close the open file."""
    segment = log.detach()
    assert segment is not None
    assert log.close(segment)


def names(folder: Path) -> list[str]:
    """File names in order."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_shows_under_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    """While it is written to a file ends in `.part`; closed, it has its name; without records there is no file."""
    log = PredictionLog("t", tmp_path / "logs")
    assert log.detach() is None
    log.write([line("1", START)], START)
    assert names(log.folder) == ["20260301T120000000000Z-t.jsonl.part"]
    closed(log)
    assert names(log.folder) == ["20260301T120000000000Z-t.jsonl"]
    assert log.detach() is None


def test_names_sort_by_time_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    """The order of names is the order of writing: also across a clock set back and across a restart."""
    times = [START, START - timedelta(hours=1), START, START + timedelta(seconds=1)]
    for number, at in enumerate(times):
        log = PredictionLog("t", tmp_path)  # a restart each time
        log.write([line("1", at, number)], at)
        closed(log)

    assert [orjson.loads((tmp_path / name).read_bytes())["n"] for name in names(tmp_path)] == [0, 1, 2, 3]


def test_a_killed_gateways_file_is_recovered_and_its_torn_line_kept_apart(tmp_path: Path) -> None:
    """Whole lines of a left-over `.part` file count; a line that was cut off goes to the dead letters with its place."""
    logs, letters = tmp_path / "logs", tmp_path / "dead"
    log = PredictionLog("t", logs)
    log.write([line("1", START), line("2", START)[:9]], START)
    PredictionLog("other", logs).write([line("1", START)], START)

    assert recover(logs, "t", letters) == ("20260301T120000000000Z-t.jsonl",)
    assert (logs / "20260301T120000000000Z-t.jsonl").read_bytes() == line("1", START)
    letter = json.loads((letters / "20260301T120000000000Z-t.jsonl.part.json").read_text())
    assert (letter["position"], letter["raw"]) == (len(line("1", START)), '{"n":0,"v')
    assert "20260301T120000000000Z-other.jsonl.part" in names(logs)
    assert recover(logs, "t", letters) == ()


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_recovery_keeps_every_whole_line_wherever_the_last_was_cut(tmp_path: Path, cut: int) -> None:
    """However much of the last line was written, the lines before it are all there and a file of none is none."""
    logs = tmp_path / "logs"
    logs.mkdir()
    text = line("1", START) + line("2", START)
    (logs / "20260301T120000000000Z-t.jsonl.part").write_bytes(text[:-1][: len(text) - cut])
    recover(logs, "t", tmp_path / "dead")

    expected = text[: text[:-1][: len(text) - cut].rfind(b"\n") + 1]
    assert b"".join(path.read_bytes() for path in logs.iterdir()) == expected


def test_served_counts_open_and_closed_files_since_the_moment(tmp_path: Path) -> None:
    """Records are counted by version from that moment on, whichever file they are in; a torn line is not yet one."""
    log = PredictionLog("t", tmp_path)
    for second, version in enumerate("1112221"):
        at = START + timedelta(seconds=second)
        log.write([line(version, at)], at)
        if second < 5:
            closed(log)
    log.write([b'{"v": "1", "ser'], START)

    assert count_served(tmp_path, "t", START, "v") == {"1": 4, "2": 3}
    assert count_served(tmp_path, "t", START + timedelta(seconds=2), "v") == {"1": 2, "2": 3}
    assert count_served(tmp_path, "t", START + timedelta(seconds=2.5), "v") == {"1": 1, "2": 3}
    assert count_served(tmp_path, "t", START + timedelta(days=1), "v") == {}
    assert count_served(tmp_path / "none", "t", START, "v") == {}


_FULL_DISK = """
import os, sys, subprocess
from datetime import UTC, datetime
from pathlib import Path
from daemon.gateway import log as gateway_log
from daemon.gateway.log import PredictionLog

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
gateway_log.WAITING_BYTES = 100_000
log = PredictionLog("t", disk)
now = datetime.now(UTC)
for number in range(500):
    log.write([b"%05d" % number + b"x" * 994 + b"\\n"], now)
waiting, lost, problem = log.waiting, log.lost, log.problem
assert (disk / os.listdir(disk)[0]).stat().st_size % 1000 == 0, "half a line was left"
subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
log.write([b"%05d" % 500 + b"x" * 994 + b"\\n"], now)
log.retry(now)
log.close(log.detach())
content = b"".join(path.read_bytes() for path in disk.iterdir())
print(waiting, lost, problem, log.waiting, log.problem, [int(line[:5]) for line in content.splitlines()], sep="|")
"""


def test_a_full_disk_costs_no_line_that_fits_in_memory_and_hides_none_that_does_not(tmp_path: Path) -> None:
    """On a disk that is full lines wait in order and are written when there is room; those over the bound are counted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    contained = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*contained, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    done = subprocess.run(
        [*contained, sys.executable, "-c", _FULL_DISK, str(disk)],
        capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    waiting, lost, problem, waiting_after, problem_after, numbers = done.stdout.strip().split("|")
    written = json.loads(numbers)
    assert (int(waiting), "No space left" in problem) == (100, True)
    assert (int(waiting_after), problem_after) == (0, "")
    assert len(written) + int(lost) == 501
    assert all(one < other for one, other in itertools.pairwise(written))
    assert written[-1] == 500


def test_old_files_are_the_closed_ones_behind_the_newest(tmp_path: Path) -> None:
    """One that is still written to is not old, nor is the newest: the next name is to come behind it."""
    for day in range(3):
        log = PredictionLog("t", tmp_path)
        log.write([line("1", START)], START + timedelta(days=day))
        if day != 1:
            closed(log)
    PredictionLog("other", tmp_path).write([line("1", START)], START)
    old = list(closed_before(tmp_path, "t", START + timedelta(days=9)))
    assert [path.name for path in old] == ["20260301T120000000000Z-t.jsonl"]
    assert list(closed_before(tmp_path, "t", START)) == []
    assert list(closed_before(tmp_path / "none", "t", START)) == []
