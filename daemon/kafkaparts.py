"""The parts of config.yaml that are about Kafka: connections, and topics of events."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from daemon.core.spelling import did_you_mean
from daemon.documents import Where
from daemon.parts import Duration, Part, Secret

ARCHIVED = "topic-"
"""Names of archive files begin so: the local gateway's log lies in the same folder."""
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
TOPIC_NAMES = "a topic's name has letters, digits, dots, hyphens and underscores"
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):[0-9]{1,5}")


class Sasl(Part):
    """Who driftd is at the broker."""

    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    username: Secret
    password: Secret


class Tls(Part):
    """Certificates, as PEM files; relative to config.yaml."""

    ca: Path | None = None
    """Who may have signed the broker's certificate; without it, whom the machine trusts."""
    cert: Path | None = None
    """The client's certificate, where the broker wants one."""
    key: Path | None = None
    """Its private key, without a passphrase."""


class KafkaConnection(Part):
    """A Kafka cluster, and how it is reached."""

    bootstrap: tuple[str, ...] = Field(min_length=1)
    """`host:port` of some of its brokers."""
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Kafka's `security.protocol`."""
    sasl: Sasl | None = None
    tls: Tls = Tls()
    timeout: Duration = timedelta(seconds=10)
    """How long one request may take; after so long without an answer the broker counts as away."""
    refresh: Duration = timedelta(seconds=30)
    """How often it is asked which topics and partitions there are: new partitions are found after so long."""


class KafkaSource(Part):
    """Topics whose records are CloudEvents: a source of events for rules."""

    kind: Literal["kafka"]
    connection: str
    """One of `kafka:`."""
    topics: tuple[str, ...] = Field(min_length=1)
    group: str = ""
    """Consumer group; default `driftd-NAME`. Only driftds of one store may share it. Its committed offsets are a copy for
    tools that show the lag: what counts is in the store."""
    dead_letters: str = ""
    """Topic that records go to which cannot be read, with reason and origin as headers; else they lie in a file at home."""
    start: Literal["earliest", "latest"] = "earliest"
    """Where to begin in topics that were never read before."""
    max_bytes: int = Field(default=1_000_000, ge=1)
    """Longest value of a record; a longer one cannot be read."""


def is_topic(name: str) -> bool:
    """Whether a topic may have this name."""
    return _TOPIC.fullmatch(name) is not None and name not in {".", ".."}


def contradictions(
    connections: Mapping[str, KafkaConnection], sources: Mapping[str, KafkaSource]
) -> Iterator[tuple[Where, str]]:
    """What is wrong between the parts, with its place in config.yaml."""
    for name, connection in connections.items():
        for message in _connection(connection):
            yield ("kafka", name), f"kafka {name} {message}"
    groups: dict[tuple[str, str], str] = {}
    for name, source in sources.items():
        where: Where = ("sources", name)
        if source.connection not in connections:
            hint = did_you_mean(source.connection, connections)
            yield (*where, "connection"), f"source {name}: there is no kafka connection {source.connection}{hint}"
        for message in _source(source):
            yield where, f"source {name} {message}"
        group = source.group or f"driftd-{name}"
        other = groups.setdefault((source.connection, group), name)
        if other != name:
            yield (*where, "group"), f"sources {other} and {name} have the same group {group}"


def _connection(connection: KafkaConnection) -> Iterator[str]:
    for address in connection.bootstrap:
        if not _ADDRESS.fullmatch(address):
            yield f"has a bootstrap address {address!r}; write host:port"
    if connection.security.startswith("SASL") != (connection.sasl is not None):
        yield f"is {connection.security}, which {'needs' if connection.sasl is None else 'knows no'} sasl"
    tls = connection.tls
    if not connection.security.endswith("SSL") and tls != Tls():
        yield f"is {connection.security}, which knows no tls"
    if (tls.cert is None) != (tls.key is None):
        yield "needs tls.cert and tls.key together, or neither"


def _source(source: KafkaSource) -> Iterator[str]:
    for topic in (*source.topics, *filter(None, [source.dead_letters])):
        if not is_topic(topic):
            yield f"has a topic {topic!r}; {TOPIC_NAMES}"
    if len(set(source.topics)) < len(source.topics):
        yield "has a topic twice"
    if source.dead_letters in source.topics:
        yield "would read its own dead letters"


def wrong_with_archive(archive: timedelta | None, of_topics: bool, homeless: bool) -> Iterator[str]:
    """What is wrong with how long a stream keeps what it reads; `homeless`: its labels come by a topic, and have no folder."""
    if archive is None:
        return
    if not of_topics:
        yield "has an archive, which is of topics, but is of kind files"
    if homeless:
        yield "keeps an archive and has a label_topic: say in which folder `labels` are kept"
    if archive < timedelta(hours=1):
        yield "keeps its archive for less than an hour"


def rooted(connection: KafkaConnection, root: Path) -> KafkaConnection:
    """The same with absolute paths."""
    paths = {role: root / path for role, path in connection.tls if path is not None}
    return connection.model_copy(update={"tls": connection.tls.model_copy(update=paths)})


def filled(connection: KafkaConnection, name: str, fill: Callable[[Secret, Where], Secret]) -> KafkaConnection:
    """The same with its secrets, as `fill` looks them up."""
    if connection.sasl is None:
        return connection
    where: Where = ("kafka", name, "sasl")
    found = {role: fill(getattr(connection.sasl, role), (*where, role)) for role in ("username", "password")}
    return connection.model_copy(update={"sasl": connection.sasl.model_copy(update=found)})


def missing_files(connection: KafkaConnection, name: str) -> Iterator[tuple[Where, str]]:
    """The certificates and keys that cannot be read."""
    for role, path in connection.tls:
        if path is None:
            continue
        try:
            path.read_bytes()
        except OSError as error:
            yield ("kafka", name, "tls", role), f"{path} cannot be read: {error.strerror}"
