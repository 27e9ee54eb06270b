"""Models on this machine: the daemon's side of the gateway. Starts it, adopts it, and speaks its admin API.

The gateway is a process of its own in a session of its own: it serves on while the daemon is away, with the weights that
it keeps itself. There is one per home folder: it holds `gateway/lock` as long as it lives, so a second start ends at
once, and a daemon that comes back finds the first one by its address and takes it as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from daemon.config import Config
from daemon.core.errors import Conflict, Refused, Unavailable
from daemon.platforms import shim
from daemon.platforms.base import Served, Traffic
from daemon.platforms.local_jobs import clean_environment
from daemon.points import OnPoint, Point, no_point

_ROOT = Path(__file__).parents[2]
_HEALTH_SECONDS = 3.0
_CALL_SECONDS = 15.0
_HUNG_SECONDS = 30.0
_END_SECONDS = 5.0
_LOG_BYTES = 10_000_000
_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""One thread per backend: threads would not survive the fork that backends come from, and versions share the cores."""


class LocalServing:
    """The Serving protocol on this machine. Safe to use from any thread."""

    def __init__(self, config: Config, on_point: OnPoint = no_point) -> None:
        """Touches nothing: `ensure` starts the gateway."""
        self._on_point = on_point
        self._config = config
        self._home = config.home.absolute()
        self._folder = self._home / "gateway"
        gateway = config.platform.gateway
        self.address = f"http://{f'[{gateway.host}]' if ':' in gateway.host else gateway.host}:{gateway.port}"
        """Where requests go: POST /targets/TARGET/invocations."""
        # A new connection each time: a kept one may be to a gateway that has just been replaced.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._client = httpx.Client(base_url=self.address, limits=limits, trust_env=False)
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._answered_at = time.monotonic()

    # -- the process

    def ensure(self, wait: float = 20.0) -> None:
        """See to it that the gateway runs; call it now and then. Waits at most `wait` seconds for one that it starts.

        A gateway that answers is adopted whoever started it, one that died is started again, one that has said nothing
        for half a minute is killed first. Raises Unavailable when it does not come up, with what it said, and when the
        home cannot be written.
        """
        with self._starting:
            try:
                self._ensured(wait)
            except OSError as error:
                raise Unavailable("gateway", "start", str(error)) from error

    def _ensured(self, wait: float) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._process = None
        self._tell_targets()
        if self._answers():
            return
        if (pid := self._alive()) is not None:
            # One whose first thread is gone is ending, though its others may still hold the lock.
            if shim.start_of(pid) and time.monotonic() - self._answered_at < _HUNG_SECONDS:
                raise Unavailable("gateway", "health", f"process {pid} runs but does not answer")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait_until_gone(_END_SECONDS)
        self._start()
        deadline = time.monotonic() + wait
        while not self._answers():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable("gateway", "start", self._last_words())
            time.sleep(0.05)

    def stop(self, wait: float = 20.0) -> None:
        """End the gateway, in order: what it has begun is answered and its log is closed. Harmless when none runs."""
        with self._starting:
            pid = self._alive()
            if pid is None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            self._wait_until_gone(wait)

    def _wait_until_gone(self, seconds: float) -> None:
        """Wait until an ending gateway holds its lock no more; it is collected when this process started it."""
        deadline = time.monotonic() + seconds
        while self._alive() is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = self._folder / "gateway.log"
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        gateway = self._config.platform.gateway
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [
                    sys.executable, "-m", "daemon.gateway", "--home", str(self._home),
                    "--host", gateway.host, "--port", str(gateway.port),
                    "--segment-seconds", str(gateway.segment.total_seconds()),
                    "--timeout-seconds", str(gateway.timeout.total_seconds()),
                ],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=_ROOT, start_new_session=True,
                env=clean_environment(Path(tempfile.gettempdir())) | _THREADS,
            )  # fmt: skip

    def _answers(self) -> bool:
        """Whether our gateway answers; Unavailable when somebody else has its address."""
        try:
            response = self._client.get("/health", timeout=_HEALTH_SECONDS)
            health = response.json()
            home, pid = health["home"], int(health["pid"])
        except httpx.TransportError:
            return False
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable("gateway", "health", f"another program answers at {self.address}", _PORT_HINT) from error
        if home != str(self._home):
            raise Unavailable("gateway", "health", f"the gateway of {home} answers at {self.address}", _PORT_HINT)
        self._answered_at = time.monotonic()
        noted = self._folder / "gateway.json"
        if (shim.read_json(noted) or {}).get("pid") != pid:
            shim.write_atomically(noted, {"pid": pid, "start": shim.start_of(pid), "address": self.address})
        return True

    def _alive(self) -> int | None:
        """The process that holds the gateway's lock; it wrote its number into the file when it took it."""
        try:
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                return int(json.loads(os.pread(lock, 500, 0))["pid"])
            except (ValueError, KeyError):
                return None  # it is just starting
        finally:
            os.close(lock)
        return None

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._folder / "gateway.log").read_text(errors="replace").splitlines()
            return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return "it said nothing"

    def _tell_targets(self) -> None:
        """Write what the gateway has to know of each model's prediction log, when that changed."""
        targets = {}
        for name, model in self._config.models.items():
            entry: dict[str, Any] = {"model": name}
            if model.stream is not None:
                stream = self._config.streams[model.stream]
                entry["folder"] = str(self._home / stream.predictions)
                entry["fields"] = stream.fields.model_dump(exclude={"features"}, exclude_none=True)
                entry["features"] = list(stream.fields.features)
                entry["drop"] = [field for field, what in stream.privacy.items() if what == "drop"]
            targets[model.serving or name] = entry
        path = self._folder / "targets.json"
        if shim.read_json(path) != {"targets": targets}:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            shim.write_atomically(path, {"targets": targets})

    # -- the protocol

    def deploy(self, target: str, version: str, model_uri: str) -> None:
        """See Serving. Conflict when this version is there from another address."""
        uri = self._config.registry.uri.replace("{home}", str(self._home))
        environment = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}
        self._ask("PUT", f"/targets/{target}/versions/{version}", {"model_uri": model_uri, "environment": environment})

    def traffic(self, target: str) -> Traffic:
        """See Serving."""
        return _traffic(self._ask("GET", f"/targets/{target}/traffic"))

    def shift(self, target: str, weights: Mapping[str, float], epoch: int, by: str) -> Traffic:
        """See Serving. Weights of 0 are left out of what comes back."""
        change = {"weights": dict(weights), "epoch": epoch, "by": by}
        answer = self._ask("PUT", f"/targets/{target}/traffic", change)
        self._on_point(Point.SHIFTED)
        return _traffic(answer)

    def retire(self, target: str, version: str) -> None:
        """See Serving. Refused while the version has traffic."""
        self._ask("DELETE", f"/targets/{target}/versions/{version}")

    def settle(self, target: str) -> str:  # noqa: ARG002 - the protocol's
        """See Serving. The gateway leaves nothing over."""
        return ""

    def served(self, target: str, since: str) -> Served:
        """See Serving. Unavailable when records of that time could not be logged: then the log does not know."""
        if datetime.fromisoformat(since).tzinfo is None:
            raise Refused("gateway", "served", f"since={since} names no time zone")
        answer = self._ask("GET", f"/targets/{target}/served", params={"since": since})
        return Served(answer["requests"], since)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, params: Mapping[str, str] | None = None
    ) -> Any:
        """One call of the admin API, its refusals as exceptions."""
        operation = f"{method} {path}"
        try:
            token = (self._folder / "token").read_text()
            headers = {"authorization": f"Bearer {token}"}
            response = self._client.request(
                method, path, json=body, params=params, headers=headers, timeout=_CALL_SECONDS
            )
            answer = response.json()
        except FileNotFoundError as error:
            raise Unavailable("gateway", operation, "it was never started") from error
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable("gateway", operation, f"no answer from {self.address}: {error!r}") from error
        if response.status_code == httpx.codes.OK:
            return answer
        why = str(answer.get("detail", answer))
        if response.status_code == httpx.codes.CONFLICT:
            raise Conflict("gateway", operation, why)
        if response.status_code >= 500:
            raise Unavailable("gateway", operation, why)
        raise Refused("gateway", operation, why)


_PORT_HINT = "set platform.gateway.port in config.yaml to a free one"


def _traffic(answer: Mapping[str, Any]) -> Traffic:
    return Traffic(answer["weights"], answer["epoch"], answer["ready"], answer["by"], answer["problems"])
