"""The local gateway's prediction log on its way to the topic of a stream of kind `kafka`, where it is measured.

The gateway writes files, whatever becomes of daemon and broker; what it has closed is sent from here, a record per line, keyed
by the unit or else the id. How far that is lies in the store, and moves once the brokers have the records. So none is missing
from the topic; of a daemon that dies in between, up to BLOCK records are there twice.

Files from before a stream was first watched are not sent: a log that was measured from its folder is not measured again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from daemon.clients.kafka_producer import Outgoing, Producer
from daemon.config import Config, Fields
from daemon.core.errors import ClientError, Refused
from daemon.core.problems import Problem
from daemon.gateway.log import SENT, closed_after, stamp
from daemon.gateway.targets import dig
from daemon.intake import Batch, Cursor, Intake
from daemon.kafkaparts import KafkaConnection
from daemon.sources.base import Health
from daemon.sources.delivery import Pulse, deliver

POLL_S = 0.25
"""How often the folder is looked at."""
AGAIN_S, LONGEST_S = 1.0, 30.0
"""The first pause after a broker that did not answer; it doubles up to the other."""
BLOCK = 500
"""Most records that are under way."""


class GatewayLogSource:
    """Sends the log of one serving target to a topic. A Source that brings no events, only problems."""

    def __init__(
        self, target: str, place: tuple[Path, str, Fields], connection: KafkaConnection, clock: Callable[[], datetime]
    ) -> None:
        """`place`: the folder of the log, the topic, and what the fields of a record are called."""
        self.name = SENT + target
        self._target = target
        self._folder, self._topic, self._fields = place
        self._connection = connection
        self._clock = clock
        self._pulse = Pulse(clock)
        self._pause = AGAIN_S
        self._told = ""

    def run(self, intake: Intake, stop: threading.Event) -> None:
        """Send what the gateway has closed until `stop` is set; a broker that fails is tried again, ever more slowly."""
        self._pause, self._told = AGAIN_S, ""
        if intake.cursor(self.name) is None:
            self._move(intake, stop, stamp(self._clock()), 0)
        while not stop.is_set():
            try:
                with closing(Producer(self._connection, f"{self._target}-log", stop)) as producer:
                    self._send_all(producer, intake, stop)
            except ClientError as error:
                self._tell(error, intake, stop)
            stop.wait(self._pause)
            self._pause = min(self._pause * 2, LONGEST_S)

    def health(self) -> Health:
        """How it is doing now."""
        return self._pulse.health()

    def _send_all(self, producer: Producer, intake: Intake, stop: threading.Event) -> None:
        while not stop.is_set():
            cursor = intake.cursor(self.name)
            for path in closed_after(self._folder, self._target, cursor["file"], cursor["lines"] > 0):
                first = cursor["lines"] if path.name == cursor["file"] else 0
                self._send_file(producer, path, first, (intake, stop))
                if stop.is_set():
                    return
            self._pulse.alive()
            self._pause = AGAIN_S
            stop.wait(POLL_S)

    def _send_file(self, producer: Producer, path: Path, first: int, around: tuple[Intake, threading.Event]) -> None:
        """Send the lines of a file from `first` on."""
        intake, stop = around
        lines = path.read_bytes().splitlines()
        for start in range(first, len(lines), BLOCK):
            block = lines[start : start + BLOCK]
            problems = self._send(producer, block, f"{path}:{start + 1}")
            end = start + len(block)
            self._pulse.alive()
            self._pause, self._told = AGAIN_S, ""
            # 0 lines: the whole file is done.
            self._move(intake, stop, path.name, 0 if end == len(lines) else end, problems)
            if stop.is_set():
                return

    def _send(self, producer: Producer, lines: Sequence[bytes], where: str) -> list[Problem]:
        """Send some lines until the brokers have all; those that no broker takes are problems. ClientError when it fails."""
        answers = producer.send(self._topic, [Outgoing(line, self._key(line)) for line in lines])
        failed = [answer for answer in answers if answer is not None]
        lost = next((answer for answer in failed if not isinstance(answer, Refused) or not answer.hint), None)
        if lost is not None:
            raise lost
        return [
            Problem("record", where, f"topic {self._topic} does not take it: {answer.why}") for answer in failed[:1]
        ]

    def _key(self, line: bytes) -> bytes | None:
        try:
            record: Mapping[str, Any] = orjson.loads(line)
        except ValueError:
            return None
        unit = dig(record, self._fields.unit) if self._fields.unit else None
        key = dig(record, self._fields.id) if unit is None else unit
        return None if key is None else str(key).encode()

    def _move(
        self, intake: Intake, stop: threading.Event, file: str, lines: int, problems: Sequence[Problem] = ()
    ) -> None:
        cursor = Cursor(self.name, {"file": file, "lines": lines})
        deliver(intake, Batch(cursors=(cursor,), problems=tuple(problems)), stop, self._pulse)

    def _tell(self, error: ClientError, intake: Intake, stop: threading.Event) -> None:
        """The broker does not do what is asked of it: in the health, and once as a problem."""
        if stop.is_set():
            return
        if self._told != str(error):
            deliver(intake, Batch(problems=(Problem("kafka", self.name, str(error)),)), stop, self._pulse)
            self._told = str(error)
        self._pulse.ails(str(error))


def gateway_logs(config: Config, clock: Callable[[], datetime]) -> list[GatewayLogSource]:
    """One for each model whose stream is a topic of records as the gateway writes them."""
    found: list[GatewayLogSource] = []
    for name, model in config.models.items():
        stream = config.streams.get(model.stream or "")
        if stream is not None and stream.topic is not None and stream.format == "json":
            place = (config.home / stream.predictions, stream.topic, stream.fields)
            found.append(GatewayLogSource(model.serving or name, place, config.kafka[stream.connection], clock))
    return found
