"""The scene of a trial: a folder with a configuration, rules, templates and data in which a daemon lives and dies.

Two models: `loan` has a file stream that is measured over public car-loan rows, so that what was measured can be held
against an undisturbed run; `served` stands behind the gateway, and every version of it that is registered goes through a
canary. Around them: a landing folder, a webhook, a schedule, operators' words, rules with every kind of memory, and jobs
that write down each of their starts.
"""

from __future__ import annotations

import csv
import itertools
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import yaml

from daemon.config import Config, load_config
from tests.crash.registry import RegistryFile
from tests.postgres import Database

DATA = Path(__file__).parents[2] / ".cache" / "data"
HOOK, SECRET = "outside", b"a secret of this trial"
LANDING, TICK = "landing", "tick"
TICK_SECONDS = 2
LEASE = "6s"
"""Of a store that two daemons share."""
LOAN, SERVED = "loan", "served"
FILES, ROWS = 8, 250
"""Prediction files of the measured stream, and rows in each."""
LABELS = 4
"""Label files, each for so many prediction files that all have labels."""
SLOTS = 4
"""Runs of `served` that queue, at most."""

_FEATURES = {
    "car_value": "number", "salary_range": "category", "debt_to_income_ratio": "number", "loan_length": "number",
    "repaid_loan_on_prev_car": "category", "size_of_downpayment": "category", "driver_tenure": "number",
}  # fmt: skip

RULES = """\
model: loan
monitors:
  - name: inputs
    window: {rows: 200}
    segments: [size_of_downpayment]
rules:
  - name: job-per-file
    on: data.landed
    subject: landing
    do:
      - command: {template: mark, look: 1s}
  - name: two-jobs
    on: webhook.received
    when: event.type == "work"
    do:
      - command: {template: mark, look: 1s}
      - command: {template: mark, with: {late: true}, look: 1s}
  - name: counted
    on: webhook.received
    count: 5 within 1h
    cooldown: COOLDOWN
    do:
      - command: {template: mark, look: 1s}
  - name: lasting
    on: webhook.received
    when: event.type != "low"
    for: 1s
    repeat: 5s
    mode: observe
  - name: limited
    on: webhook.received
    when: event.type == "high"
    limit: 3 per 1h
    do:
      - command: {template: mark, look: 1s}
  - name: silent
    absent: webhook.received
    for: 2s
    mode: observe
  - name: drifting
    on: drift.measured
    when: event.window.rows > 0
    for: 2 of 3 windows
    mode: observe                # a run would bring a report, which costs five seconds of two cores
  - name: ticking
    on: schedule.due
    subject: tick
    count: 3 within 1m
    mode: observe
"""
SERVED_RULES = """\
model: served
rules:
  - name: try
    on: model.registered
    when_busy: queue
    do:
      - canary:
          steps: [20, 50]
          each: 1s
          look: 500ms
          guards: [error_rate: {tolerance: 0.3}]
          min_requests: 60
          baseline: 20
          soak: 4s
          deadline: 3m
      - promote: {}
    on_failure:
      - command: {template: mark, look: 1s}
"""
MARK = '''\
"""Writes down that it was started, takes its time, and answers; the first try of a late one says that it cannot yet."""

import errno
import json
import os
import sys
import time


def append(path, data):
    """A full disk is waited for: what is told of a start must be told, and the test is not about this program."""
    while data:
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                data = data[os.write(file, data):]
            finally:
                os.close(file)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            time.sleep(0.2)


folder = os.path.dirname(os.environ["DRIFTD_CALL"])
with open(os.environ["DRIFTD_CALL"]) as file:
    call = json.load(file)
job = os.path.basename(folder)
append(os.path.join(call["home"], "started"), f"{job} {call['call']}\\n".encode())
time.sleep(0.3)
append(os.environ["DRIFTD_OUTPUTS"], json.dumps({"job": job, "why": "not yet"}).encode())
sys.exit(75 if call["parameters"].get("late") and job.endswith("-0") else 0)
'''
MARK_TEMPLATE = """\
doc: Writes down each of its starts.
verb: command
argv: ["{python}", "-I", "-S", "{templates}/mark.py"]
parameters:
  late: {type: bool, required: false, default: false, doc: The first try says that it cannot work yet.}
memory_mb: 200
seconds: 60
"""


@dataclass(frozen=True, slots=True)
class Scene:
    """One laid-out folder."""

    folder: Path
    hook_port: int
    gateway_port: int
    database: Database | None = None
    """Where the store is; None: a file at home."""

    @property
    def home(self) -> Path:
        """The daemon's home."""
        return self.folder / "home"

    @property
    def config_path(self) -> Path:
        """Its config.yaml."""
        return self.folder / "config.yaml"

    @property
    def config(self) -> Config:
        """The same, read."""
        return load_config(self.config_path, {})

    @property
    def registry(self) -> RegistryFile:
        """The registry's file."""
        return RegistryFile(self.folder / "registry.json")

    @property
    def landing(self) -> Path:
        """The watched folder."""
        return self.home / LANDING

    def write_rules(self, cooldown: str) -> None:
        """Put the rule files there as a whole; another cooldown is another revision."""
        replace_file(self.folder / "rules" / "crash.yaml", RULES.replace("COOLDOWN", cooldown).encode())
        replace_file(self.folder / "rules" / "served.yaml", SERVED_RULES.encode())


