"""Batches in a topic's log that cannot be decoded (a broken checksum, an unknown codec): the first offset behind them.

kafka-python tells neither which partition nor how long the batch is, and a consumer that met one is of no use any more.
So each partition is tried alone, and the first offset behind the batch that can be read is sought: ever further away, then
halving. Whatever of the batch is readable before its broken part is not found this way: it is in the gap.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing

from daemon.clients.kafka import Consumer
from daemon.clients.kafka_errors import Partition, Unreadable
from daemon.kafkaparts import KafkaConnection

TRY_S = 5.0
"""How long a record may take to come before an offset counts as one behind which nothing comes yet."""
TRIES = 3
"""A batch that cannot be decoded is tried again so often before it is stepped over: the network may have spoiled it."""


class Stepper:
    """Tries offsets, for the source or stream `name`. All raise ClientError when the broker fails meanwhile."""

    def __init__(self, connection: KafkaConnection, name: str, stop: threading.Event | None = None) -> None:
        self._connection = connection
        self._name = name
        self._stop = stop or threading.Event()

    def behind(self, partition: Partition, offset: int) -> int | None:
        """Where reading can go on when nothing can be decoded at `offset`; None when something can, or nothing is there."""
        if self._stop.is_set() or self._is_readable(partition, offset):
            return None
        with closing(self.consumer()) as consumer:
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

    def consumer(self) -> Consumer:
        """One that reads nothing yet, of no group."""
        return Consumer(self._connection, f"{self._name}-stepping", stop=self._stop)

    def _is_readable(self, partition: Partition, offset: int) -> bool:
        with closing(self.consumer()) as consumer:
            consumer.assign({partition: offset})
            until = time.monotonic() + TRY_S
            try:
                while time.monotonic() < until and not self._stop.is_set():
                    if consumer.poll(1, 0.2).records or consumer.positions().get(partition, 0) > offset:
                        return True
                    if consumer.ends([partition])[partition] <= offset:
                        return True
            except Unreadable:
                return False
        return True
