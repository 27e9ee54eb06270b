"""The first words with a Kafka broker: is somebody there, does its certificate hold, does it let us in.

kafka-python tries such things again and again and in the end says that time is up; and what a broker answers before it
hangs up, that it does not know the user, is lost with the connection. So it is asked here first, once, over a plain
socket. https://kafka.apache.org/protocol: SaslHandshake (17, version 1) and SaslAuthenticate (36, version 0).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator

from kafka.net.sasl import get_sasl_mechanism

from daemon.clients.kafka_errors import SERVICE, NotAuthenticated
from daemon.core.errors import Refused, Unavailable
from daemon.kafkaparts import KafkaConnection, Tls

OPEN = "open"
HINT = "check sasl: username, password and mechanism of the connection in config.yaml"
_HANDSHAKE, _AUTHENTICATE = (17, 1), (36, 0)
_LONGEST = 1 << 16

OnSocket = Callable[[socket.socket], None]
"""Is shown each socket before it waits for anything, so that somebody else can shut it down."""


def tls_context(tls: Tls) -> ssl.SSLContext:
    """What these certificates make: the broker's is checked, with its name. Refused when a file is none."""
    try:
        context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca else None)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:
        raise Refused(SERVICE, OPEN, f"the certificates under tls cannot be used: {error}") from error
    return context


def greet(connection: KafkaConnection, on_socket: OnSocket = lambda _socket: None) -> None:
    """Return as soon as a broker of the connection is there and has let us in.

    Raises NotAuthenticated when one does not accept who we are, Unavailable when none is there, with the reason of each.
    """
    context = tls_context(connection.tls) if connection.security.endswith("SSL") else None
    timeout = connection.timeout.total_seconds()
    told = []
    for address in connection.bootstrap:
        try:
            with _connected(address, context, timeout, on_socket) as channel:
                if connection.sasl is not None:
                    _authenticate(channel, connection)
                return
        except ssl.SSLCertVerificationError as error:
            told.append(f"{address}: its certificate does not hold: {error.verify_message}")
        except TimeoutError:
            told.append(f"{address}: no answer in {timeout:g} s")
        except OSError as error:
            told.append(f"{address}: {error.strerror or error}")
    raise Unavailable(SERVICE, OPEN, "; ".join(told))


@contextlib.contextmanager
def _connected(
    address: str, context: ssl.SSLContext | None, timeout: float, on_socket: OnSocket
) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with socket.create_connection((host, int(port)), timeout) as plain:
        on_socket(plain)
        if context is None:
            yield plain
            return
        with context.wrap_socket(plain, server_hostname=host) as sealed:
            on_socket(sealed)
            yield sealed


def _authenticate(channel: socket.socket, connection: KafkaConnection) -> None:
    sasl = connection.sasl
    assert sasl is not None
    error, answer = _asked(channel, _HANDSHAKE, _text(sasl.mechanism))
    if error:
        (count,) = struct.unpack_from(">i", answer)
        known, at = [], 4
        for _ in range(count):
            word, at = _read_text(answer, at)
            known.append(word)
        raise NotAuthenticated(SERVICE, OPEN, f"it does not take {sasl.mechanism}, but {', '.join(known)}", HINT)
    mechanism = get_sasl_mechanism(sasl.mechanism)(
        sasl_mechanism=sasl.mechanism,
        sasl_plain_username=sasl.username.value.get_secret_value(),
        sasl_plain_password=sasl.password.value.get_secret_value(),
    )
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        error, answer = _asked(channel, _AUTHENTICATE, struct.pack(">i", len(token)) + token)
        why, at = _read_text(answer, 0)
        if error:
            raise NotAuthenticated(SERVICE, OPEN, why or f"error {error}", HINT)
        try:
            mechanism.receive(answer[at + 4 :])
        except ValueError as wrong:
            raise NotAuthenticated(
                SERVICE, OPEN, f"its proof of knowing the password does not hold: {wrong}"
            ) from wrong


def _asked(channel: socket.socket, what: tuple[int, int], body: bytes) -> tuple[int, bytes]:
    """The error code of the answer, and what is behind it."""
    request = struct.pack(">hhi", *what, 1) + _text("driftd") + body
    channel.sendall(struct.pack(">i", len(request)) + request)
    (length,) = struct.unpack(">i", _exactly(channel, 4))
    if not 6 <= length <= _LONGEST:
        raise OSError(f"what listens there does not speak Kafka's protocol, or not with {type(channel).__name__}s")
    answer = _exactly(channel, length)
    return struct.unpack_from(">h", answer, 4)[0], answer[6:]


def _exactly(channel: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        piece = channel.recv(count - len(found))
        if not piece:
            raise OSError("it hung up; does the connection's security suit the listener?")
        found += piece
    return bytes(found)


def _text(word: str) -> bytes:
    raw = word.encode()
    return struct.pack(">h", len(raw)) + raw


def _read_text(answer: bytes, at: int) -> tuple[str, int]:
    """A text that may be null, and where it ends."""
    (length,) = struct.unpack_from(">h", answer, at)
    end = at + 2 + max(length, 0)
    return answer[at + 2 : end].decode(errors="replace"), end
