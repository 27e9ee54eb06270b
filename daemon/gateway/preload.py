"""The parent of all backends: imports MLflow once, then forks a process per version.

A program of its own (`python -m daemon.gateway.preload`) that the gateway talks to over pipes, one JSON line each:

    {"start": KEY, "socket": …, "model_uri": …, "environment": {…}, "log": …}   ->  {"started": KEY, "pid": …}
    {"stop": KEY, "kill": false}                                               ->  {"ended": KEY, "how": "exit 0"}

Importing MLflow, pandas and scikit-learn takes seconds and a quarter of a gigabyte; a forked backend shares both, so a
version is up about as fast as its model loads. Each is still a process of its own: one that crashes, hangs or eats memory
harms no other. When the gateway dies this process reads end of file and ends them all; when this process dies each of
them reads end of file on its `family` pipe and ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import Any

import orjson

_LIBRARIES = (
    "mlflow.pyfunc.scoring_server",
    "pandas",
    "uvicorn",
    "mlflow.sklearn",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "skops.io",  # what MLflow keeps scikit-learn models in
    "mlflow.store.tracking.sqlalchemy_store",  # a `models:/` address is looked up in the registry's database
    "mlflow.store.model_registry.sqlalchemy_store",
)
"""What MLflow's server and the usual models need; what is not installed is not shared."""


@dataclass(slots=True)
class _Children:
    """The living backends."""

    by_pid: dict[int, str]
    family: tuple[int, int]
    """A pipe that nobody writes to: it ends when this process does."""


def main() -> None:
    """Import, then serve requests from standard input until it ends."""
    import_libraries()
    gc.collect()
    gc.freeze()  # what is shared now stays shared: the collector need not touch it
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children = _Children({}, os.pipe())
    _tell({"ready": True})
    text = b""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            _reap(children)
        if 0 not in ready:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            break
        *lines, text = (text + chunk).split(b"\n")
        for line in lines:
            _obey(orjson.loads(line), children)
    for pid in children.by_pid:
        os.kill(pid, signal.SIGKILL)


def import_libraries() -> None:
    """Import what backends share: MLflow's scoring server, and what the usual models need."""
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with contextlib.suppress(ImportError, AttributeError, TypeError):
        # MLflow compares each model's requirements with all installed packages; the list of those takes a second.
        importlib.import_module("mlflow.utils.requirements_utils").warn_dependency_requirement_mismatches(["numpy"])


def _tell(message: dict[str, Any]) -> None:
    os.write(1, orjson.dumps(message) + b"\n")


def _obey(request: dict[str, Any], children: _Children) -> None:
    if "start" in request:
        pid = os.fork()
        if pid == 0:
            _become_backend(request, children)
        children.by_pid[pid] = request["start"]
        _tell({"started": request["start"], "pid": pid})
        return
    for pid, key in children.by_pid.items():
        if key == request["stop"]:
            os.kill(pid, signal.SIGKILL if request["kill"] else signal.SIGTERM)


def _reap(children: _Children) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        how = f"exit {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        _tell({"ended": children.by_pid.pop(pid), "how": how})


def _become_backend(request: dict[str, Any], children: _Children) -> None:
    """In the forked child: load the model and serve it until TERM. Never returns."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(children.family[1])
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for here, there in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(here, there)
        os.environ.update(request["environment"])
        threading.Thread(target=_end_with_family, args=(children.family[0],), daemon=True).start()
        _serve(request["model_uri"], request["socket"])
        status = 0
    finally:
        if status:
            traceback.print_exc()  # whatever a model did while it loaded, the reason belongs in the log
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve(model_uri: str, socket: str) -> None:
    """Serve the model with MLflow's own scoring application on a Unix socket."""
    import mlflow.pyfunc  # noqa: PLC0415
    import mlflow.pyfunc.scoring_server  # noqa: PLC0415
    import uvicorn  # noqa: PLC0415

    application = mlflow.pyfunc.scoring_server.init(mlflow.pyfunc.load_model(model_uri))
    # Connections stay open for longer than the gateway keeps them: a request never meets one that is just closing.
    uvicorn.run(
        application, uds=socket, log_level="warning", access_log=False, lifespan="off",
        timeout_keep_alive=86_400, timeout_graceful_shutdown=5,
    )  # fmt: skip


def _end_with_family(pipe: int) -> None:
    """Wait until the parent is gone; then go too, whatever the model is doing."""
    os.read(pipe, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
