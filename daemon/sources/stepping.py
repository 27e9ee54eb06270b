"""Batches in a topic's log that cannot be decoded (a broken checksum, an unknown codec): stepped over, with a gap.

kafka-python tells neither which partition nor how long the batch is, and a consumer that met one is of no use any more.
So each partition is tried alone, and the first offset behind the batch that can be read is sought: ever further away, then
halving. Whatever of the batch is readable before its broken part is not found this way: it is in the gap.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

from daemon.clients.kafka import Consumer
from daemon.clients.kafka_errors import Partition, Unreadable
from daemon.intake import Batch
from daemon.kafkaparts import KafkaConnection
from daemon.sources.delivery import deliver
from daemon.sources.reading import Surroundings
from daemon.sources.topics import Gap, Place, cursor_name, cursor_of, place_of

TRY_S = 5.0
"""How long a record may take to come before an offset counts as one behind which nothing comes yet."""


class Stepping:
    """Finds the partitions of the source `name` that are stuck, and moves their stored places on."""

    def __init__(self, name: str, connection: KafkaConnection, around: Surroundings) -> None:
        self._name = name
        self._connection = connection
        self._around = around

    def step_over(self, topics: Sequence[str], why: str) -> int:
        """Move on what is stuck; how many partitions were. ClientError when the broker fails meanwhile."""
        stuck = 0
        for partition in self._partitions(topics):
            key = cursor_name(f"kafka:{self._name}", partition)
            place = place_of(self._around.intake.cursor(key))
            if self._around.stop.is_set() or place is None or self._is_readable(partition, place.offset):
                continue
            after = Place(place.topic_id, self._behind(partition, place.offset))
            self._tell(Gap(partition, place, after, f"a batch in the log cannot be decoded: {why}"))
            stuck += 1
        return stuck

    def _tell(self, gap: Gap) -> None:
        event = gap.event(self._name, self._around.clock())
        cursor = cursor_of(f"kafka:{self._name}", gap.partition, gap.after)
        deliver(self._around.intake, Batch(events=(event,), cursors=(cursor,)), self._around.stop, self._around.pulse)

    def _partitions(self, topics: Sequence[str]) -> list[Partition]:
        with closing(self._consumer()) as consumer:
            consumer.exists(topics)
            return sorted(partition for topic in topics for partition in consumer.partitions(topic))

    def _behind(self, partition: Partition, offset: int) -> int:
        """The first offset behind `offset` from which on something can be read, or the log's end."""
        with closing(self._consumer()) as consumer:
            end = consumer.ends([partition])[partition]
        bad, step = offset, 1
        good = end
        while bad + step < end:
            if self._is_readable(partition, bad + step):
                good = bad + step
                break
            bad, step = bad + step, step * 2
        while good - bad > 1:
            middle = (bad + good) // 2
            if self._is_readable(partition, middle):
                good = middle
            else:
                bad = middle
        return good

    def _is_readable(self, partition: Partition, offset: int) -> bool:
        with closing(self._consumer()) as consumer:
            consumer.assign({partition: offset})
            until = time.monotonic() + TRY_S
            try:
                while time.monotonic() < until and not self._around.stop.is_set():
                    if consumer.poll(1, 0.2).records or consumer.positions().get(partition, 0) > offset:
                        return True
                    if consumer.ends([partition])[partition] <= offset:
                        return True
            except Unreadable:
                return False
        return True

    def _consumer(self) -> Consumer:
        return Consumer(self._connection, f"{self._name}-stepping", stop=self._around.stop)
