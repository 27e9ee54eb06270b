"""Where records go that cannot be read: to a dead-letter topic, else into files at home."""

from __future__ import annotations

import base64
import contextlib
import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import orjson

from daemon.clients.kafka_letters import Letter, LetterTopic
from daemon.core.problems import Problem
from daemon.kafkaparts import KafkaConnection
from daemon.sources.topics import Poison

KEPT = 10_000
"""Most files of a source: a topic of nothing but rubbish must not fill the disk."""
NAMED = 20
"""Most problems with a position of their own per batch; the others share one, and all are in their letters."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class NoRoom(Exception):
    """The disk is full: letters wait, and whoever has them reads no further."""


class Letters:
    """The dead letters of one source: in `topic` of the connection, else (and without one) in `folder`.

    A letter can be written twice, when the daemon dies before the batch of its record is stored; a file has the name of
    its record, so it is then the same file.
    """

    def __init__(self, connection: KafkaConnection, name: str, topic: str, folder: Path, stop: threading.Event) -> None:
        self._topic = topic
        self._folder = folder
        self._sender = LetterTopic(connection, name, topic, stop)

    def keep(self, poison: Sequence[Poison]) -> tuple[Problem, ...]:
        """Keep all these records; the problems to report. Raises NoRoom when one of them finds none on the disk."""
        if not poison:
            return ()
        refused = self._sender.send([_letter(one) for one in poison]) if self._topic else ["" for _ in poison]
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
        self._sender.close()

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


def _letter(one: Poison) -> Letter:
    record = one.record
    return Letter(one.partition, record.offset, record.timestamp, one.reason, record.value, record.key, record.headers)


def _shown(raw: bytes | None) -> str | dict[str, str] | None:
    """Bytes in JSON: as text where they are one."""
    if raw is None:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}
