"""`python -m daemon.gateway --home DIR`: run the gateway until TERM.

One gateway per home (a locked file), on one address. Ends with 3 when another one has the home, with 4 when the address
is taken, with 5 when the saved state is damaged; each says so in one line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import importlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import uvicorn
from fastapi import FastAPI

from daemon.core.errors import BadInput
from daemon.gateway.api import make_app
from daemon.gateway.backends import Backends
from daemon.gateway.nursery import Nursery
from daemon.gateway.service import Service
from daemon.gateway.state import replace_file

HOME_TAKEN, ADDRESS_TAKEN, STATE_DAMAGED = 3, 4, 5


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    home: Path
    host: str
    port: int
    segment_seconds: float
    timeout_seconds: float


def read_options(arguments: list[str]) -> Options:
    """The command line as options."""
    parser = argparse.ArgumentParser(prog="daemon.gateway", description="driftd's local model gateway")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8801)
    parser.add_argument("--segment-seconds", type=float, default=1.0)
    parser.add_argument("--timeout-seconds", type=float, default=10.0)
    found = parser.parse_args(arguments)
    return Options(found.home.absolute(), found.host, found.port, found.segment_seconds, found.timeout_seconds)


def main() -> int:
    """Take the home and the address, then serve."""
    options = read_options(sys.argv[1:])
    folder = options.home / "gateway"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _refuse(HOME_TAKEN, f"another gateway runs on {options.home}: {os.pread(lock, 200, 0).decode()}")
    os.ftruncate(lock, 0)
    try:
        listener = _listen(options)
    except OSError as error:
        where = f"{options.host}:{options.port}"
        return _refuse(
            ADDRESS_TAKEN, f"cannot listen on {where}: {error.strerror}; set platform.gateway.port in config.yaml"
        )
    port = listener.getsockname()[1]
    os.pwrite(lock, orjson.dumps({"pid": os.getpid(), "host": options.host, "port": port}), 0)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(options, listener, _token(folder)))
    except BadInput as error:
        return _refuse(STATE_DAMAGED, str(error))
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop where it is installed: a request costs a quarter less; else Python's own loop."""
    try:
        module = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = module.new_event_loop
    return factory


def _refuse(status: int, why: str) -> int:
    sys.stderr.write(f"driftd gateway: {why}\n")
    return status


def _listen(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def _token(folder: Path) -> str:
    """The secret of the admin API; made once, readable by the home's owner only."""
    path = folder / "token"
    if not path.exists():
        replace_file(path, secrets.token_hex(32).encode())
    return path.read_text()


async def _serve(options: Options, listener: socket.socket, token: str) -> None:
    folder = options.home / "gateway"
    logs = folder / "backends"
    logs.mkdir(exist_ok=True)
    nursery = Nursery(folder / "preload.log", options.timeout_seconds)
    with _socket_folder(folder) as sockets:
        service = Service(
            options.home, Backends(nursery, sockets, logs, options.timeout_seconds), options.segment_seconds
        )

        @contextlib.asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            service.start()
            parent = asyncio.create_task(nursery.run())
            logs_kept = asyncio.create_task(service.keep_logs())
            yield
            await service.stop()
            parent.cancel()
            await asyncio.gather(parent, logs_kept, return_exceptions=True)

        config = uvicorn.Config(
            make_app(service, token, lifespan), log_level="warning", access_log=False, lifespan="on",
            timeout_keep_alive=120, timeout_graceful_shutdown=int(options.timeout_seconds) + 5,
        )  # fmt: skip
        await _Server(config).serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Uvicorn's, but TERM ends it in order: its own raises the signal again, and what is to be done last is not done."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


@contextlib.contextmanager
def _socket_folder(folder: Path) -> Iterator[Path]:
    """A private folder with a short name: a Unix socket's path has room for about a hundred characters.

    Its name is kept in the home, so that a restart removes the one that a killed gateway left.
    """
    note = folder / "sockets"
    if note.exists():
        shutil.rmtree(note.read_text(), ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix="driftd-gateway-"))
    replace_file(note, str(made).encode())
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
