"""Serving an ASGI application on one address: bind, serve in a thread of its own, stop.

An address that cannot be had is not the end: it is told, and tried again. Who connects and then says nothing is sent away
after a while, so that nobody takes all the places by it. The only module of the daemon that knows uvicorn.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.auto import AutoHTTPProtocol

BIND_AGAIN_S = 5.0
"""Before an address is tried again that could not be had."""
SILENT_S = 10.0
"""How long a connection may take to bring the head of a request; it is sent away after at most twice as long."""
TURN_S = 0.5
LEAVE_S = 5.0
"""How long a server that was told to stop is waited for."""


class _Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Uvicorn's, which by itself would wait for the head of a request for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.loop.call_later(SILENT_S, self._look, None)

    def _look(self, before: object) -> None:
        """Close it if it has nothing to answer, and had nothing a while ago either."""
        if self.transport.is_closing():
            self.transport.abort()  # nobody takes what is left of the answer
            return
        silent = self.cycle is None or self.cycle.response_complete
        if silent and self.cycle is before:
            self.transport.close()
        self.loop.call_later(SILENT_S, self._look, self.cycle)


class Listener:
    """The place of one server. `name`: of its thread. `at_once`: most connections; who comes beyond that is answered 503."""

    def __init__(self, name: str, host: str, port: int, at_once: int) -> None:
        self.port: int | None = None
        """Where it listens now; differs from what was asked for when that was 0."""
        self._name = name
        self._host = host
        self._port = port
        self._at_once = at_once

    def run(self, app: ASGIApp, stop: threading.Event, works: Callable[[], None], fails: Callable[[str], None]) -> None:
        """Serve `app` until `stop` is set. `works` is called twice a second while it listens, `fails` with the reason
        whenever the address could not be had.
        """
        while not stop.is_set():
            try:
                listening = _bind(self._host, self._port)
            except OSError as error:
                why, _, _ = str(error.strerror or error).partition(" (while attempting")  # which the address repeats
                fails(f"cannot listen on {self._host}:{self._port}: {why}")
                stop.wait(BIND_AGAIN_S)
                continue
            with listening:
                self._serve(app, listening, stop, works)

    def _serve(self, app: ASGIApp, listening: socket.socket, stop: threading.Event, works: Callable[[], None]) -> None:
        server = uvicorn.Server(uvicorn.Config(app, **_SETTINGS, limit_concurrency=self._at_once))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name=self._name, daemon=True)
        thread.start()
        self.port = listening.getsockname()[1]
        try:
            while thread.is_alive() and not stop.wait(TURN_S):
                works()
        finally:
            self.port = None
            server.should_exit = True
            thread.join(LEAVE_S)


_SETTINGS: dict[str, Any] = {
    "log_level": "warning", "log_config": None, "access_log": False, "lifespan": "off", "ws": "none",
    "http": _Connection, "timeout_keep_alive": 5, "timeout_graceful_shutdown": 2,
}  # fmt: skip


def _bind(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
