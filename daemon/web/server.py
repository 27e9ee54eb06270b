"""The daemon's own address: GET /healthz, /readyz and /metrics.

| route | says | answers |
|---|---|---|
| /healthz | whether this process can go on: its writer's thread turns | 200, or 503 with `why`: restart it |
| /readyz | whether what comes in is taken, and no source is silently stuck | 200, or 503 with `reasons`: those of `driftd status` |
| /metrics | figures, for Prometheus | 200; 503 when they could not be had in time |

A port that is taken is told by `driftd status` and the log and tried again; the daemon goes on without it. Nobody is asked
who he is, and nothing can be changed here. What callers can cause is bounded: connections, answers that are made at once,
and the seconds of each.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from daemon.listening import Listener
from daemon.webparts import WebConfig

CONNECTIONS = 64
AT_ONCE = 4
"""Most answers that are made at once; others are refused at once."""
ANSWER_S = 5.0
"""How long an answer may take to be made; one that takes longer holds its place until it is done."""
NEVER_KEPT = {"Cache-Control": "no-store"}

Made = TypeVar("Made")


class _Busy(Exception):
    """The answer cannot be made now."""


class Told(Protocol):
    """How the process is doing; see `daemon.condition.Condition`."""

    def deadly(self) -> str:
        """Why only a new process can help; empty while this one lives."""
        ...

    def status(self) -> Mapping[str, Any]:
        """`ready`, `reasons` why not, and of one that does not lead its `role`."""
        ...


class Figures(Protocol):
    """What Prometheus is told; see `daemon.web.metrics.Metrics`."""

    def text(self, accepted: str) -> tuple[bytes, str]:
        """All figures now, in the best format that an Accept header takes, and the format's name."""
        ...


class WebServer:
    """The listener and its routes. `run` it in a thread."""

    def __init__(self, config: WebConfig, condition: Told, metrics: Figures) -> None:
        self._config = config
        self._condition = condition
        self._metrics = metrics
        self._listener = Listener("web-server", config.host, config.port, CONNECTIONS)
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._problem = ""
        self._told = False
        self._log = structlog.get_logger("web")

    def run(self, stop: threading.Event) -> None:
        """Listen until `stop` is set; where the address cannot be had, try again and say so."""
        self._listener.run(self.app(), stop, self._works, self._fails)

    def status(self) -> Mapping[str, Any]:
        """Where it listens now (None: nowhere) and why not, as JSON values."""
        port, host = self._listener.port, self._config.host
        host = f"[{host}]" if ":" in host else host
        return {"address": f"http://{host}:{port}" if port else None, "problem": self._problem}

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._scraped}
        return Starlette(routes=[Route(path, answer, methods=["GET"]) for path, answer in routes.items()])

    async def _healthz(self, _request: Request) -> Response:
        why = self._condition.deadly()
        return JSONResponse({"alive": not why, "why": why}, 503 if why else 200, NEVER_KEPT)

    async def _readyz(self, _request: Request) -> Response:
        try:
            status = await self._made(self._condition.status)
        except _Busy as error:
            return JSONResponse({"ready": False, "reasons": [str(error)]}, 503, NEVER_KEPT)
        told = {name: status[name] for name in ("ready", "reasons", "role", "waits_for") if name in status}
        return JSONResponse(told, 200 if status["ready"] else 503, NEVER_KEPT)

    async def _scraped(self, request: Request) -> Response:
        accepted = request.headers.get("accept", "")
        try:
            text, kind = await self._made(functools.partial(self._metrics.text, accepted))
        except _Busy as error:
            return Response(f"{error}\n", 503, NEVER_KEPT, "text/plain")
        return Response(text, 200, NEVER_KEPT, kind)

    async def _made(self, make: Callable[[], Made]) -> Made:
        """What `make` makes, in a thread: what it waits for holds up nobody else."""

        def placed() -> Made:
            if not self._places.acquire(blocking=False):
                raise _Busy("too many ask at once; ask again")
            try:
                return make()
            finally:
                self._places.release()

        try:
            with anyio.fail_after(ANSWER_S):
                return await anyio.to_thread.run_sync(placed, abandon_on_cancel=True)
        except TimeoutError:
            raise _Busy(f"no answer could be made within {ANSWER_S:g} s; ask again") from None

    def _works(self) -> None:
        self._problem = ""
        if not self._told:
            self._log.info("web.listening", address=self.status()["address"])
        self._told = True

    def _fails(self, why: str) -> None:
        if why != self._problem:
            self._log.warning("web.not_listening", why=why)
        self._problem, self._told = why, False