def lay_out(folder: Path, database: Database | None = None) -> Scene:
    """A scene in an empty folder."""
    scene = Scene(folder, *free_ports(2), database)
    for name in ("rules", "templates", "home"):
        (folder / name).mkdir(parents=True)
    (folder / "templates" / "mark.py").write_text(MARK)
    (folder / "templates" / "mark.yaml").write_text(MARK_TEMPLATE)
    (folder / "secret").write_bytes(SECRET)
    scene.config_path.write_text(yaml.safe_dump(_config(scene)))
    scene.write_rules("2s")
    write_rows(folder / "reference.csv", rows_of("synthetic_car_loan_reference.csv", 2000))
    scene.registry.register(LOAN, "1", "nowhere")
    return scene


def _config(scene: Scene) -> dict[str, Any]:
    fields = {"id": "id", "time": "timestamp", "prediction": "y_pred", "score": "y_pred_proba", "label": "repaid"}
    served = {
        "id": "id", "time": "at", "version": "version", "prediction": "y", "score": "p", "error": "error",
        "latency_ms": "latency_ms", "features": {"a": "number"},
    }  # fmt: skip
    listing = {"poll": "500ms", "complete": "renamed", "stable_for": "0s"}
    store = {} if scene.database is None else {"store": scene.database.config(scene.folder, LEASE)}
    return {
        **store,
        "home": "home",
        "rules": "rules",
        "templates": "templates",
        "registry": {"uri": str(scene.folder / "registry.json"), "poll": "500ms", "timeout": "10s" if scene.database is None else "4s"},
        "platform": {"gateway": {"port": scene.gateway_port, "segment": "200ms"}},
        "sources": {LANDING: {"path": LANDING, **listing}},
        "schedules": {TICK: {"every": f"{TICK_SECONDS}s", "misfire": "all"}},
        "webhook": {"port": scene.hook_port, "hooks": {HOOK: {"secret": {"file": "secret"}}}},
        "web": {"port": 0},
        "streams": {
            LOAN: {
                "predictions": "streams/loan/predictions", "labels": "streams/loan/labels", "horizon": "60d",
                "fields": {**fields, "features": _FEATURES}, **listing,
            },
            SERVED: {"predictions": "streams/served", "fields": served, **listing},
        },
        "models": {
            LOAN: {"task": "binary", "registered": LOAN, "stream": LOAN, "reference": "reference.csv"},
            SERVED: {"task": "binary", "registered": SERVED, "stream": SERVED, "reference": "no-reference.csv"},
        },
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Landing:
    """A file of the measured stream, and when it lands: the order of the stream."""

    is_labels: bool
    name: str
    rows: tuple[Mapping[str, str], ...]
    mtime_ns: int

    def land(self, scene: Scene) -> Path:
        """Move it in."""
        folder = scene.home / "streams" / LOAN / ("labels" if self.is_labels else "predictions")
        folder.mkdir(parents=True, exist_ok=True)
        draft, path = folder / f".{self.name}", folder / self.name
        write_rows(draft, self.rows)
        os.utime(draft, ns=(self.mtime_ns, self.mtime_ns))
        draft.rename(path)
        return path


@cache
def landings() -> tuple[Landing, ...]:
    """The files of the measured stream in their order: each label file after the predictions that it is about."""
    predictions = rows_of("synthetic_car_loan_analysis.csv", FILES * ROWS)
    labels = rows_of("synthetic_car_loan_analysis_target.csv", FILES * ROWS)
    made: list[Landing] = []
    each = FILES // LABELS
    for number in range(FILES):
        part = slice(number * ROWS, (number + 1) * ROWS)
        made.append(Landing(False, f"p{number:02}.csv", predictions[part], 10**18 + len(made) * 10**9))
        if number % each == each - 1:
            part = slice((number + 1 - each) * ROWS, (number + 1) * ROWS)
            made.append(Landing(True, f"l{number:02}.csv", labels[part], 10**18 + len(made) * 10**9))
    return tuple(made)


@cache
def rows_of(name: str, count: int) -> tuple[dict[str, str], ...]:
    """The first rows of a public data set."""
    with (DATA / name).open(newline="") as file:
        return tuple(itertools.islice(csv.DictReader(file), count))


def write_rows(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Rows as a CSV file."""
    rows = list(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that nobody sees a part of it."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    draft.replace(path)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return orjson.loads(path.read_bytes())
