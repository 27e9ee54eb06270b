"""The stage of the story: the processes that play in it, and what can be seen of the daemon from outside.

Everything is started, fed and watched as an operator would: programs on the command line, and the store read beside the
running daemon.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon.config import Config
from daemon.control import ask
from daemon.core.errors import DaemonError
from daemon.core.events import Recorded
from daemon.core.runs import Run
from daemon.store.base import Row, Session
from daemon.store.rows import event_of, run_of
from daemon.store.sqlite import SqliteStore
from daemon.story import leftovers
from daemon.story.broker import Broker
from daemon.story.people import MODEL

MARK = ".driftd-story"
"""Marks a home that a story made, and that the next one may clear."""


class StoryFailed(Exception):
    """Something did not happen as it should; the message says what, and where to look."""


@dataclass(slots=True)
class Stage:
    """One performance."""

    config: Config
    data: Path
    playing: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    tell: Callable[[str], None] = print
    broker: Broker | None = None
    """The Kafka broker that the log goes through; None: the log is files."""
    _store: SqliteStore | None = None
    _times: list[str] = field(default_factory=list)

    # -- before and after

    def clear(self) -> None:
        """An empty home; one that no story made is left alone."""
        home = self.config.home
        if home.exists() and any(home.iterdir()) and not (home / MARK).exists():
            raise StoryFailed(f"{home} holds something that no story made; set DRIFTD_HOME to another folder")
        self._end_leftovers()
        shutil.rmtree(home, ignore_errors=True)
        (home / "story").mkdir(parents=True)
        (home / MARK).touch()

    def close(self) -> None:
        """End every program that this story started."""
        if self._store is not None:
            self._store.close()
            self._store = None
        for name in list(self.playing):
            self.end(name)
        self._end_leftovers()
        if self.broker is not None:
            self.broker.stop()

    def _end_leftovers(self) -> None:
        """What outlives the daemon by design, and what a story that was killed has left; never that of somebody's own."""
        if (self.config.home / MARK).exists():
            leftovers.end(self.config.home)

    @property
    def at_home(self) -> str:
        """What stands before a command that is to look at this story."""
        home = f"DRIFTD_HOME={self.config.home}"
        return home if self.broker is None else f"DRIFTD_CONFIG={self.config.root / 'config.yaml'} {home}"

    # -- programs

    def log(self, name: str) -> Path:
        """Where a program's output goes."""
        return self.config.home / "story" / f"{name}.log"

    def play(self, name: str, *module: str) -> subprocess.Popen[bytes]:
        """Start `python -m module…` beside the story."""
        with self.log(name).open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.playing[name] = process
        leftovers.note(self.config.home, name, process.pid)
        return process

    def end(self, name: str, seconds: float = 20.0) -> int:
        """Ask a program to stop, and wait; its exit code."""
        process = self.playing.pop(name)
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def leave(self, name: str) -> int:
        """Leave a program to itself; its process id."""
        return self.playing.pop(name).pid

    def done(self, name: str, seconds: float) -> dict[str, Any]:
        """Wait until a program has ended well; the JSON on the last line that it printed."""
        process = self.playing[name]
        self.wait(f"{name} to end", lambda: process.poll() is not None, seconds)
        del self.playing[name]
        if process.returncode != 0:
            end = " / ".join(self.log(name).read_text().splitlines()[-3:])
            raise StoryFailed(f"{name} ended with {process.returncode}: {end}")
        return self.last_words(name)

    def last_words(self, name: str) -> dict[str, Any]:
        """The JSON on the last line that a program printed."""
        result: dict[str, Any] = json.loads(self.log(name).read_text().splitlines()[-1])
        return result

    def person(self, what: str, *more: str) -> None:
        """Let somebody do something, beside the story."""
        self.play(what, "daemon.story.people", what, str(self.data), *more)

    # -- what can be seen

    def wait(self, what: str, condition: Callable[[], Any], seconds: float) -> Any:
        """The condition's value as soon as there is one; StoryFailed when it takes too long or the daemon is gone."""
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while not (value := condition()):
            daemon = self.playing.get("daemon")
            if daemon is not None and daemon.poll() is not None:
                raise StoryFailed(f"the daemon ended with {daemon.returncode}; see {self.log('daemon')}")
            if time.monotonic() > deadline:
                raise StoryFailed(f"waited {seconds:.0f} s for {what}; see {self.log('daemon')}")
            pause.wait(0.2)
        return value

    def _session(self, read: Callable[[Session], list[Row]]) -> list[Row]:
        if self._store is None:
            path = self.config.home / self.config.store.path
            if not path.exists():
                return []
            self._store = SqliteStore(path)
        with self._store.read() as session:
            return read(session)

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        return [run_of(row) for row in self._session(lambda session: session.rows("runs_newest", 100))][::-1]

    def run_for(self, version: str, rule: str = "") -> Run | None:
        """The newest run about a model version."""
        found = [run for run in self.runs() if run.given.get("version") == version and (not rule or run.rule == rule)]
        return found[-1] if found else None

    def newest(self, kind: str) -> Recorded | None:
        """The newest event of a type."""
        rows = self._session(lambda session: session.rows("events_newest", kind, "", 1))
        return event_of(rows[0]).recorded if rows else None

    def rows_measured(self) -> int:
        """Rows whose windows have been measured."""
        event = self.newest("drift.measured")
        return self.row_after(event.event.data["window"]) if event else 0

    def row_after(self, window: Mapping[str, Any]) -> int:
        """The row behind a window's last one: by its place in the log of files, by its time where it came by topics."""
        if self.broker is None:
            return int(window["last"]) + 1
        if not self._times:
            with (self.data / "synthetic_car_loan_analysis.csv").open(newline="") as file:
                self._times = [row["timestamp"] for row in csv.DictReader(file)]
        end = datetime.fromisoformat(window["end"]).astimezone(UTC).replace(tzinfo=None)
        return bisect_right(self._times, end.isoformat(" ", "milliseconds"))

    def rows_logged(self) -> int:
        """Records in the gateway's log."""
        files = (self.config.home / self.config.streams[MODEL].predictions).glob(f"*-{MODEL}.jsonl*")
        return sum(path.read_bytes().count(b"\n") for path in files)

    def figures(self) -> Mapping[str, Any]:
        """What the daemon says of the stream; nothing while it does not answer."""
        try:
            figures: Mapping[str, Any] = ask(self.config.home, {"op": "status"}, 10)["status"]["streams"][MODEL]
        except (DaemonError, KeyError):
            return {}
        return figures

    def calls(self, run: Run) -> list[Row]:
        """The calls of a run."""
        return self._session(lambda session: session.rows("calls_of_run", run.id))
