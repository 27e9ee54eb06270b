"""The gateway: what it adds to a request, how fast a version is up, and what one costs in memory.

`python -m tests.benchmarks.gateway [NAME]` prints one JSON line per figure whose name starts so.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson

from daemon.config import Config, PlatformConfig
from daemon.gateway.wire import Wire
from daemon.platformparts import GatewayConfig
from daemon.platforms.local_serving import LocalServing
from daemon.platforms.shim import read_json

CLIENTS = 8
REQUESTS = 400
ROUNDS = 3

_MODEL = """
import sys
import mlflow, numpy as np, pandas as pd
from sklearn.linear_model import LogisticRegression

inputs = pd.DataFrame(np.random.default_rng(0).normal(size=(200, 8)), columns=list("abcdefgh"))
model = LogisticRegression().fit(inputs, inputs.a > 0)
signature = mlflow.models.infer_signature(inputs, np.array([True]))
mlflow.sklearn.save_model(model, sys.argv[1], signature=signature, pip_requirements=[])
"""
_ALONE = "import mlflow.pyfunc.scoring_server as s, sys; s.init(s.load_model(sys.argv[1]))"
BODY = orjson.dumps({"dataframe_split": {"columns": list("abcdefgh"), "data": [[0.1] * 8]}})

Figure = dict[str, Any]


class _Tcp(Wire):
    """The same client over TCP: what is compared is what is asked, not who asks."""

    def __init__(self, port: int) -> None:
        super().__init__("")
        self._port = port

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)


def figures(prefix: str = "") -> Iterator[Figure]:
    """The figures whose names start with `prefix`."""
    names = ("gateway.requests_per_s", "gateway.cpu_ms_per_request", "gateway.version_ready_s", "gateway.version_mb")
    if not any(name.startswith(prefix) for name in names):
        return
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        model = f"{folder}/model"
        subprocess.run([sys.executable, "-W", "ignore", "-c", _MODEL, model], check=True, timeout=300)
        gateway = GatewayConfig(port=port, segment=timedelta(seconds=1))
        serving = LocalServing(Config(home=Path(folder) / "home", platform=PlatformConfig(gateway=gateway)))
        serving.ensure()
        try:
            yield from (figure for figure in _measured(serving, model, port) if figure["name"].startswith(prefix))
        finally:
            serving.stop()


def _measured(serving: LocalServing, model: str, port: int) -> Iterator[Figure]:
    folder = serving._config.home / "gateway"
    serving.deploy("t", "1", model)
    _until(lambda: serving.traffic("t").ready["1"])
    began = time.monotonic()
    serving.deploy("t", "2", model)
    _until(lambda: serving.traffic("t").ready["2"])
    ready = time.monotonic() - began
    serving.shift("t", {"1": 95, "2": 5}, 0, "bench")
    began = time.monotonic()
    subprocess.run([sys.executable, "-W", "ignore", "-c", _ALONE, model], check=True, timeout=300, capture_output=True)
    alone = time.monotonic() - began
    yield _figure("gateway.version_ready_s", ready, "s", "a process of its own: import MLflow, load the model", alone)

    sockets = Path((folder / "sockets").read_text())
    pid = int(read_json(folder / "gateway.json")["pid"])
    backend = _children(_children(pid)[0])[0]
    rates: dict[str, list[float]] = {"direct": [], "gateway": []}
    direct_cpu = gateway_cpu = 0.0
    for _ in range(ROUNDS):
        used = _cpu(backend)
        rates["direct"].append(asyncio.run(_rate(lambda: Wire(str(sockets / "1")), "/invocations")))
        direct_cpu += _cpu(backend) - used
        used = _cpu(pid)
        rates["gateway"].append(asyncio.run(_rate(lambda: _Tcp(port), "/targets/t/invocations")))
        gateway_cpu += _cpu(pid) - used
    total = ROUNDS * REQUESTS
    direct, through = max(rates["direct"]), max(rates["gateway"])
    yield _figure("gateway.requests_per_s", through, "requests/s", "the same backend called directly", direct)
    reference = "processor time of the backend itself"
    yield _figure("gateway.cpu_ms_per_request", gateway_cpu * 1000 / total, "ms", reference, direct_cpu * 1000 / total)
    yield _figure(
        "gateway.version_mb",
        _memory(backend, "Private_Dirty:"),
        "MB",
        "all its memory, shared with others",
        _memory(backend, "Rss:"),
    )


def _figure(name: str, value: float, unit: str, reference: str, reference_value: float) -> Figure:
    return {
        "name": name, "value": round(value, 3), "unit": unit,
        "reference": {"name": reference, "value": round(reference_value, 3)},
    }  # fmt: skip


async def _rate(connect: Callable[[], Wire], path: str) -> float:
    """Requests per second of a few clients that each wait for their answers."""
    wire = connect()

    async def ask(count: int) -> None:
        for _ in range(count):
            assert (await wire.request("POST", path, BODY)).status == 200

    await ask(20)
    began = time.perf_counter()
    await asyncio.gather(*(ask(REQUESTS // CLIENTS) for _ in range(CLIENTS)))
    took = time.perf_counter() - began
    wire.close()
    return REQUESTS / took


def _until(holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        threading.Event().wait(0.02)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def _cpu(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int, what: str) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


if __name__ == "__main__":
    for measured in figures(*sys.argv[1:2]):
        print(orjson.dumps(measured).decode(), flush=True)
