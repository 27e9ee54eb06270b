"""The daemon as a process: how soon a handler starts beside a full stream, and what the processes weigh.

`python -m tests.benchmarks process…` through the runner. Memory is resident size as the kernel says; the reference of the
daemon's is an interpreter that has imported what no daemon can do without.
"""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import structlog

from daemon.app import settle_garbage
from daemon.config import Config, load_config
from daemon.core.calls import Call, Done, Outcome
from daemon.core.events import Event
from daemon.core.rules import Rule, RuleSet
from daemon.dispatcher import Dispatcher
from daemon.handling import Inputs, Verb
from daemon.intake import Batch
from daemon.platforms.local_serving import LocalServing
from daemon.running import Running
from daemon.store.sqlite import SqliteStore
from daemon.verbs import Loaded
from daemon.writer import Writer
from tests.benchmarks.growth import slope
from tests.builders import rule, step

Figure = dict[str, Any]
FIRINGS = 300
ROWS_PER_BATCH = 64


def figures(prefix: str = "") -> Iterator[Figure]:
    """The figures whose names start with `prefix`."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if _wanted("handler.start_p99_ms", prefix):
        yield handler_start()
    if _wanted("memory.daemon_mb", prefix) or _wanted("memory.worker_mb", prefix):
        yield from memory()
    if _wanted("memory.slope_50_models_mb_per_min", prefix):
        yield slope()


def _wanted(name: str, prefix: str) -> bool:
    return name.startswith(prefix)


class _Nothing(Inputs):
    """No inputs."""


def handler_start() -> Figure:
    """Event to handler start, p99, while two threads hand in other events as fast as they are taken.

    The reference is the median of a bare durable insert in the same file system: what one event costs at the least.
    """
    started: dict[str, float] = {}

    def run(call: Call, _context: object) -> Outcome:
        started[call.trigger.id] = time.perf_counter()
        return Done()

    verb = Verb("mark", "notes the time", _Nothing)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        store = SqliteStore(home / "store.db")
        writer = Writer(store, Running(Config(home=home), {"mark": verb}), lambda: datetime.now(UTC), home / "heads")
        dispatcher = Dispatcher(writer, {"mark": Loaded(verb, run, None)}, lambda _call: None)  # type: ignore[arg-type, return-value]
        writer.start()
        writer.load(RuleSet((_marking(),)), {})
        dispatcher.start()
        settle_garbage()
        over = threading.Event()
        streams = [threading.Thread(target=_stream, args=(writer, over, name)) for name in ("a", "b")]
        for stream in streams:
            stream.start()
        handed: dict[str, float] = {}
        for number in range(FIRINGS):
            event = _event("mark", f"m{number}")
            handed[event.id] = time.perf_counter()
            writer.submit(Batch(events=(event,)))
            time.sleep(0.01)
        deadline = time.monotonic() + 30
        while len(started) < FIRINGS and time.monotonic() < deadline:
            time.sleep(0.05)
        over.set()
        for stream in streams:
            stream.join()
        dispatcher.stop()
        writer.stop()
        store.close()
    waits = sorted(1000 * (started[name] - handed[name]) for name in started)
    return {
        "name": "handler.start_p99_ms", "value": round(waits[int(len(waits) * 0.99)], 2), "unit": "ms",
        "firings": len(waits), "median": round(waits[len(waits) // 2], 2),
        "reference": {"name": "one durable insert, median ms", "value": _insert_ms()},
    }  # fmt: skip


def _marking() -> Rule:
    return rule("mark", on="data.landed", when=(), subject="mark", model="", steps=(step("mark"),))


def _event(subject: str, name: str) -> Event:
    now = datetime.now(UTC)
    data = {"source": subject, "path": f"/{name}", "folder": "", "name": name, "bytes": 1, "digest": name}
    return Event(name, f"storage:{subject}", "data.landed", subject, now, data)


def _stream(writer: Writer, over: threading.Event, name: str) -> None:
    number = 0
    while not over.is_set():
        events = tuple(_event("stream", f"{name}{number + offset}") for offset in range(ROWS_PER_BATCH))
        writer.submit(Batch(events=events))
        number += ROWS_PER_BATCH


def _insert_ms() -> float:
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE t (x TEXT)")
        times = []
        for _ in range(200):
            began = time.perf_counter()
            connection.execute("INSERT INTO t VALUES ('x')")
            times.append(time.perf_counter() - began)
        connection.close()
    return round(1000 * sorted(times)[100], 3)


_RULES = """
model: m
monitors:
  - name: m-inputs
    window: {rows: 500}
rules:
  - name: m-drift
    on: drift.measured
    when: event.drifted_columns >= 1
    for: 2 windows
    do:
      - notify: {to: oncall}
"""


def memory() -> Iterator[Figure]:
    """Resident size of an idle daemon and of its monitors' worker, ten seconds after the start."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "rules").mkdir()
        (home / "rules" / "m.yaml").write_text(_RULES)
        config = {
            "home": "home", "rules": "rules", "templates": str(Path("handlers/templates").absolute()),
            "streams": {"m": {"predictions": "p", "fields": {"id": "id", "features": {"x": "number"}}}},
            "models": {"m": {"task": "binary", "registered": "m", "stream": "m"}},
            "channels": {"oncall": {"kind": "log"}},
            "platform": {"gateway": {"port": 18_931}},
        }  # fmt: skip
        (home / "config.yaml").write_bytes(orjson.dumps(config))
        daemon = subprocess.Popen(
            [sys.executable, "-m", "daemon", "--config", str(home / "config.yaml"), "start"],
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(10)
            children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
            worker = next((pid for pid in children if b"daemon.monitors" in _command(pid)), None)
            bare = _bare_mb()
            yield _size("memory.daemon_mb", daemon.pid, bare)
            if worker is not None:
                yield _size("memory.worker_mb", int(worker), bare)
        finally:
            daemon.terminate()
            daemon.wait(30)
            LocalServing(load_config(home / "config.yaml", {})).stop()


def _size(name: str, pid: int, bare: float) -> Figure:
    return {
        "name": name, "value": _rss_mb(pid), "unit": "MB",
        "reference": {"name": "an interpreter with pydantic, orjson, CEL and structlog, MB", "value": bare},
    }  # fmt: skip


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024, 1)


def _bare_mb() -> float:
    code = (
        "import pydantic, orjson, structlog; from cel_expr_python import cel\n"
        "print(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return round(int(done.stdout) / 1024, 1)
