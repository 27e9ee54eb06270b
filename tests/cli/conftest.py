"""A daemon's home with a real store, a real writer and a real control socket; the test is the dispatcher."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from typer.testing import CliRunner, Result

from daemon.claims import Claimed
from daemon.cli import app
from daemon.config import Config, load_config
from daemon.control import Controls, ControlServer
from daemon.core.calls import Outcome
from daemon.core.events import Event
from daemon.intake import Batch, Receipt
from daemon.rulefiles import RuleFolder
from daemon.running import Running
from daemon.store.sqlite import SqliteStore
from daemon.verbs import load_verbs
from daemon.writer import Writer
from tests.builders import T0, at

ROOT = Path(__file__).parents[2]
PATIENCE = 10.0

CONFIG = f"""
home: home
templates: {ROOT}/handlers/templates
models:
  churn: {{task: binary, registered: churn, stream: churn}}
streams:
  churn:
    predictions: churn/predictions
    labels: churn/labels
    fields: {{id: id, time: time, version: version, error: error, latency_ms: ms, prediction: guess, score: score, label: left, features: {{age: number, plan: category}}}}
schedules:
  nightly: {{cron: "0 3 * * *"}}
channels:
  oncall: {{kind: log}}
"""

RULES = """
model: churn
owner: churn-ml
monitors:
  - name: inputs
    window: {rows: 100}
rules:
  - name: retrain-on-drift
    on: drift.measured
    when:
      - event.drifted_columns >= 1
      - event.estimated_loss_ratio >= 1.2
    for: 2 of 3 windows
    cooldown: 6h
    limit: 2 per 24h
    do:
      - command: {template: count-rows}
      - notify: {to: oncall, text: "hello"}
        approve: true
  - name: careful
    on: schedule.due
    subject: nightly
    mode: approve
    do:
      - notify: {to: oncall}
  - name: canary-registered
    on: model.registered
    do:
      - canary: {steps: [5, 50], each: 10m}
      - promote: {alias: champion}
    on_failure:
      - notify: {to: oncall}
"""


@dataclass
class Household:
    """A daemon's home, as the command line finds it."""

    folder: Path
    config: Config
    store: SqliteStore
    writer: Writer
    server: ControlServer
    moment: list[datetime]
    calls: queue.Queue[Claimed]
    stopped: threading.Event
    reloads: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """Where everything lies."""
        return self.config.home

    def driftd(self, *arguments: str) -> Result:
        """Run a command in this process."""
        return CliRunner().invoke(app, ["--config", str(self.folder / "config.yaml"), *arguments])

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        """What a command prints with `--json`."""
        result = self.driftd(*arguments, "--json")
        assert result.exit_code == exit_code, result.output
        return orjson.loads(result.stdout)

    def submit(self, *events: Event, **batch: Any) -> Receipt:
        """Hand events in and wait for the receipt."""
        return self.writer.submit(Batch(events=events, **batch), PATIENCE)

    def answer(self, verb: str, outcome: Outcome) -> Claimed:
        """Take the next call, which must be this verb's, and answer it."""
        claimed = self.calls.get(timeout=PATIENCE)
        assert claimed.call.verb == verb
        assert self.writer.settle(claimed, outcome)
        return claimed

    def later(self, seconds: float) -> None:
        """Let time pass."""
        self.moment[0] += timedelta(seconds=seconds)

    def run_id(self) -> str:
        """The id of the newest run."""
        return str(self.json("runs", "list")[0]["id"])

    def stop_daemon(self) -> None:
        """The daemon ends in good order; its home stays."""
        self.server.stop()
        self.writer.stop()
        self.store.close()


@pytest.fixture
def household(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Household]:
    """A home whose daemon runs, with rules in force."""
    monkeypatch.delenv("DRIFTD_HOME", raising=False)
    monkeypatch.delenv("DRIFTD_CONFIG", raising=False)
    # The daemon of the tests lives in the process of the command: its log must not be taken for what the command prints.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    (tmp_path / "rules").mkdir()
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "rules" / "churn.yaml").write_text(RULES)
    config = load_config(tmp_path / "config.yaml")
    verbs = {name: loaded.verb for name, loaded in load_verbs().items()}
    moment = [T0]
    store = SqliteStore(config.store.path)
    heads = config.home / "audit" / "heads.jsonl"
    writer = Writer(store, Running(config, verbs), lambda: moment[0], heads)
    writer.start()
    loaded = RuleFolder(config, verbs).load()
    writer.load(loaded.rules, loaded.files)
    calls: queue.Queue[Claimed] = queue.Queue()
    writer.serve(4, lambda claimed: [calls.put(one) for one in claimed] and None)
    stopped = threading.Event()
    reloads: list[str] = []

    def reload() -> dict[str, Any]:
        reloads.append("once")
        again = RuleFolder(config, verbs).load()
        return {"revision": again.rules.revision, "rules": len(again.rules.rules)}

    controls = Controls(writer, lambda: {"ready": True, "epoch": writer.epoch}, reload, stopped.set, lambda: moment[0])
    server = ControlServer(config.home, controls)
    server.start()
    made = Household(tmp_path, config, store, writer, server, moment, calls, stopped, reloads)
    yield made
    made.stop_daemon()
    structlog.reset_defaults()


def drift(last: int, drifted: int = 1, ratio: float | None = 1.5) -> Event:
    """`drift.measured` about the model of the tests, for the window of 100 rows that ends with row `last`."""
    data: dict[str, Any] = {
        "model": "churn", "monitor": "inputs", "stream": "churn", "segment": "", "drifted_columns": drifted,
        "window": {
            "start": at(last - 99).isoformat(), "end": at(last).isoformat(), "rows": 100, "first": last - 99,
            "last": last, "closed_by": "rows",
        },
        "columns": {"age": {"effect": 0.3, "drifted": bool(drifted)}},
    }  # fmt: skip
    if ratio is not None:
        data["estimated_loss_ratio"] = ratio
    return Event(f"inputs-{last}", "monitor:inputs", "drift.measured", "churn", at(last), data)


def nightly(number: int = 0) -> Event:
    """`schedule.due` of the nightly schedule."""
    data = {"schedule": "nightly", "due": at(number).isoformat(), "missed": 0}
    return Event(f"nightly-{number}", "schedule:nightly", "schedule.due", "nightly", at(number), data)


def registered(version: str) -> Event:
    """`model.registered` by somebody else."""
    data = {
        "model": "churn", "registry": "churn", "version": version, "created": "1767600000000", "registered_by": "",
        "digest": "d" * 64,
    }  # fmt: skip
    return Event(f"churn-{version}", "registry:mlflow", "model.registered", "churn", at(0), data)
