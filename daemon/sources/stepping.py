"""A source whose topics have batches that cannot be decoded: steps over them, with a gap."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from daemon.clients.kafka_errors import Partition
from daemon.clients.kafka_places import Gap, Place
from daemon.clients.kafka_stepping import Stepper
from daemon.intake import Batch
from daemon.kafkaparts import KafkaConnection
from daemon.sources.delivery import deliver
from daemon.sources.reading import Surroundings
from daemon.sources.topics import cursor_name, cursor_of, place_of


class Stepping:
    """Finds the partitions of the source `name` that are stuck, and moves their stored places on."""

    def __init__(self, name: str, connection: KafkaConnection, around: Surroundings) -> None:
        self._name = name
        self._around = around
        self._stepper = Stepper(connection, name, around.stop)

    def step_over(self, topics: Sequence[str], why: str) -> int:
        """Move on what is stuck; how many partitions were. ClientError when the broker fails meanwhile."""
        stuck = 0
        for partition in self._partitions(topics):
            key = cursor_name(f"kafka:{self._name}", partition)
            place = place_of(self._around.intake.cursor(key))
            there = None if place is None else self._stepper.behind(partition, place.offset)
            if place is None or there is None:
                continue
            after = Place(place.topic_id, there)
            self._tell(Gap(partition, place, after, f"a batch in the log cannot be decoded: {why}"))
            stuck += 1
        return stuck

    def _tell(self, gap: Gap) -> None:
        event = gap.event("kafka", self._name, self._around.clock())
        cursor = cursor_of(f"kafka:{self._name}", gap.partition, gap.after)
        deliver(self._around.intake, Batch(events=(event,), cursors=(cursor,)), self._around.stop, self._around.pulse)

    def _partitions(self, topics: Sequence[str]) -> list[Partition]:
        with closing(self._stepper.consumer()) as consumer:
            consumer.exists(topics)
            return sorted(partition for topic in topics for partition in consumer.partitions(topic))
