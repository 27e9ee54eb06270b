"""The parts of config.yaml that are about Kafka: mistakes with their places, secrets, certificates."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from tests.rules.test_config import loaded, said


def test_a_connection_and_a_topic_of_events(tmp_path: Path) -> None:
    """What is not written has a default; secrets come from where they are said to be, paths are beside the file."""
    (tmp_path / "ca.pem").write_text("-----")
    text = """\
home: state
kafka:
  main:
    bootstrap: [kafka-0:9092, "[::1]:9092"]
    security: SASL_SSL
    sasl: {username: {env: WHO}, password: {env: SECRET}}
    tls: {ca: ca.pem}
sources:
  landing: {path: landing}
  orders: {kind: kafka, connection: main, topics: [orders]}
"""
    config = loaded(tmp_path, text, {"WHO": "driftd", "SECRET": "hush"})
    main, orders = config.kafka["main"], config.topics["orders"]
    assert main.sasl is not None
    assert main.sasl.mechanism == "SCRAM-SHA-512"
    assert (main.sasl.username.value.get_secret_value(), main.sasl.password.value.get_secret_value()) == (
        "driftd",
        "hush",
    )
    assert main.tls.ca == tmp_path / "ca.pem"
    assert main.timeout == timedelta(seconds=10)
    assert (orders.group, orders.start, orders.dead_letters) == ("", "earliest", "")
    assert list(config.folders) == ["landing"]
    assert "hush" not in repr(config)


def test_mistakes_of_shape_are_told_by_the_kind_that_is_meant(tmp_path: Path) -> None:
    """A source of an unknown kind, a key that the kind does not have, what is missing."""
    text = """\
home: state
kafka:
  main: {bootstrap: [], sasl: {mechanism: GSSAPI, username: {env: A}}}
sources:
  a: {kind: kafak, path: x}
  b: {kind: kafka, conection: main}
  c: {patern: x}
"""
    assert said(tmp_path, text) == [
        "3:21: kafka.main.bootstrap: Tuple should have at least 1 item after validation, not 0",
        "3:31: password is missing in kafka.main.sasl",
        "3:43: kafka.main.sasl.mechanism: Input should be 'SCRAM-SHA-512', 'SCRAM-SHA-256' or 'PLAIN'",
        "5:6: sources.a: kind must be storage, kafka or nodes",
        "6:6: connection is missing in sources.b",
        "6:6: topics is missing in sources.b",
        "6:20: unknown key sources.b.conection; did you mean connection?",
        "7:6: path is missing in sources.c",
        "7:7: unknown key sources.c.patern; did you mean pattern?",
    ]


def test_parts_that_contradict_one_another(tmp_path: Path) -> None:
    """Security that needs what is not there, connections that do not exist, topics that cannot be, groups that are taken."""
    text = """\
home: state
kafka:
  main: {bootstrap: [kafka, "http://kafka:9092"], security: SASL_SSL}
  plain: {bootstrap: ["k:1"], tls: {ca: x}, sasl: {username: {env: A}, password: {env: A}}}
  half: {bootstrap: ["k:1"], security: SSL, tls: {cert: x}}
sources:
  a: {kind: kafka, connection: man, topics: [x, x, "sp ace"]}
  b: {kind: kafka, connection: main, topics: [y], dead_letters: y}
  c: {kind: kafka, connection: main, topics: [z], group: driftd-b}
"""
    assert said(tmp_path, text, {"A": "a"}) == [
        "3:9: kafka main has a bootstrap address 'kafka'; write host:port",
        "3:9: kafka main has a bootstrap address 'http://kafka:9092'; write host:port",
        "3:9: kafka main is SASL_SSL, which needs sasl",
        "4:10: kafka plain is PLAINTEXT, which knows no sasl",
        "4:10: kafka plain is PLAINTEXT, which knows no tls",
        f"4:41: {tmp_path / 'x'} cannot be read: No such file or directory",
        "5:9: kafka half needs tls.cert and tls.key together, or neither",
        f"5:57: {tmp_path / 'x'} cannot be read: No such file or directory",
        "7:6: source a has a topic 'sp ace'; a topic's name has letters, digits, dots, hyphens and underscores",
        "7:6: source a has a topic twice",
        "7:32: source a: there is no kafka connection man; did you mean main?",
        "8:6: source b would read its own dead letters",
        "9:58: sources b and c have the same group driftd-b",
    ]


def test_secrets_of_a_connection_that_are_not_there(tmp_path: Path) -> None:
    """An unset variable and a missing file are mistakes at the secret."""
    text = """\
home: state
kafka:
  main:
    bootstrap: ["k:1"]
    security: SASL_PLAINTEXT
    sasl:
      username: {env: NOBODY}
      password: {file: none}
"""
    assert said(tmp_path, text) == [
        "7:17: environment variable NOBODY is not set",
        f"8:17: secret file {tmp_path / 'none'} cannot be read: No such file or directory",
    ]


def test_a_stream_of_topics_that_contradicts_itself(tmp_path: Path) -> None:
    """Dead letters that it would read itself, topics that cannot be, and a topic for a stream of files."""
    text = """\
home: state
kafka:
  main: {bootstrap: ["k:1"]}
streams:
  a: {kind: kafka, connection: main, predictions: a, topic: x, dead_letters: x, fields: {id: id, features: {}}}
  b: {kind: kafka, connection: main, predictions: b, topic: "sp ace", fields: {id: id, features: {}}}
  c: {predictions: c, dead_letters: y, fields: {id: id, features: {}}}
"""
    assert said(tmp_path, text) == [
        "5:6: stream a would read its own dead letters",
        "6:6: stream b has a topic 'sp ace'; a topic's name has letters, digits, dots, hyphens and underscores",
        "7:6: stream c has dead_letters, which are a topic, but is of kind files",
    ]


def test_an_archive_that_contradicts_its_stream(tmp_path: Path) -> None:
    """Of files, without a folder for labels that come on a topic, and for a moment only."""
    text = """\
home: state
kafka:
  main: {bootstrap: ["k:1"]}
streams:
  a: {predictions: a, archive: 1d, fields: {id: id, features: {}}}
  b: {kind: kafka, connection: main, predictions: b, topic: x, label_topic: y, archive: 1d, fields: {id: id, label: l}}
  c: {kind: kafka, connection: main, predictions: c, topic: x, archive: 5m, fields: {id: id, features: {}}}
  d: {kind: kafka, connection: main, predictions: d, labels: e, topic: x, label_topic: y, archive: 1d, fields: {id: id, label: l}}
"""
    assert said(tmp_path, text) == [
        "5:6: stream a has an archive, which is of topics, but is of kind files",
        "6:6: stream b keeps an archive and has a label_topic: say in which folder `labels` are kept",
        "7:6: stream c keeps its archive for less than an hour",
    ]
