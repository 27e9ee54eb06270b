"""What a story that was killed has left running: the next one ends it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.platforms.base import JobSpec, JobState
from daemon.platforms.local_jobs import LocalJobs
from daemon.platforms.shim import read_json, start_of
from daemon.story.stage import MARK, Stage, StoryFailed
from tests.e2e.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A configuration for programs that the stage plays, and nothing left of them at the end."""
    made = Home(tmp_path)
    made.configure({"models": {}, "streams": {}})
    made.rules("rules: []\n")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    stage(made).close()


def stage(home: Home) -> Stage:
    """A story that is about to begin."""
    return Stage(home.config, home.folder, tell=lambda _text: None)


def training() -> JobSpec:
    """One that takes long."""
    return JobSpec("training", (sys.executable, "-c", "import time; time.sleep(600)"), {}, {}, 500, 600.0)


def test_the_next_story_ends_a_daemon_and_a_training_that_a_killed_one_has_left(home: Home) -> None:
    """The daemon, a job under way and a program that stands still are gone once the next story has cleared its home."""
    killed = stage(home)
    killed.clear()
    daemon = killed.play("daemon", "daemon", "start")
    killed.wait("the daemon's first event", lambda: killed.newest("rules.loaded"), 120)
    idle = killed.play("idle", "http.server", "0", "--bind", "127.0.0.1")
    idle.send_signal(signal.SIGSTOP)
    jobs = LocalJobs(home.state)
    jobs.submit(training())
    program = killed.wait("the job", lambda: read_json(home.state / "jobs" / "training" / "program.json"), 60)
    assert start_of(program["pid"]) == program["start"]
    stage(home).clear()
    assert (start_of(daemon.pid), start_of(idle.pid), start_of(program["pid"])) == ("", "", "")
    assert (daemon.wait(1), idle.wait(1)) == (0, -signal.SIGTERM)
    assert sorted(path.name for path in home.state.iterdir()) == [MARK, "story"]


def test_a_home_that_no_story_made_is_left_alone(home: Home) -> None:
    """Neither its files nor its jobs are touched, whatever the story does there."""
    home.state.mkdir(exist_ok=True)
    jobs = LocalJobs(home.state)
    jobs.submit(training())
    wrong = stage(home)
    with pytest.raises(StoryFailed, match="no story made"):
        wrong.clear()
    wrong.close()
    assert jobs.status("training").state is JobState.RUNNING
    (home.state / MARK).touch()  # so that it is ended now
