"""A real Kafka broker of one node (KRaft) on loopback, for the tests and for `make run ARGS=--kafka`.

It lives in a folder of its own and on ports of its own, which it keeps over a restart. Listeners:

plain    no encryption, nobody asks who it is: `address`
scram    SASL SCRAM-SHA-512 over TLS, when `secure`: `scram_address`, user ANN, certificates signed by `ca`
mutual   TLS with a client certificate, when `secure`: `mutual_address`, `client_cert`, `client_key`
proxied  tells clients to come through `proxy_port`, where a test may put a proxy between: `proxied_address`
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from daemon.platforms.shim import start_of, write_atomically
from daemon.story import jars

HOST = "127.0.0.1"
ANN = "ann"
"""The user of the scram listener."""
ANNS_PASSWORD = "anns-secret"  # noqa: S105 - of a broker that lives as long as a test
START_S = 240.0
"""A start takes eight seconds of one core; a machine that does much else needs longer."""
STOP_S = 30.0
NOTE = "broker.json"
"""In its folder: the process that runs, for whoever comes after somebody who was killed."""

_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAIN",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "false",
    "num.network.threads": "2",
    "num.io.threads": "2",
    "num.partitions": "1",
    "log.retention.check.interval.ms": "500",
    "log.segment.delete.delay.ms": "500",
    "log.cleaner.dedupe.buffer.size": "4194304",
    # A broker that was killed is the same one when it comes back: the controller need not wait long to see that.
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
}
_JVM = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]


class Broker:
    """One broker. A context manager: started on entry, stopped at the end; its folder is the caller's to remove."""

    def __init__(self, folder: Path, secure: bool = False) -> None:
        self.folder = folder
        self.ca = folder / "tls" / "ca.pem"
        self.client_cert = folder / "tls" / "client.pem"
        self.client_key = folder / "tls" / "client.key"
        self._secure = secure
        names = ["PLAIN", "CONTROLLER", "PROXIED", *(["SCRAM", "MUTUAL"] if secure else [])]
        *ports, self.proxy_port = _free_ports(len(names) + 1)
        self._ports = dict(zip(names, ports, strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- where it is

    @property
    def address(self) -> str:
        """`host:port` of the plain listener."""
        return f"{HOST}:{self._ports['PLAIN']}"

    @property
    def scram_address(self) -> str:
        """`host:port` of the listener that wants user and password over TLS."""
        return f"{HOST}:{self._ports['SCRAM']}"

    @property
    def mutual_address(self) -> str:
        """`host:port` of the listener that wants a client certificate."""
        return f"{HOST}:{self._ports['MUTUAL']}"

    @property
    def behind_proxy(self) -> tuple[str, int]:
        """Where a proxy at `proxied_address` has to connect to."""
        return HOST, self._ports["PROXIED"]

    @property
    def proxied_address(self) -> str:
        """`host:port` that clients of the proxied listener are told: nobody listens there unless a test does."""
        return f"{HOST}:{self.proxy_port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    @property
    def log(self) -> Path:
        """What it said."""
        return self.folder / "broker.log"

    # -- life

    def start(self) -> None:
        """Start it, the first time in an empty folder; when this returns it answers. NoBroker when that cannot be."""
        properties = self.folder / "server.properties"
        if not properties.exists():
            self._make(properties)
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [jars.java(), *_JVM, "-cp", jars.class_path(), "kafka.Kafka", str(properties)],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        write_atomically(self.folder / NOTE, {"pid": self.pid, "start": start_of(self.pid)})
        self._wait_until_it_answers()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not enough; gone when this returns."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; gone when this returns."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It stands still: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the broker is not running"
        self._process.send_signal(number)

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_S
        pause = threading.Event()
        while not _answers(self._ports["PLAIN"]):
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                words = " / ".join(self.log.read_text(errors="replace").strip().splitlines()[-5:])
                raise jars.NoBroker(f"the Kafka broker did not start within {START_S:g} s; see {self.log}: {words}")
            pause.wait(0.1)

    # -- its folder

    def _make(self, properties: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._secure:
            self._certify()
        properties.write_text("".join(f"{key}={value}\n" for key, value in self._settings().items()))
        number = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        scram = ["--add-scram", f"SCRAM-SHA-512=[name={ANN},password={ANNS_PASSWORD}]"] if self._secure else []
        _run(
            [jars.java(), *_JVM, "-cp", jars.class_path(), "kafka.tools.StorageTool",
             "format", "-t", number.replace("-", "A", 1), "-c", str(properties), *scram],
            self.folder,
        )  # fmt: skip

    def _settings(self) -> dict[str, str]:
        ports = self._ports
        kinds = {"SCRAM": "SASL_SSL", "MUTUAL": "SSL"}
        told = {name: port for name, port in ports.items() if name != "CONTROLLER"} | {"PROXIED": self.proxy_port}
        settings = _SETTINGS | {
            "log.dirs": str(self.folder / "data"),
            "controller.quorum.voters": f"1@{HOST}:{ports['CONTROLLER']}",
            "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items()),
            "advertised.listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in told.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{kinds.get(name, 'PLAINTEXT')}" for name in ports),
        }
        if not self._secure:
            return settings
        keys = self.folder / "tls" / "server.pem"
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        return settings | {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.scram.scram-sha-512.sasl.jaas.config": login,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(keys),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca),
            "listener.name.mutual.ssl.client.auth": "required",
        }

    def _certify(self) -> None:
        """A certificate authority, and certificates by it for the broker and for one client."""
        openssl = shutil.which("openssl")
        if openssl is None:
            raise jars.NoBroker("the certificates of the Kafka broker are made with openssl: install it")
        place = self.ca.parent
        place.mkdir(mode=0o700)
        key = ["-newkey", "rsa:2048", "-nodes"]
        authority = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=driftd test CA", "-days", "2"]
        _run([openssl, "req", "-x509", *key, *authority], place)
        for name, used_for in (("server", f"subjectAltName=IP:{HOST},DNS:localhost"), ("client", "")):
            (place / "extensions").write_text(f"basicConstraints=critical,CA:FALSE\n{used_for}\n")
            _run(
                [openssl, "req", "-new", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"],
                place,
            )
            signed = ["-in", f"{name}.csr", "-out", f"{name}.crt", "-days", "2", "-extfile", "extensions"]
            _run([openssl, "x509", "-req", *signed, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"], place)
            (place / f"{name}.pem").write_text(
                (place / f"{name}.key").read_text() + (place / f"{name}.crt").read_text()
            )


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=START_S, check=False
    )
    if done.returncode != 0:
        words = " / ".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise jars.NoBroker(f"{Path(command[0]).name} ended with {done.returncode}: {words}")


def _answers(port: int) -> bool:
    """It takes a connection and answers a request for the versions that it speaks (ApiVersions, version 0)."""
    request = bytes.fromhex("0012 0000 00000001 ffff".replace(" ", ""))
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=5) as connection:
        connection.sendall(len(request).to_bytes(4, "big") + request)
        return bool(connection.recv(4))
    return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]
