"""The backends: a process per deployed version, kept alive, and the one way to ask one of them.

A version is ready when it answers /ping. One whose process dies fails the requests that it has and those that come while
it is down (its arm's errors: the canary must see them), and is started again, slower each time it dies young. One that
answers nothing but timeouts, or no ping, is killed and started again. Only while it loads for the first time (also after
a restart of the gateway) do requests wait for it, within their timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from daemon.gateway.nursery import Nursery
from daemon.gateway.state import Deployment
from daemon.gateway.wire import Reply, Wire

MAX_IN_FLIGHT = 256
"""Requests that one backend may have at once; more are refused at once, as its errors."""
_PING_SECONDS = 1.0
_PING_TIMEOUT = 5.0
_PINGS_MISSED = 3
_TIMEOUTS_IN_A_ROW = 8
_LONGEST_WAIT = 10.0
_LIVED_LONG = 60.0
_LOG_BYTES = 10_000_000


class ArmFailed(Exception):
    """A version did not answer; `status` is what HTTP calls that."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


@dataclass(slots=True)
class Backend:
    """One deployed version and its process."""

    key: str
    deployment: Deployment
    socket: Path
    log: Path
    wire: Wire
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    problem: str = ""
    """Why it is not ready, once it died or missed its pings."""
    deaths: int = 0
    in_flight: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while nothing is in flight."""
    timeouts: int = 0
    """In a row."""
    task: asyncio.Task[None] | None = None


class Backends:
    """All deployed versions of all targets, by (target, version)."""

    def __init__(self, nursery: Nursery, sockets: Path, logs: Path, timeout: float) -> None:
        self._nursery = nursery
        self._sockets = sockets
        self._logs = logs
        self._timeout = timeout
        self._all: dict[tuple[str, str], Backend] = {}
        self._count = 0

    def deploy(self, target: str, version: str, deployment: Deployment) -> None:
        """Have the version loaded and kept alive."""
        if (target, version) in self._all:
            return
        self._count += 1
        socket = self._sockets / str(self._count)
        log = self._logs / f"{target}@{version}.log"
        # The number makes the key new each time: a version may be deployed again while its last process still ends.
        backend = Backend(f"{target}/{version}#{self._count}", deployment, socket, log, Wire(str(socket)))
        backend.idle.set()
        backend.task = asyncio.create_task(self._keep_alive(backend))
        self._all[target, version] = backend

    async def retire(self, target: str, version: str) -> None:
        """Let the version finish what it has, then end it."""
        backend = self._all.pop((target, version), None)
        if backend is None or backend.task is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(backend.idle.wait(), self._timeout)
        backend.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await backend.task
        backend.wire.close()

    def ready(self, target: str, version: str) -> bool:
        """Whether the version answers."""
        backend = self._all.get((target, version))
        return backend is not None and backend.ready.is_set()

    def problem(self, target: str, version: str) -> str:
        """Why the version does not answer; empty when it does or is just loading."""
        backend = self._all.get((target, version))
        return backend.problem if backend is not None else ""

    async def ask(self, target: str, version: str, body: bytes) -> Reply:
        """What the version answers to a scoring request, whatever its status; ArmFailed when it does not answer."""
        backend = self._all.get((target, version))
        if backend is None:
            raise ArmFailed(503, f"version {version} is not deployed")
        if backend.in_flight >= MAX_IN_FLIGHT:
            raise ArmFailed(503, f"version {version} has {MAX_IN_FLIGHT} requests already")
        backend.in_flight += 1
        backend.idle.clear()
        try:
            async with asyncio.timeout(self._timeout):
                if not backend.ready.is_set():
                    if backend.deaths:
                        raise ArmFailed(502, f"version {version} is down: {backend.problem}")
                    await backend.ready.wait()
                reply = await backend.wire.request("POST", "/invocations", body)
        except TimeoutError:
            backend.timeouts += 1
            if backend.timeouts == _TIMEOUTS_IN_A_ROW:
                self._nursery.stop(backend.key, kill=True)
            raise ArmFailed(504, f"version {version} did not answer within {self._timeout:g} s") from None
        except (OSError, EOFError) as error:
            raise ArmFailed(502, f"version {version} broke off: {error!r}") from error
        finally:
            backend.in_flight -= 1
            if not backend.in_flight:
                backend.idle.set()
        backend.timeouts = 0
        return reply

    async def close(self) -> None:
        """End all of them."""
        await asyncio.gather(*(self.retire(target, version) for target, version in list(self._all)))

    async def _keep_alive(self, backend: Backend) -> None:
        wait = 0.1
        while True:
            started = time.monotonic()
            self._trim(backend)
            backend.socket.unlink(missing_ok=True)
            ended = self._nursery.start(backend.key, backend.socket, backend.log, backend.deployment)
            try:
                pings = asyncio.create_task(self._ping(backend))
                how = await asyncio.shield(ended)
            except asyncio.CancelledError:
                self._nursery.stop(backend.key, kill=False)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(ended), 6)
                self._nursery.stop(backend.key, kill=True)
                raise
            finally:
                pings.cancel()
                backend.ready.clear()
            backend.wire.close()
            backend.timeouts = 0
            backend.deaths += 1
            backend.problem = f"its process ended ({how}): {_last_words(backend.log)}"
            wait = 0.1 if time.monotonic() - started > _LIVED_LONG else min(wait * 2, _LONGEST_WAIT)
            await asyncio.sleep(wait)

    async def _ping(self, backend: Backend) -> None:
        """Find out when it is ready, then whether it still is; kill it when it is not."""
        missed = 0
        while missed < _PINGS_MISSED:
            try:
                async with asyncio.timeout(_PING_TIMEOUT):
                    answers = (await backend.wire.request("GET", "/ping")).status == 200
            except (OSError, EOFError, TimeoutError):
                answers = False
            if answers:
                missed = 0
                backend.problem = ""
                backend.ready.set()
            elif backend.ready.is_set():
                missed += 1
            self._trim(backend)
            await asyncio.sleep(_PING_SECONDS if backend.ready.is_set() else 0.05)
        self._nursery.stop(backend.key, kill=True)

    def _trim(self, backend: Backend) -> None:
        """Keep what the model prints bounded: the file is written to by appending, so it can be emptied at any time."""
        with contextlib.suppress(OSError):
            if backend.log.stat().st_size > _LOG_BYTES:
                os.truncate(backend.log, 0)


def _last_words(log: Path) -> str:
    """The last line of a backend's log."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = file.read().decode(errors="replace").splitlines()
        return next((line.strip()[:500] for line in reversed(lines) if line.strip()), "it said nothing")
    return "it said nothing"
