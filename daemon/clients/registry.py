"""The model registry, behind a process of its own.

MLflow costs 200 MB and seconds to import, so the daemon never does: `RegistryProcess` starts a child that holds it and
speaks JSON lines with it. A child that dies or does not answer in time is killed and started again, later each time it
fails; what was asked of it meanwhile is Unavailable, which every caller must expect of a service anyway.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson

from daemon.clients.base import ModelVersion, RegisteredModel
from daemon.core.errors import ClientError, Conflict, Refused, Unavailable
from daemon.points import OnPoint, Point, no_point

START_S = 120.0
"""Longest that a child may take until its registry answers: a new database gets its tables, on a busy machine."""
TRANSFER = 10.0
"""Calls that read artifacts may take so many times the timeout."""
PIPE_BYTES = 1 << 20
"""Room for all requests that may wait for a child that hangs, so that writing one never blocks."""
ROOT = Path(__file__).parents[2]
"""The folder that holds the package `daemon`."""
JOIN_S = 2.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
_ERRORS: Mapping[str, type[ClientError]] = {"Unavailable": Unavailable, "Conflict": Conflict, "Refused": Refused}


class RegistryProcess:
    """The `Registry` protocol; safe to call from any thread.

    `uri` is what MLflow takes as tracking and registry URI; `artifacts` is where artifacts go by default when that is a
    database; `timeout` is in seconds, for one call. The child starts with the first call (or `start`), and calls wait for
    its start.
    """

    def __init__(self, uri: str, artifacts: str, timeout: float = 30.0, on_point: OnPoint = no_point) -> None:
        self._on_point = on_point
        self._command = (sys.executable, "-m", "daemon.clients.registry_process", uri, artifacts, str(timeout))
        self._timeout = timeout
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._stopped = False
        self._pause = 0.0
        self._start_after = 0.0

    def start(self) -> None:
        """Start the child without waiting for it, so that the first call need not."""
        self._running("start")

    def stop(self) -> None:
        """End the child; every later call is Unavailable."""
        with self._lock:
            self._stopped = True
            child, self._child = self._child, None
        if child is not None:
            child.end("the registry was stopped")

    @property
    def pid(self) -> int | None:
        """The child's process id, when one runs."""
        with self._lock:
            return self._child.pid if self._child is not None else None

    def models(self, names: Mapping[str, int]) -> tuple[RegisteredModel, ...]:
        """See Registry.models."""
        return tuple(_model(item) for item in self._call("models", dict(names)))

    def version(self, name: str, version: str) -> ModelVersion:
        """See Registry.version."""
        return ModelVersion(**self._call("version", name, version))

    def alias(self, name: str, alias: str) -> str:
        """See Registry.alias."""
        return str(self._call("alias", name, alias))

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """See Registry.set_alias."""
        self._call("set_alias", name, alias, version)
        self._on_point(Point.REGISTRY_CHANGED)

    def set_tag(self, name: str, version: str, key: str, value: str) -> None:
        """See Registry.set_tag."""
        self._call("set_tag", name, version, key, value)
        self._on_point(Point.REGISTRY_CHANGED)

    def find(self, name: str, tag: str, value: str) -> ModelVersion | None:
        """See Registry.find."""
        found = self._call("find", name, tag, value)
        return None if found is None else ModelVersion(**found)

    def location(self, name: str, version: str) -> str:
        """See Registry.location."""
        return str(self._call("location", name, version))

    def digest(self, name: str, version: str) -> str:
        """See Registry.digest."""
        return str(self._call("digest", name, version, timeout=self._timeout * TRANSFER))

    def fetch(self, name: str, version: str, artifact: str, folder: str) -> str:
        """See Registry.fetch."""
        return str(self._call("fetch", name, version, artifact, folder, timeout=self._timeout * TRANSFER))

    def _call(self, operation: str, *arguments: Any, timeout: float | None = None) -> Any:
        child = self._running(operation)
        try:
            opened = child.started.result(START_S)
            if "error" in opened:
                raise _Gone(opened["why"])
            answer = child.ask(operation, arguments).result(timeout or self._timeout)
        except TimeoutError:
            # MLflow's own time limits are shorter: a child that is silent for so long hangs.
            self._discard(child, "it did not answer in time and was ended")
            raise Unavailable("registry", operation, "no answer in time") from None
        except _Gone as gone:
            self._discard(child, str(gone))
            raise Unavailable("registry", operation, str(gone)) from None
        with self._lock:
            self._pause = 0.0
        if "error" in answer:
            raise _ERRORS[answer["error"]]("registry", operation, answer["why"], answer["hint"])
        return answer["is"]

    def _running(self, operation: str) -> _Child:
        with self._lock:
            if self._stopped:
                raise Unavailable("registry", operation, "the registry was stopped")
            if self._child is None:
                wait = self._start_after - time.monotonic()
                if wait > 0:
                    raise Unavailable("registry", operation, f"its process ended and starts again in {wait:.1f} s")
                self._child = _Child(self._command)
            return self._child

    def _discard(self, child: _Child, why: str) -> None:
        with self._lock:
            if self._child is not child:
                return  # another caller was first
            self._child = None
            self._pause = min(max(self._pause * 2, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            self._start_after = time.monotonic() + self._pause
        child.end(why)


class _Gone(Exception):
    """The child ended before it answered."""


class _Child:
    """One life of the process."""

    def __init__(self, command: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            pipesize=PIPE_BYTES,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the daemon, which ends it in order
        )
        self.pid = self._process.pid
        self.started: Future[Any] = Future()
        self._lock = threading.Lock()
        self._pending: dict[int, Future[Any]] = {0: self.started}
        self._number = 0
        self._why = ""
        self._said: deque[str] = deque(maxlen=20)
        self._readers = (
            threading.Thread(target=self._read_answers, name="registry-answers", daemon=True),
            threading.Thread(target=self._read_words, name="registry-words", daemon=True),
        )
        for reader in self._readers:
            reader.start()

    def ask(self, operation: str, arguments: tuple[Any, ...]) -> Future[Any]:
        """Send a request; the future gets its answer, or _Gone."""
        future: Future[Any] = Future()
        with self._lock:
            if self._why:
                raise _Gone(self._why)
            self._number += 1
            self._pending[self._number] = future
            line = orjson.dumps({"id": self._number, "do": operation, "with": arguments})
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(line + b"\n")
                self._process.stdin.flush()
            except OSError as error:
                raise _Gone(f"its process ended ({error.strerror})") from None
        return future

    def end(self, why: str) -> None:
        """Kill the process; all that was asked and not answered is _Gone."""
        self._fail(why)
        self._process.kill()
        self._process.wait()
        for reader, pipe in zip(self._readers, (self._process.stdout, self._process.stderr), strict=True):
            reader.join(JOIN_S)
            # A grandchild may hold the other end open; closing a pipe under its reader would wait for it.
            if pipe is not None and not reader.is_alive():
                pipe.close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # a request that nobody will read may still lie in it
                self._process.stdin.close()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = orjson.loads(line)
            with self._lock:
                future = self._pending.pop(answer["id"], None)
            if future is not None:
                future.set_result(answer)
        self._readers[1].join(JOIN_S)
        self._fail("its process ended: " + (self._said[-1] if self._said else "it said nothing"))

    def _read_words(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if text := line.decode(errors="replace").strip():
                self._said.append(text[:300])

    def _fail(self, why: str) -> None:
        with self._lock:
            self._why = self._why or why
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(_Gone(why))


def _model(item: dict[str, Any]) -> RegisteredModel:
    return RegisteredModel(
        name=item["name"],
        created=item["created"],
        aliases=item["aliases"],
        versions=tuple(ModelVersion(**version) for version in item["versions"]),
        live=frozenset(item["live"]),
    )
