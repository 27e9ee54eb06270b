"""A driftd of its own for one test: a configuration and rules in a temporary folder, the daemon as a program, and what
can be seen of it from outside. Nothing here knows a data set or a story.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from daemon import reading
from daemon.config import Config, load_config
from daemon.core.errors import DaemonError
from daemon.core.runs import Run
from daemon.platforms.local import LocalServing
from daemon.store.base import Session
from daemon.store.rows import StoredDecision, StoredEvent
from daemon.storing import open_reader

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "handlers" / "templates"
"""The shipped programs."""


Found = TypeVar("Found")


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(slots=True)
class Home:
    """One configuration, and the programs that run on it."""

    folder: Path
    playing: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    name: str = "state"

    @property
    def state(self) -> Path:
        """What config.yaml calls `home`."""
        return self.folder / self.name

    @property
    def environment(self) -> dict[str, str]:
        """What makes a program use this configuration."""
        mine = {"DRIFTD_CONFIG": str(self.folder / "config.yaml"), "DRIFTD_HOME": str(self.state)}
        return {**os.environ, **mine, "PYTHONWARNINGS": "default"}

    @property
    def config(self) -> Config:
        """The configuration as the daemon reads it."""
        return load_config(self.folder / "config.yaml", self.environment, with_secrets=False)

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml: what the test says, and what keeps tests apart."""
        gateway = {"host": "127.0.0.1", "port": free_port(), "segment": "1s"}
        whole = {
            "home": "state", "rules": "rules", "templates": str(TEMPLATES),
            "registry": {"uri": "sqlite:///{home}/mlflow.db", "artifacts": "{home}/artifacts", "poll": "1s"},
            "platform": {"kind": "local", "gateway": gateway},
            "web": {"port": 0},
            **config,
        }  # fmt: skip
        self.state.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True))

    def rules(self, text: str, name: str = "rules.yaml") -> None:
        """Write a rule file, as an editor would: renamed in."""
        folder = self.folder / "rules"
        folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{name}.part"
        part.write_text(text)
        part.replace(folder / name)

    # -- programs

    def play(self, name: str, *arguments: str) -> None:
        """Start `python -m ARGUMENTS`, its words into NAME.log."""
        with self.log(name).open("ab") as out:
            self.playing[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=ROOT, env=self.environment, stdout=out,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def done(self, name: str, seconds: float = 120) -> dict[str, Any]:
        """Wait until a program has ended well; the JSON on its last line."""
        assert self.playing.pop(name).wait(seconds) == 0, self._end_of(name)
        result: dict[str, Any] = json.loads(self.log(name).read_text().splitlines()[-1])
        return result

    def end(self, name: str, seconds: float = 30) -> int:
        """Ask a program to stop, and wait; its exit code."""
        process = self.playing.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def driftd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of driftd to its end."""
        return subprocess.run(
            [sys.executable, "-m", "daemon", *arguments], cwd=ROOT, env=self.environment, text=True,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip

    def feed(self, name: str, stream: str, table: Path, *options: str) -> None:
        """Start `driftd feed`."""
        self.play(name, "daemon", "feed", stream, "--data", str(table), *options, "--json")

    def pid(self, name: str) -> int:
        """The process of a program that was started here."""
        return self.playing[name].pid

    def json(self, *arguments: str) -> Any:
        """What a command of driftd prints as JSON; it must end well."""
        done = self.driftd(*arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def log(self, name: str) -> Path:
        """What a program has said."""
        return self.folder / f"{name}.log"

    def said(self, event: str, name: str = "daemon") -> list[dict[str, Any]]:
        """The log lines of this event that a program has written, oldest first."""
        lines = (line for line in self.log(name).read_bytes().splitlines() if line.startswith(b"{"))
        return [told for told in map(json.loads, lines) if told.get("event") == event]

    def _end_of(self, name: str, lines: int = 15) -> str:
        return f"{name}:\n" + "\n".join(self.log(name).read_text().splitlines()[-lines:])

    # -- what can be seen

    def wait(self, what: str, condition: Callable[[], Any], seconds: float = 60) -> Any:
        """The condition's value as soon as there is one."""
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while not (value := condition()):
            daemon = self.playing.get("daemon")
            assert daemon is None or daemon.poll() is None, self._end_of("daemon")
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:.0f} s for {what}\n{self.story()}\n{self._end_of('daemon')}")
            pause.wait(0.2)
        return value

    def read(self, read: Callable[[Session], Found]) -> Found:
        """Ask the store, beside the running daemon."""
        reader = open_reader(self.config)
        try:
            with reader.read() as session:
                return read(session)
        finally:
            reader.close()

    def events(self, kind: str, limit: int = 1000) -> list[StoredEvent]:
        """The newest events of a type, newest first; none while there is no store."""
        try:
            return self.read(lambda session: reading.events(session, kind, limit=limit))
        except DaemonError:
            return []

    def measured(self, kind: str) -> int:
        """Rows whose windows have been told in events of a type."""
        return max((int(event.recorded.event.data["window"]["last"]) + 1 for event in self.events(kind)), default=0)

    def decisions(self, rule: str = "", verdict: str = "") -> list[StoredDecision]:
        """The newest decisions, newest first."""
        return self.read(lambda session: reading.decisions(session, rule, verdict, 1000))

    def fired(self, rule: str = "") -> list[StoredDecision]:
        """The firings."""
        return self.decisions(rule, "fired")

    def runs(self) -> list[Run]:
        """All runs, oldest first."""
        return self.read(reading.runs)[::-1]

    def run_of(self, rule: str) -> Run | None:
        """The newest run of a rule."""
        return next((run for run in reversed(self.runs()) if run.rule == rule), None)

    def ended(self, rule: str, seconds: float = 60) -> Run:
        """The newest run of a rule, once it has ended."""
        run: Run = self.wait(
            f"the run of {rule} to end", lambda: (run := self.run_of(rule)) and run.ended and run, seconds
        )
        return run

    def story(self) -> str:
        """The runs and problems so far, for a failure's message."""
        try:
            runs = [f"run of {run.rule}: {run.state.value}, {run.why}" for run in self.runs()]
            met = [f"{one.kind} {one.where}: {one.reason}" for one in self.read(reading.problems)]
        except DaemonError as error:
            return str(error)
        return "\n".join([*runs, *met])

    # -- from begin to end

    def start(self) -> None:
        """Start the daemon; when it returns, the rules are in force."""
        began = len(self.events("rules.loaded"))
        self.play("daemon", "daemon", "--config", str(self.folder / "config.yaml"), "start")
        self.wait("the rules to be loaded", lambda: len(self.events("rules.loaded")) > began)

    def close(self) -> None:
        """End every program, and the gateway, which outlives the daemon by design."""
        for name in list(self.playing):
            self.end(name)
        if (self.folder / "config.yaml").exists():
            LocalServing(self.config).stop()


@contextmanager
def home(folder: Path, name: str = "state") -> Iterator[Home]:
    """A home whose programs are ended whatever happens; logs stay in its folder, which pytest keeps for the last runs."""
    made = Home(folder, name=name)
    try:
        yield made
    finally:
        made.close()
