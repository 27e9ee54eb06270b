"""Topics of CloudEvents, as a member of a consumer group: each record is an event.

The store owns the progress: the place of each partition is stored in the transaction of its events, and sought to
whenever the partition becomes ours. What the group has committed is only a copy, for tools that show lag. So a record is
an event exactly once, whatever happens between two commits: what is read again is known by the sender's source and id.

Nothing is passed over in silence. A record that is no CloudEvent is a dead letter and a problem; records that are gone
before they were read (retention, a topic that was deleted and made anew, a log that its brokers have cut) or cannot be
decoded are a `source.gap`; a broker that does not answer, does not let us in or has no such topic is told by the health,
by a problem, and after a while by `source.stalled`. A tombstone says nothing: it is passed over.

While the store takes nothing, reading pauses, but the member stays in its group.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path

from daemon.clients.kafka import Consumer
from daemon.clients.kafka_errors import Unreadable
from daemon.clients.kafka_stepping import TRIES
from daemon.core.errors import ClientError
from daemon.core.problems import Problem
from daemon.intake import Batch, Intake
from daemon.kafkaparts import KafkaConnection
from daemon.kafkaparts import KafkaSource as KafkaSourceConfig
from daemon.sources.base import Health
from daemon.sources.delivery import Pulse, deliver
from daemon.sources.letters import Letters
from daemon.sources.reading import Reading, Surroundings
from daemon.sources.stepping import Stepping

AGAIN_S = 1.0
"""The first pause after a broker that did not answer; it doubles up to LONGEST_S."""
LONGEST_S = 30.0


class KafkaSource:
    """The source of the topics of one entry under `sources:`. `home` is where dead letters go without a topic of theirs."""

    def __init__(
        self,
        name: str,
        config: KafkaSourceConfig,
        connection: KafkaConnection,
        home: Path,
        clock: Callable[[], datetime],
    ) -> None:
        self.name = f"kafka:{name}"
        self._short = name
        self._config = config.model_copy(update={"group": config.group or f"driftd-{name}"})
        self._connection = connection
        self._folder = home / "dead-letters" / f"kafka-{name}"
        self._clock = clock
        self._pulse = Pulse(clock)
        self._pause = AGAIN_S
        self._told = ""
        self._unreadable = 0

    def run(self, intake: Intake, stop: threading.Event) -> None:
        """Read until `stop` is set; a broker that fails is tried again, ever more slowly."""
        around = Surroundings(intake, self._pulse, self._clock, stop)
        self._pause, self._told = AGAIN_S, ""
        while not stop.is_set():
            try:
                self._read(around)
            except Unreadable as error:
                self._tell(error, around)
                self._step_over(error, around)
            except ClientError as error:
                self._tell(error, around)
            stop.wait(self._pause)
            self._pause = min(self._pause * 2, LONGEST_S)

    def health(self) -> Health:
        """How it is doing now."""
        return self._pulse.health()

    def _read(self, around: Surroundings) -> None:
        config, stop = self._config, around.stop
        with (
            closing(Consumer(self._connection, self._short, config.group, stop=stop)) as consumer,
            closing(Letters(self._connection, self._short, config.dead_letters, self._folder, stop)) as letters,
        ):
            timeout = self._connection.timeout.total_seconds()
            Reading(self._short, config, consumer, letters, around, timeout).run(self._answered)

    def _answered(self) -> None:
        self._pause, self._told = AGAIN_S, ""

    def _step_over(self, error: Unreadable, around: Surroundings) -> None:
        """What cannot be decoded so often in a row will never be: go on behind it."""
        self._unreadable += 1
        if self._unreadable < TRIES:
            return
        try:
            stepped = Stepping(self._short, self._connection, around).step_over(self._config.topics, error.why)
        except ClientError as failed:
            self._tell(failed, around)
            return
        if stepped:
            self._unreadable = 0

    def _tell(self, error: ClientError, around: Surroundings) -> None:
        """The broker does not do what is asked of it: in the health, and once as a problem."""
        if around.stop.is_set():
            return
        if self._told != str(error):
            deliver(around.intake, Batch(problems=(Problem("kafka", self.name, str(error)),)), around.stop, self._pulse)
            self._told = str(error)
        self._pulse.ails(str(error))
