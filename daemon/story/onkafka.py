"""`make run ARGS=--kafka`: the same story with its prediction log on topics of a real broker, started for it.

The configuration is config.yaml as shipped with other lines for the stream: where the log is, and how event time is cut. The
car-loan rows are nine minutes apart, so what a busy stream would cut into seconds is cut into hours here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from daemon.config import Config, load_config
from daemon.story import jars
from daemon.story.broker import Broker
from daemon.story.people import MODEL
from daemon.story.topics import Topics

TOPIC, LABEL_TOPIC = "car-loan.predictions", "car-loan.labels"
PARTITIONS = 3
STREAM: Mapping[str, Any] = {
    "kind": "kafka", "connection": "story", "topic": TOPIC, "label_topic": LABEL_TOPIC,
    "archive": "1d", "slice": "6h", "lateness": "12h",
}  # fmt: skip
"""What the stream says otherwise than in config.yaml as shipped."""


@dataclass(frozen=True, slots=True)
class Log:
    """What the topics hold."""

    sent: Mapping[str, int]
    """Records by topic: what the brokers have."""
    lag: int
    """Records that the daemon has not read."""


def broker_in(home: Path) -> Broker:
    """A broker for the story in this home, not started yet; its jars are fetched where they are missing.

    NoBroker when that cannot be, with what to install.
    """
    jars.java()
    jars.fetch()
    return Broker(home / "kafka")


def begin(broker: Broker, config: Config) -> Config:
    """Start the broker with the topics, and write config.yaml for it into the story's folder: the configuration."""
    broker.start()
    with Topics(broker.address) as topics:
        topics.create(TOPIC, PARTITIONS)
        topics.create(LABEL_TOPIC, PARTITIONS, retention_ms="-1")  # labels are as old as their event time says
    path = config.home / "story" / "config.yaml"
    path.write_text(_written(broker, config))
    return load_config(path, with_secrets=False)


def log_of(broker: Broker, figures: Mapping[str, Any]) -> Log | None:
    """What the topics hold by now, and how much is unread by the daemon's word; None when it does not know."""
    if figures.get("lag") is None:
        return None
    with Topics(broker.address) as topics:
        sent = {name: sum(topics.ends(name, range(PARTITIONS)).values()) for name in (TOPIC, LABEL_TOPIC)}
    return Log(sent, figures["lag"])


def _written(broker: Broker, config: Config) -> str:
    shipped = yaml.safe_load((config.root / "config.yaml").read_text(encoding="utf-8"))
    stream = {**shipped["streams"][MODEL], **STREAM}
    whole = {
        **shipped,
        "home": str(config.home), "rules": str(config.rules), "templates": str(config.templates),
        "kafka": {"story": {"bootstrap": [broker.address]}},
        "streams": {**shipped["streams"], MODEL: stream},
    }  # fmt: skip
    text: str = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    return text
