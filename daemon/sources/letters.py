"""Where records go that cannot be read: to a dead-letter topic, else into files at home."""

from __future__ import annotations

import base64
import contextlib
import errno
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import orjson

from daemon.clients.kafka_producer import Outgoing, Producer
from daemon.core.errors import ClientError
from daemon.core.problems import Problem
from daemon.kafkaparts import KafkaConnection
from daemon.sources.topics import Poison

KEPT = 10_000
"""Most files of a source: a topic of nothing but rubbish must not fill the disk."""
NAMED = 20
"""Most problems with a position of their own per batch; the others share one, and all are in their letters."""
AGAIN_S = 30.0
"""After a topic that could not be written it is not tried again for so long."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class NoRoom(Exception):
    """The disk is full: letters wait, and whoever has them reads no further."""


class Letters:
    """The dead letters of one source: in `topic` of the connection, else (and without one) in `folder`.

    A letter can be written twice, when the daemon dies before the batch of its record is stored; a file has the name of
    its record, so it is then the same file.
    """

    def __init__(self, connection: KafkaConnection, name: str, topic: str, folder: Path, stop: threading.Event) -> None:
        self._connection = connection
        self._name = name
        self._topic = topic
        self._folder = folder
        self._stop = stop
        self._producer: Producer | None = None
        self._not_before = 0.0
        self._why = ""

    def keep(self, poison: Sequence[Poison]) -> tuple[Problem, ...]:
        """Keep all these records; the problems to report. Raises NoRoom when one of them finds none on the disk."""
        if not poison:
            return ()
        refused = self._send(poison) if self._topic else ["" for _ in poison]
        problems = []
        for one, why in zip(poison, refused, strict=True):
            if self._topic and not why:
                problems.append(Problem("kafka", one.where, one.reason, f"topic {self._topic}"))
                continue
            path, lost = self._write(one)
            told = f" (dead-letter topic {self._topic} does not take it: {why})" if why else ""
            problems.append(Problem("kafka", one.where, f"{one.reason}{told}{lost}", path))
        if len(problems) <= NAMED:
            return tuple(problems)
        rest = problems[NAMED:]
        more = f"this and {len(rest) - 1} more records behind it cannot be read; the first: {rest[0].reason}"
        return (*problems[:NAMED], Problem("kafka", rest[0].where, more, rest[0].dead_letter))

    def close(self) -> None:
        """Let go of the connection."""
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def _send(self, poison: Sequence[Poison]) -> list[str]:
        """Why each was not sent; empty for those that were."""
        if time.monotonic() < self._not_before:
            return [self._why for _ in poison]
        try:
            if self._producer is None:
                self._producer = Producer(self._connection, f"{self._name}-dead-letters", self._stop)
            answers = self._producer.send(self._topic, [self._letter(one) for one in poison])
        except ClientError as error:
            return [self._give_up(error) for _ in poison]
        for answer in answers:
            if answer is not None and not answer.hint:  # not this record's own fault
                self._give_up(answer)
                break
        return ["" if answer is None else answer.why for answer in answers]

    def _give_up(self, error: ClientError) -> str:
        self._not_before = time.monotonic() + AGAIN_S
        self._why = error.why
        self.close()
        return error.why

    def _letter(self, one: Poison) -> Outgoing:
        """The record as it was, with why and where from."""
        told = {
            "driftd.reason": one.reason,
            "driftd.source": self._name,
            "driftd.topic": one.partition.topic,
            "driftd.partition": str(one.partition.number),
            "driftd.offset": str(one.record.offset),
            "driftd.timestamp": str(one.record.timestamp),
        }
        headers = [(name, raw or b"") for name, raw in one.record.headers]
        headers += [(name, text.encode("utf-8", "backslashreplace")) for name, text in told.items()]
        return Outgoing(one.record.value, one.record.key, tuple(headers))

    def _write(self, one: Poison) -> tuple[str, str]:
        """Path of the letter, or an empty one and what to add to the reason."""
        name = f"{one.partition.topic}-{one.partition.number}-{one.record.offset}.json"
        target = self._folder / name
        part = self._folder / f".{name}.part"
        letter = {
            "record": one.where,
            "reason": one.reason,
            "timestamp": one.record.timestamp,
            "key": _shown(one.record.key),
            "value": _shown(one.record.value),
            "headers": [[header, _shown(raw)] for header, raw in one.record.headers],
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not target.exists() and sum(1 for _ in self._folder.iterdir()) >= KEPT:
                return "", f" (not kept: {self._folder} holds {KEPT} letters)"
            part.write_bytes(orjson.dumps(letter))
            part.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            if error.errno in _NO_ROOM:
                raise NoRoom(f"there is no room for dead letters in {self._folder}") from error
            return "", f" (not kept: {error.strerror or error})"
        return str(target), ""


def _shown(raw: bytes | None) -> str | dict[str, str] | None:
    """Bytes in JSON: as text where they are one."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}
