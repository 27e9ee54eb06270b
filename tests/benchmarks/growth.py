"""What a daemon gains in size while fifty models stream.

A real daemon process with its worker; files of predictions and, a little later, of their labels land in every stream, and
are removed after a minute as a log rotation would. What is known of them afterwards must not cost memory for ever.

    python -m tests.benchmarks memory.slope                          ten minutes after three of warming up
    python -m tests.benchmarks.growth MINUTES [WARM_UP [PERIOD]]     shorter ones, while developing
"""

from __future__ import annotations

import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet

from daemon.config import load_config
from daemon.intake import ALL
from daemon.platforms.local_serving import LocalServing
from daemon.store.readonly import SqliteReader

Figure = dict[str, Any]
MODELS = 50
MINUTES, WARM_UP_MINUTES = 10.0, 3.0
PERIOD_S = 2.0
"""Each model has a file of predictions, and one of labels, so often."""
ROWS = 20
"""Per file."""
UNITS = 2000
"""Customers of each model."""
LABELS_S = 20.0
"""How long labels come after their predictions."""
KEPT_S = 60.0
"""How long a file lies there before it is removed."""
SAMPLE_S = 5.0
READY_S = 120.0


def slope(minutes: float = MINUTES, warm_up: float = WARM_UP_MINUTES, period: float = PERIOD_S) -> Figure:
    """MB that daemon and worker gain per minute: least squares over resident sizes, after the warm-up.

    The reference is their size when the measuring began. `taken` of the files that landed says whether they kept up.
    """
    with tempfile.TemporaryDirectory() as folder, _daemon(Path(folder)) as sizes:
        feeder = _Feeder(Path(folder) / "home", period)
        feeder.start()
        time.sleep(60 * warm_up)
        samples = list(_samples(sizes, minutes))
        feeder.stop()
        landed, taken = feeder.landed, _taken(Path(folder))
    at = [seconds / 60 for seconds, _ in samples]
    parts = {name: [size[name] for _, size in samples] for name in samples[0][1]}
    both = [sum(size.values()) for _, size in samples]
    return {
        "name": "memory.slope_50_models_mb_per_min", "value": _slope(at, both), "unit": "MB/min",
        "minutes": minutes, "warm_up_minutes": warm_up, "models": MODELS,
        "files_per_s": round(2 * MODELS / period, 1), "rows_per_s": round(MODELS * ROWS / period, 1),
        **{f"{name}_mb_per_min": _slope(at, values) for name, values in parts.items()},
        "landed": landed, "taken": taken,
        "reference": {"name": "daemon and worker when the measuring began, MB", "value": round(both[0], 1)},
    }  # fmt: skip


def _slope(at: list[float], values: list[float]) -> float:
    return round(statistics.linear_regression(at, values).slope, 3)


def _samples(sizes: dict[str, int], minutes: float) -> Iterator[tuple[float, dict[str, float]]]:
    """Seconds since the beginning, and the size in MB of each process."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) <= 60 * minutes:
        yield passed, {name: _rss_mb(pid) for name, pid in sizes.items()}
        time.sleep(SAMPLE_S)


def _rss_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@contextmanager
def _daemon(home: Path) -> Iterator[dict[str, int]]:
    """A daemon with fifty streams; the process ids of it and its worker."""
    config = _configured(home)
    daemon = subprocess.Popen(
        [sys.executable, "-m", "daemon", "--config", str(config), "start"], stderr=(home / "daemon.log").open("wb")
    )
    try:
        yield {"daemon": daemon.pid, "worker": _worker(daemon.pid)}
        if daemon.poll() is not None:
            raise SystemExit(f"the daemon ended: {(home / 'daemon.log').read_text()[-2000:]}")
    finally:
        daemon.terminate()
        daemon.wait(60)
        LocalServing(load_config(config, {})).stop()


def _worker(daemon: int) -> int:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        for pid in Path(f"/proc/{daemon}/task/{daemon}/children").read_text().split() + _children(daemon):
            if b"daemon.monitors" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
        time.sleep(0.2)
    raise SystemExit("the daemon has started no worker")


def _children(daemon: int) -> list[str]:
    """Of all its threads: the supervisor's has started the worker."""
    tasks = Path(f"/proc/{daemon}/task").iterdir()
    return [pid for task in tasks for pid in (task / "children").read_text().split()]


