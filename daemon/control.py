"""The control socket: how an operator's word reaches the running daemon, and how the daemon answers.

A Unix socket in `home`, readable by its owner alone. One request per connection, one line of JSON each way:

    {"op": "event", "id": …, "verb": "pause", "target": "", "by": "ann", "reason": "…"}  ->  {"ok": true, "seq": 41, "fresh": true}
    {"op": "status"}, {"op": "reload"}, {"op": "stop"}                                    ->  {"ok": true, …}
    anything that cannot be done                            ->  {"ok": false, "kind": "busy" | "refused" | "mistakes", "why": "…"}

An operator's word becomes a `control.changed` event and is answered when that is durable. Its id is the asker's: the same
request sent again, because the answer was lost, is the same event. Who asked is what the kernel says of the peer; a name
that the asker claims beside it is kept, but never instead of it.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from daemon.core.errors import BadInput, ConfigError, DaemonError, Refused, StoreBusy, Unavailable
from daemon.core.events import Event
from daemon.intake import Batch, Intake

NAME = "control.sock"
VERBS = frozenset({"pause", "resume", "approve", "reject", "cancel", "quarantine", "release"})
"""What an operator may say; see `control.changed` in the catalogue."""
MAX_BYTES = 65_536
"""Longest request; an answer may be longer."""
MAX_ASKERS = 16
"""Connections served at once; more wait in the listen queue."""
PATIENCE = 10.0
"""Seconds that an asker has to send its request, and to take its answer."""
STORING = 30.0
"""Seconds that an event may take to become durable."""


@dataclass(frozen=True, slots=True)
class Controls:
    """What the socket reaches. All of it is called from the socket's own threads."""

    intake: Intake
    status: Callable[[], Mapping[str, Any]]
    """How the daemon is doing, as JSON values."""
    reload: Callable[[], Mapping[str, Any]]
    """Read the rules again and put them in force; what is in force then. ConfigError when they have mistakes."""
    stop: Callable[[], None]
    """Ask the daemon to stop; returns at once."""
    clock: Callable[[], datetime]


class ControlServer:
    """Serves the socket in a thread of its own, each connection in another."""

    def __init__(self, home: Path, controls: Controls) -> None:
        self._path = home / NAME
        self._controls = controls
        self._places = threading.BoundedSemaphore(MAX_ASKERS)
        self._listener: socket.socket | None = None
        self._made = 0
        """The socket's inode: another leader may have put its own there."""
        self._ending, self._ended = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)

    def start(self) -> None:
        """Listen. Only the leader may: a socket that lies there already was left by one that died."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _address(self._path) as address:
            listener.bind(address)
        # Nobody can connect before `listen`, so there is no moment at which others could.
        self._path.chmod(0o600)
        listener.listen(MAX_ASKERS)
        listener.setblocking(False)
        self._listener, self._made = listener, self._path.stat().st_ino
        self._thread.start()

    def stop(self) -> None:
        """Listen no more, and take the socket away."""
        self._ending.close()
        if self._thread.ident is not None:
            self._thread.join(5)
        if self._listener is not None:
            self._listener.close()
            with contextlib.suppress(FileNotFoundError):
                if self._path.stat().st_ino == self._made:
                    self._path.unlink()

    def _serve(self) -> None:
        assert self._listener is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._ended, selectors.EVENT_READ)
            while all(key.fileobj is not self._ended for key, _ in selector.select()):
                with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
                    connection, _ = self._listener.accept()
                    self._places.acquire()
                    threading.Thread(target=self._answer, args=(connection,), name="control-asker", daemon=True).start()
        self._ended.close()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(PATIENCE)
                with contextlib.suppress(OSError):  # who asks and goes away gets no answer
                    self._serve_one(connection)
        finally:
            self._places.release()

    def _serve_one(self, connection: socket.socket) -> None:
        stopping = False
        try:
            request = _request(_line(connection, MAX_BYTES))
            answer = {"ok": True, **self._do(request, peer(connection))}
            stopping = request["op"] == "stop"
        except StoreBusy as error:
            answer = {"ok": False, "kind": "busy", "why": str(error)}
        except ConfigError as error:
            answer = {"ok": False, "kind": "mistakes", "why": str(error)}
        except DaemonError as error:
            answer = {"ok": False, "kind": "refused", "why": str(error)}
        connection.sendall(orjson.dumps(answer, default=str) + b"\n")
        if stopping:
            self._controls.stop()

    def _do(self, request: Mapping[str, Any], asker: str) -> Mapping[str, Any]:
        operation = request["op"]
        if operation == "event":
            event = operator_event(request, asker, self._controls.clock())
            receipt = self._controls.intake.submit(Batch(events=(event,)), STORING)
            return {"seq": receipt.seqs[0], "fresh": receipt.fresh[0], "by": event.data["by"]}
        if operation == "status":
            return {"status": dict(self._controls.status())}
        if operation == "reload":
            return {"rules": dict(self._controls.reload())}
        if operation == "stop":
            return {}
        raise BadInput(f"there is no operation {operation!r}")


def operator_event(request: Mapping[str, Any], asker: str, now: datetime) -> Event:
    """An operator's word as an event. BadInput when the request is not one."""
    texts: dict[str, str] = {}
    for name in ("id", "verb", "target", "subject", "by", "reason", "created", "digest", "override_freeze"):
        value = request.get(name, "")
        if not isinstance(value, str) or len(value) > 4000:
            raise BadInput(f"{name} must be a text of at most 4000 characters")
        texts[name] = value
    if not texts["id"]:
        raise BadInput("an operator's word needs an id, the same when it is sent again")
    if texts["verb"] not in VERBS:
        raise BadInput(f"there is no verb {texts['verb']!r}; there are {', '.join(sorted(VERBS))}")
    claimed = texts["by"]
    by = asker if claimed in {"", asker} else f"{claimed} ({asker})"
    data = {"verb": texts["verb"], "target": texts["target"], "by": by, "reason": texts["reason"]}
    data |= {name: texts[name] for name in ("created", "digest", "override_freeze") if texts[name]}
    return Event(texts["id"], f"operator:{asker}", "control.changed", texts["subject"], now, data)


