"""MLflow as others use it: programs of their own that register versions, and a tracking server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REGISTER = """
import os, sys
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

uri, name, source, alias = sys.argv[1:]
client = MlflowClient(tracking_uri=uri, registry_uri=uri)
try:
    client.create_registered_model(name)
except MlflowException:
    pass  # it is there
version = client.create_model_version(name, source).version
if alias:
    client.set_registered_model_alias(name, alias, version)
print(version, flush=True)
os._exit(0)
"""


def register(uri: str, name: str, source: str = "file:///nowhere", alias: str = "") -> str:
    """Register a version, and point an alias at it; the version's number."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _REGISTER, uri, name, source, alias],
        env=QUIET, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`mlflow server` over the database and artifacts of a folder; ended with all the processes that it started."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, env=QUIET, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


QUIET = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
"""The environment of programs that use MLflow."""
