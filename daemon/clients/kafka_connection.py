"""How Kafka clients are opened. Only the modules `daemon.clients.kafka*` import kafka-python."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from kafka.net.compat import KafkaNetClient

from daemon.clients.kafka_errors import named_errors
from daemon.clients.kafka_greeting import OPEN, greet, tls_context
from daemon.kafkaparts import KafkaConnection

RECONNECT_MS = 2000
"""Longest pause between two attempts to connect."""
GRACE_S = 1.0
"""How long a client that is told to stop may go on with what it does."""
_FAST = "crc32c"


class Begun:
    """What was begun while a client is opened: kafka-python leaves connections open, and a thread at work, when it fails."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self._closed = threading.Event()
        self._ends: list[Callable[[], None]] = []
        self._watch: threading.Thread | None = None

    def client(self, **settings: Any) -> KafkaNetClient:
        """Makes kafka-python's own, and remembers it."""
        client = KafkaNetClient(**settings)
        self._ends.append(client.close)
        return client

    def socket(self, one: socket.socket) -> None:
        """Remember a socket that may wait."""
        self._ends.append(lambda: _shut(one))

    def watch(self, stop: threading.Event | None) -> None:
        """End it when `stop` is set: at once while it is opened, else if it does not close by itself soon."""
        if stop is None:
            return

        def look(stop: threading.Event) -> None:
            while not self._closed.wait(0.1):
                if stop.is_set() and not (self.is_open.is_set() and self._closed.wait(GRACE_S)):
                    self._end()
                    return

        self._watch = threading.Thread(target=look, args=(stop,), name="kafka-watch", daemon=True)
        self._watch.start()

    def close(self) -> None:
        """End all of it."""
        self._closed.set()
        self._end()
        if self._watch is not None:
            self._watch.join()

    def _end(self) -> None:
        for end in list(self._ends):
            end()


@contextlib.contextmanager
def opening(connection: KafkaConnection, stop: threading.Event | None) -> Iterator[Begun]:
    """While a client is opened: what fails is named and leaves nothing behind.

    As soon as `stop` is set, nothing is waited for any more; also afterwards, until `Begun.close`, which the client calls
    at its end.
    """
    begun = Begun()
    begun.watch(stop)
    try:
        greet(connection, begun.socket)
        with named_errors(OPEN):
            yield begun
    except BaseException:
        begun.close()
        raise
    begun.is_open.set()


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


def settings(connection: KafkaConnection, name: str) -> dict[str, Any]:
    """What every kind of client is given."""
    milliseconds = int(connection.timeout.total_seconds() * 1000)
    found: dict[str, Any] = {
        "bootstrap_servers": list(connection.bootstrap),
        "client_id": f"driftd-{name}",
        "security_protocol": connection.security,
        "request_timeout_ms": milliseconds,
        "bootstrap_timeout_ms": milliseconds,
        "reconnect_backoff_max_ms": RECONNECT_MS,
        "metadata_max_age_ms": int(connection.refresh.total_seconds() * 1000),
        "metrics_enabled": False,
    }
    if connection.security.endswith("SSL"):
        found["ssl_context"] = tls_context(connection.tls)
    if connection.sasl is not None:
        found |= {
            "sasl_mechanism": connection.sasl.mechanism,
            "sasl_plain_username": connection.sasl.username.value.get_secret_value(),
            "sasl_plain_password": connection.sasl.password.value.get_secret_value(),
        }
    return found


def warn_if_slow() -> None:
    """Say so when what checks the records' CRCs fast is missing: without it reading is five times slower."""
    if importlib.util.find_spec(_FAST) is None:
        why = f"package {_FAST} is not installed, so records are checked in pure Python, five times slower"
        structlog.get_logger("kafka").warning("kafka.slow", why=why)
