"""The process that holds MLflow: `python -m daemon.clients.registry_process URI ARTIFACTS TIMEOUT`.

Reads one JSON request a line from stdin, `{"id": 7, "do": "alias", "with": ["churn", "champion"]}`, and answers on what
was stdout when it started: `{"id": 7, "is": "3"}` or `{"id": 7, "error": "Refused", "why": …, "hint": …}`, in any order.
The first line it writes, `{"id": 0, "is": true}`, says that it can work, or why not.

It ends when stdin does, so it never outlives the daemon, however that ends.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Any, BinaryIO

import orjson

OPERATIONS = frozenset({"models", "version", "alias", "set_alias", "set_tag", "find", "digest", "fetch", "location"})
THREADS = 4


def main(uri: str, artifacts: str, timeout: float) -> None:
    """Serve requests until stdin ends; `artifacts` is where a database puts artifacts by default, `timeout` in seconds."""
    out = _take_stdout()
    # These must stand before MLflow is imported. A request that hangs would be answered too late to be of use.
    os.environ.update(
        _MLFLOW_SERVER_ARTIFACT_ROOT=artifacts,
        MLFLOW_DISABLE_TELEMETRY="true",
        MLFLOW_HTTP_REQUEST_TIMEOUT=str(max(1, int(timeout / 2))),
        MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    )
    from daemon.clients.mlflow_registry import MlflowRegistry, as_client_error  # noqa: PLC0415

    lock = threading.Lock()

    def answer(number: int, operation: str, future: Future[Any]) -> None:
        error = future.exception()
        reply: dict[str, Any] = {"id": number}
        if error is None:
            reply["is"] = future.result() if number else True
        else:
            said = as_client_error(operation, error)
            reply |= {"error": type(said).__name__, "why": said.why, "hint": said.hint}
        line = orjson.dumps(reply, default=_plain)
        with lock:
            out.write(line + b"\n")
            out.flush()

    with ThreadPoolExecutor(THREADS) as pool:
        opened = pool.submit(MlflowRegistry, uri)  # a new database gets its tables here
        opened.add_done_callback(partial(answer, 0, "open"))
        registry = opened.result()
        for line in sys.stdin.buffer:
            request = orjson.loads(line)
            operation = request["do"]
            if operation not in OPERATIONS:
                raise ValueError(f"no such operation: {operation}")
            run: Callable[..., Any] = getattr(registry, operation)
            pool.submit(run, *request["with"]).add_done_callback(partial(answer, request["id"], operation))
        # Whoever asked is gone: nothing that still runs matters to anybody.
        os._exit(0)


def _take_stdout() -> BinaryIO:
    """Keep stdout for answers only: whatever prints from now on prints to stderr."""
    ours = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(ours, "wb")


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, frozenset):
        return sorted(value, key=int)
    raise TypeError(f"no JSON for {type(value)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