def peer(connection: socket.socket) -> str:
    """Who is at the other end, by the kernel's account: the user's name, or number when it has none."""
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    else:  # macOS and the BSDs: level SOL_LOCAL, option LOCAL_PEERCRED, `struct xucred`
        _, uid = struct.unpack_from("=II", connection.getsockopt(0, 1, 76))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def ask(home: Path, request: Mapping[str, Any], timeout: float = STORING + 5) -> dict[str, Any]:
    """Send a request to the daemon of `home`, and wait for its answer.

    Raises Unavailable when no daemon listens there, or it did not answer in `timeout` seconds (it may have done what was
    asked: send the same request again); Refused when it will not; StoreBusy when it cannot now; BadInput when the rules
    that it was to load have mistakes.
    """
    until = time.monotonic() + timeout
    answer = _answer_to(home, request, timeout)
    if answer is None and request["op"] == "event":  # the answer was lost; the id makes a second time harmless
        answer = _answer_to(home, request, max(until - time.monotonic(), 1.0))
    if answer is None:
        raise Unavailable("driftd", str(request["op"]), "it closed the connection without an answer")
    if answer["ok"]:
        return answer
    if answer["kind"] == "busy":
        raise StoreBusy(answer["why"])
    if answer["kind"] == "mistakes":
        raise BadInput(answer["why"])
    raise Refused("driftd", str(request["op"]), answer["why"])


def _answer_to(home: Path, request: Mapping[str, Any], timeout: float) -> dict[str, Any] | None:
    """The answer; None when the daemon was there but went away before it answered."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            with _address(home / NAME) as address:
                connection.connect(address)
            try:
                connection.sendall(orjson.dumps(request) + b"\n")
                line = _line(connection, None)
            except (ConnectionError, BadInput):
                return None
    except (FileNotFoundError, NotADirectoryError, ConnectionError) as error:
        raise Unavailable("driftd", "connect", f"no daemon runs in {home}", "start it with `driftd start`") from error
    except TimeoutError as error:
        raise Unavailable("driftd", str(request["op"]), f"no answer in {timeout:g} s") from error
    except OSError as error:
        raise Unavailable("driftd", "connect", str(error)) from error
    answer: dict[str, Any] = orjson.loads(line)
    return answer


def _line(connection: socket.socket, most: int | None) -> bytes:
    """One line, without its end."""
    text = bytearray()
    while not text.endswith(b"\n"):
        chunk = connection.recv(65_536)
        if not chunk:
            raise BadInput("the line has no end")
        text += chunk
        if most is not None and len(text) > most:
            raise BadInput(f"a request has at most {most} bytes")
    return bytes(text[:-1])


def _request(line: bytes) -> dict[str, Any]:
    try:
        request = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"a request is one line of JSON: {error}") from error
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        raise BadInput('a request is a JSON object with "op"')
    return request


@contextlib.contextmanager
def _address(path: Path) -> Any:
    """An address for the socket at `path`: the kernel takes no more than about 100 bytes, so a long one goes by its folder's descriptor."""
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