def _configured(home: Path) -> Path:
    """Fifty models with a reference and a rule each, all on streams of their own."""
    (home / "rules").mkdir()
    names = [f"m{number:02}" for number in range(MODELS)]
    for name in names:
        (home / "rules" / f"{name}.yaml").write_text(_RULES.format(name=name))
        for part in ("predictions", "labels"):
            (home / "home" / name / part).mkdir(parents=True)
    chance = random.Random(0)
    rows = [{**_row(chance), "label": int(chance.random() < 0.3)} for _ in range(2000)]
    pa.parquet.write_table(pa.Table.from_pylist(rows), home / "reference.parquet")
    fields = {
        "id": "id", "time": "time", "unit": "unit", "version": "version", "prediction": "prediction", "score": "score",
        "label": "label", "error": "error", "latency_ms": "latency",
        "features": {"amount": "number", "age": "number", "region": "category"},
    }  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "home": "home", "rules": "rules", "templates": str(Path("handlers/templates").absolute()),
        "streams": {
            name: {"predictions": f"{name}/predictions", "labels": f"{name}/labels", "fields": fields, "horizon": "1h"}
            for name in names
        },
        "models": {
            name: {"task": "binary", "registered": name, "stream": name, "reference": "reference.parquet"}
            for name in names
        },
        "channels": {"oncall": {"kind": "log"}},
        "platform": {"gateway": {"port": port}},
    }  # fmt: skip
    (home / "config.yaml").write_bytes(orjson.dumps(config))
    return home / "config.yaml"


_RULES = """
model: {name}
monitors:
  - name: {name}-inputs
    window: {{rows: 100}}
    segments: [region]
rules:
  - name: {name}-drift
    on: drift.measured
    when: event.drifted_columns >= 2
    for: 3 windows
    cooldown: 1h
    do:
      - notify: {{to: oncall}}
"""


def _row(chance: random.Random) -> dict[str, Any]:
    score = chance.betavariate(2, 5)
    return {
        "amount": chance.lognormvariate(3, 1), "age": chance.gauss(40, 12), "region": chance.choice("nesw"),
        "prediction": int(score > 0.5), "score": score,
    }  # fmt: skip


@dataclass
class _Feeder:
    """Lets files land, evenly over all streams, and removes old ones, in a thread of its own."""

    home: Path
    period: float
    landed: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _labels: deque[tuple[float, Path, bytes]] = field(default_factory=deque)
    _old: deque[tuple[float, Path]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._chance = random.Random(1)
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """No more files; those that have landed stay for a moment, to be taken."""
        self._over.set()
        self._thread.join()
        time.sleep(2 * SAMPLE_S)

    def _run(self) -> None:
        step = self.period / MODELS
        due = time.monotonic()
        number = 0
        while not self._over.wait(max(due - time.monotonic(), 0)):
            due += step
            folder = self.home / f"m{number % MODELS:02}"
            self._predictions(folder, number)
            now = time.monotonic()
            while self._labels and self._labels[0][0] <= now:
                _, path, content = self._labels.popleft()
                self._land(path, content)
            while self._old and self._old[0][0] <= now:
                self._old.popleft()[1].unlink()
            number += 1

    def _predictions(self, folder: Path, number: int) -> None:
        now, chance = time.time(), self._chance
        rows = [
            {
                "id": f"{number}-{row}", "time": now + row / 1000, "unit": f"u{chance.randrange(UNITS)}", "version": "1",
                "error": None, "latency": 5 + 10 * chance.random(), **_row(chance),
            }
            for row in range(ROWS)
        ]  # fmt: skip
        labels = [{"id": row["id"], "label": int(chance.random() < row["score"])} for row in rows]
        self._land(folder / "predictions" / f"p{number:08}.jsonl", _lines(rows))
        self._labels.append((time.monotonic() + LABELS_S, folder / "labels" / f"l{number:08}.jsonl", _lines(labels)))

    def _land(self, path: Path, content: bytes) -> None:
        part = path.with_name(f".{path.name}")
        part.write_bytes(content)
        part.rename(path)
        self.landed += 1
        self._old.append((time.monotonic() + KEPT_S, path))


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def _taken(home: Path) -> int:
    """How many files the store knows, those that are gone too."""
    store = SqliteReader(home / "home" / "store.db")
    count = 0
    with store.read() as session:
        for number in range(MODELS):
            owner = f"stream:m{number:02}"
            count += len(session.rows("files", owner, "", ALL)) + len(session.rows("gone", owner, 0, b"", ALL))
    store.close()
    return count


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(slope(*map(float, sys.argv[1:]))) + b"\n")
