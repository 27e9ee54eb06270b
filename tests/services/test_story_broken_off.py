"""`make run ARGS=--kafka`, broken off: nothing of it runs afterwards; killed, the next one ends what it has left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.platforms.shim import read_json, start_of
from daemon.story.broker import NOTE
from tests.contract.desk import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("broker")]

ROOT = Path(__file__).parents[2]


@contextmanager
def story(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A story whose broker is up and whose first program plays."""
    before = read_json(home / "kafka" / NOTE)
    with (home.parent / "story.log").open("ab") as out:
        played = subprocess.Popen(
            [sys.executable, "-m", "daemon.story", "--kafka"],
            cwd=ROOT, env={**os.environ, "DRIFTD_HOME": str(home)}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        eventually(
            lambda: played.poll() is not None or (broker(home) and read_json(home / "kafka" / NOTE) != before), 240
        )
        eventually(lambda: played.poll() is not None or programs(home), 240)
        assert played.poll() is None, (home.parent / "story.log").read_text()
        yield played
    finally:
        if played.poll() is None:
            played.terminate()
        played.wait(120)


def broker(home: Path) -> int:
    """The broker that runs there; 0: there is none."""
    noted = read_json(home / "kafka" / NOTE)
    return noted["pid"] if noted is not None and start_of(noted["pid"]) == noted["start"] else 0


def programs(home: Path) -> list[int]:
    """Those of the story that run."""
    noted = [read_json(path) for path in (home / "story" / "programs").glob("*.json")]
    return [one["pid"] for one in noted if one is not None and start_of(one["pid"]) == one["start"]]


def mentioned(home: Path) -> list[str]:
    """Commands of processes that name the home, whoever started them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(home) in command:
            found.append(command)
    return found


def test_a_story_on_kafka_that_is_broken_off_or_killed(tmp_path: Path) -> None:
    """After SIGINT nothing runs; after SIGKILL the broker does until the next story begins, which has one of its own."""
    home = tmp_path / "home"
    with story(home) as killed:
        old, playing = broker(home), programs(home)
        killed.kill()
        killed.wait(60)
    assert broker(home) == old
    with story(home) as broken:
        assert broker(home) not in {0, old}
        assert start_of(old) == ""
        assert [start_of(pid) for pid in playing] == [""]
        broken.send_signal(signal.SIGINT)
        broken.send_signal(signal.SIGINT)  # whoever presses it twice
        assert broken.wait(120) == 130
    assert (broker(home), programs(home), mentioned(home)) == (0, [], [])
