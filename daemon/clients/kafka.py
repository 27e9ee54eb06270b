"""Reads Kafka's topics.

Nothing here decides where to read: progress is the caller's, positions are sought to, and what the group has committed is
never read, only written as a copy for tools that show lag. Records come as they are, per partition, of committed
transactions only.

Its errors: NotAuthenticated when the broker does not know us, Refused for what it will never do, OffsetsGone when a
position is no longer in the log, Unreadable when a batch cannot be decoded, Unavailable for all that may work later.
After an error of `poll` other than OffsetsGone a consumer is to be closed, and another one made.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.protocol.metadata import MetadataRequest
from kafka.structs import OffsetAndMetadata

from daemon.clients.kafka_connection import opening, settings, warn_if_slow
from daemon.clients.kafka_errors import SERVICE, Partition, named_errors
from daemon.core.errors import Unavailable
from daemon.kafkaparts import KafkaConnection

HEARTBEAT_MS = 1000
"""How soon a member learns that others have come or gone."""
REBALANCE_S = 2.0
"""How long a rebalance may take during one poll: one that is cut short begins anew."""
GIVE_UP_S = 60.0
"""A rebalance that takes longer is no rebalance any more."""
_UNDECODABLE = (ValueError, IndexError, RuntimeError, EOFError, struct.error, zlib.error)
"""What kafka-python raises, beside its own errors, where the bytes of a batch are not what they should be."""


class Record(Protocol):
    """A record as it lies in the log."""

    offset: int
    timestamp: int
    """Epoch milliseconds; -1 when unknown."""
    key: bytes | None
    value: bytes | None
    """None: a tombstone."""
    headers: Sequence[tuple[str, bytes | None]]


class Position(NamedTuple):
    """Where reading stands in a partition."""

    offset: int
    """The next one."""
    epoch: int
    """Of the leader who took the record before it; -1: not known. It tells whether the log is still the one that was read
    (KIP-320)."""


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought. A partition that is gained brings nothing before it is placed (`Consumer.place`)."""

    records: Mapping[Partition, Sequence[Record]]
    lost: frozenset[Partition] = frozenset()
    """No longer ours: somebody else may read them by now."""
    gained: frozenset[Partition] = frozenset()
    """Ours since now. One that is lost and gained at once was somebody else's in between."""
    rebalances: int = 0
    """How often the group has shared the partitions out anew, also where all of ours have stayed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How much comes at once, and how long a group waits for a member that says nothing."""

    fetch_bytes: int = 8 << 20
    partition_bytes: int = 1 << 20
    session_s: float = 10.0


class Consumer:
    """Reads partitions, of a group (`subscribe`) or of its own choice (`assign`). Not safe for several threads.

    `name` is what the broker sees in its logs. Once `stop` is set, nothing waits for the broker much longer: what it waits
    for is Unavailable.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        name: str,
        group: str | None = None,
        reading: Reading = Reading(),
        stop: threading.Event | None = None,
    ) -> None:
        self._timeout_ms = int(connection.timeout.total_seconds() * 1000)
        self._group = group
        self._held: set[Partition] = set()
        self._unplaced: set[Partition] = set()
        self._changes = _Changes()
        self._joining_since: float | None = None
        warn_if_slow()
        with opening(connection, stop) as self._begun:
            self._kafka = KafkaConsumer(
                **settings(connection, name),
                kafka_client=self._begun.client,
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                fetch_max_bytes=reading.fetch_bytes,
                max_partition_fetch_bytes=reading.partition_bytes,
                session_timeout_ms=int(reading.session_s * 1000),
                heartbeat_interval_ms=HEARTBEAT_MS,
            )
        # kafka-python does not hand this setting on; with it a broker might make the topics that we ask about.
        self._kafka._cluster.config["allow_auto_create_topics"] = False  # noqa: SLF001

    def subscribe(self, topics: Sequence[str]) -> None:
        """Share the topics' partitions with the other members of the group. They come as `gained` of a poll."""
        with named_errors("subscribe"):
            self._kafka.subscribe(topics, listener=_Listener(self._kafka, self._changes))

    def assign(self, positions: Mapping[Partition, int]) -> None:
        """Read these partitions, and no others, from these offsets on; also where it is now."""
        with named_errors("assign"):
            self._kafka.assign([TopicPartition(*partition) for partition in positions])
        self._held = set(positions)
        for partition, offset in positions.items():
            self.seek(partition, offset)

    def place(self, positions: Mapping[Partition, int], epochs: Mapping[Partition, int] | None = None) -> None:
        """Begin to read gained partitions at these offsets. One that was lost meanwhile is passed over.

        `epochs`: where known, of the offsets; see `seek`.
        """
        for partition in positions.keys() & self._unplaced:
            self.seek(partition, positions[partition], (epochs or {}).get(partition, -1))
            self._unplaced.discard(partition)
            self.resume([partition])

    def seek(self, partition: Partition, offset: int, epoch: int = -1) -> None:
        """Read the partition from this offset on. One that is not ours any more is passed over: the next `poll` tells.

        With the `epoch` of its Position the broker is asked whether its log is the one that this position is of: where it
        was cut meanwhile, the next `poll` raises OffsetsGone, also when it has grown past the offset again.
        """
        state = self._state(partition)
        if state is not None:  # kafka-python's own seek takes no epoch
            state.seek(OffsetAndMetadata(offset, "", epoch))

    def pause(self, partitions: Iterable[Partition] | None = None) -> None:
        """Bring nothing of these (None: of all), but stay in the group: `poll` goes on to be called."""
        for state in self._states(partitions):
            state.pause()

    def resume(self, partitions: Iterable[Partition] | None = None) -> None:
        """Go on with these (None: with all) after `pause`; what is not placed yet still brings nothing."""
        wanted = self._held if partitions is None else set(partitions)
        for state in self._states(wanted - self._unplaced):
            state.resume()

    def poll(self, most: int, timeout: float) -> Polled:
        """At most so many records, after at most so many seconds (and REBALANCE_S while a rebalance is under way)."""
        self._finish_joining()
        with named_errors("poll", _UNDECODABLE):
            found: Mapping[Any, list[Record]] = self._kafka.poll(timeout_ms=int(timeout * 1000), max_records=most)
        lost, gained, rebalances = self._changes.take(self._held)
        self._held = (self._held - lost) | gained
        self._unplaced = (self._unplaced - lost) | gained
        ours = self._held - self._unplaced
        came = {Partition(*place): records for place, records in found.items() if Partition(*place) in ours}
        self.pause(self._unplaced & found.keys())
        return Polled(came, frozenset(lost), frozenset(gained), rebalances)

    def positions(self) -> dict[Partition, int]:
        """The offset that comes next of each placed partition: behind everything that `poll` has returned.

        Those that a rebalance has taken, or taken and given back, since the last `poll` are left out.
        """
        return {partition: position.offset for partition, position in self.reached().items()}

    def reached(self) -> dict[Partition, Position]:
        """As `positions`, with the epochs."""
        found: dict[Partition, Position] = {}
        with self._changes.lock:
            placed = self._held - self._unplaced
            for partition in placed - self._changes.taken(placed):
                state = self._state(partition)
                if state is not None and state.position is not None:
                    found[partition] = Position(state.position.offset, state.position.leader_epoch)
        return found

    def starts(self, partitions: Iterable[Partition], timeout: float | None = None) -> dict[Partition, int]:
        """The first offset that is there of each partition."""
        return self._offsets(self._kafka.beginning_offsets, partitions, timeout)

    def ends(self, partitions: Iterable[Partition], timeout: float | None = None) -> dict[Partition, int]:
        """The offset behind the last committed record of each partition. An answer: the broker is there."""
        return self._offsets(self._kafka.end_offsets, partitions, timeout)

    def written_after(self, partition: Partition, written: int, timeout: float | None = None) -> int | None:
        """The first offset whose record was written after `written` (epoch ms, as the record says); None: there is none."""
        limit = self._timeout_ms if timeout is None else int(timeout * 1000)
        place = TopicPartition(*partition)
        with named_errors("offsets"):
            found = self._kafka.offsets_for_times({place: written + 1}, timeout_ms=limit).get(place)
        return None if found is None else int(found.offset)

    def partitions(self, topic: str) -> frozenset[Partition]:
        """The topic's partitions, as of the last refresh; none when there is no such topic."""
        numbers = self._kafka._cluster.partitions_for_topic(topic) or ()  # noqa: SLF001 - the public one asks the broker
        return frozenset(Partition(topic, number) for number in numbers)

    def topic_id(self, topic: str) -> str:
        """What tells a topic from another one of the same name, before or after it; empty when the broker has not said."""
        found = self._kafka._cluster.topic_id(topic)  # noqa: SLF001 - there is no public one
        return "" if found is None or not found.int else str(found)

    def topic_ids(self, partitions: Iterable[Partition], timeout: float | None = None) -> dict[Partition, str]:
        """The id of each partition's topic by the word of its leader: asks the brokers; empty where they do not say.

        What came before the answer is of this topic, or of one before it: ids never come back.
        """
        limit = self._timeout_ms if timeout is None else int(timeout * 1000)
        led: dict[Any, set[Partition]] = {}
        for partition in partitions:
            node = self._kafka._cluster.leader_for_partition(TopicPartition(*partition))  # noqa: SLF001 - as in topic_id
            led.setdefault(None if node == -1 else node, set()).add(partition)
        found: dict[Partition, str] = {}
        for node, mine in led.items():
            ids = self._ask_ids(node, {partition.topic for partition in mine}, limit)
            found |= {partition: ids.get(partition.topic, "") for partition in mine}
        if any(topic_id != self.topic_id(partition.topic) for partition, topic_id in found.items()):
            self._kafka._cluster.request_update()  # noqa: SLF001 - what is known is old
        return found

    def exists(self, topics: Iterable[str]) -> dict[str, bool]:
        """Whether there are such topics now: asks the broker."""
        with named_errors("topics"):
            there = self._kafka.topics()
        return {topic: topic in there for topic in topics}

    def commit(self, offsets: Mapping[Partition, int]) -> None:
        """Tell the group these offsets, for others to see. Nobody waits for it; what fails is told by the next one."""
        if self._group is None or not offsets:
            return
        told = {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
        with contextlib.suppress(kafka_errors.KafkaError):
            self._kafka.commit_async(told, callback=lambda _offsets, _answer: None)

    def close(self) -> None:
        """Leave the group, if that can be done soon, and let go of all connections."""
        with contextlib.suppress(kafka_errors.KafkaError, *_UNDECODABLE):
            self._kafka.close(autocommit=False, timeout_ms=min(self._timeout_ms, 1000))
        self._begun.close()

    def _state(self, partition: Partition) -> Any:
        """kafka-python's of a partition that is assigned now. Its `position` asks brokers, and tells news of other ones."""
        return self._kafka._subscription.assignment.get(TopicPartition(*partition))  # noqa: SLF001

    def _ask_ids(self, node: Any, topics: Iterable[str], limit: int) -> dict[str, str]:
        request = MetadataRequest(
            topics=[MetadataRequest.MetadataRequestTopic(name=topic) for topic in topics],
            allow_auto_topic_creation=False,
            include_cluster_authorized_operations=False,
            include_topic_authorized_operations=False,
        )
        manager = self._kafka._manager  # noqa: SLF001 - nothing public asks for single topics, or bypasses the cache

        async def ask() -> Any:
            return await manager.wait_for(manager.send(request, node_id=node), limit)

        with named_errors("topics"):
            answer = manager.run(ask)
        return {told.name: str(told.topic_id) for told in answer.topics if told.topic_id and told.topic_id.int}

    def _finish_joining(self) -> None:
        """When a rebalance has begun and not ended, end it; Unavailable when that takes for ever.

        kafka-python forgets a rebalance that it began because the topics' partitions changed when a poll ends before it
        does: then nothing would come any more, and nothing be said. So it is reminded, and given time.
        """
        coordinator = self._kafka._coordinator  # noqa: SLF001 - nothing public tells a forgotten rebalance
        if self._group is None or not coordinator.rejoining:
            self._joining_since = None
            return
        now = time.monotonic()
        self._joining_since = self._joining_since or now
        if now - self._joining_since > GIVE_UP_S:
            raise Unavailable(SERVICE, "join", f"the group {self._group} does not settle since {GIVE_UP_S:g} s")
        coordinator.request_rejoin()
        with named_errors("join"):
            coordinator.poll(timeout_ms=int(REBALANCE_S * 1000))

    def _states(self, partitions: Iterable[Partition] | None) -> list[Any]:
        """kafka-python's of those of the partitions (None: of all) that are ours now."""
        wanted = self._held if partitions is None else partitions
        return [state for partition in wanted if (state := self._state(partition)) is not None]

    def _offsets(
        self, ask: Callable[..., Mapping[Any, int]], partitions: Iterable[Partition], timeout: float | None
    ) -> dict[Partition, int]:
        places = [TopicPartition(*partition) for partition in partitions]
        if not places:
            return {}
        limit = self._timeout_ms if timeout is None else int(timeout * 1000)
        with named_errors("offsets"):
            return {Partition(*place): offset for place, offset in ask(places, timeout_ms=limit).items()}


class _Changes:
    """What a group's rebalances did to the partitions, noted by kafka-python's thread until the next poll returns.

    `lock` is held while positions are moved or looked at, so that whoever sees one that was moved sees the note too.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._now: frozenset[Partition] | None = None
        self._elsewhere: set[Partition] = set()
        self._count = 0

    def lost(self, partitions: Iterable[Any]) -> None:
        """They may have been somebody else's, whoever has them next."""
        with self.lock:
            self._elsewhere.update(Partition(*place) for place in partitions)
            self._now = frozenset()

    def assigned(self, partitions: Iterable[Any]) -> None:
        """These and no others are ours now."""
        with self.lock:
            self._now = frozenset(Partition(*place) for place in partitions)
            self._count += 1

    def taken(self, held: set[Partition]) -> set[Partition]:
        """Those of `held` that are somebody else's by now, or were since the last `take`."""
        with self.lock:
            return set() if self._now is None else held - (self._now - self._elsewhere)

    def take(self, held: set[Partition]) -> tuple[set[Partition], set[Partition], int]:
        """What is lost and what is gained by someone who holds `held`, and in how many rebalances."""
        with self.lock:
            if self._now is None:
                return set(), set(), 0
            lost = held - self._now | (held & self._elsewhere)
            gained = set(self._now - held) | (self._now & self._elsewhere)
            count, self._count = self._count, 0
            self._now, self._elsewhere = None, set()
            return lost, gained, count


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Runs in kafka-python's thread: it must not wait for anything."""

    def __init__(self, kafka: KafkaConsumer, changes: _Changes) -> None:
        self._kafka = kafka
        self._changes = changes
        self._generation = -1
        self._held: set[Any] = set()

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """A rebalance begins; what it takes is known when it ends."""

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        """The group went on without us."""
        self._changes.lost(lost)
        self._held = set()

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """A rebalance has ended. What stayed ours goes on where it was, unless a rebalance went by that we did not see.

        What went is noted also when it comes back by another rebalance, before anybody has asked.
        """
        places = set(assigned)
        generation = self._kafka.group_metadata().generation_id
        stayed = self._held & places if generation == self._generation + 1 else set()
        with self._changes.lock:
            self._changes.lost(self._held - stayed)
            for place in places - stayed:
                # Somewhere, so that nothing is looked for: it is placed before it brings anything.
                self._kafka.seek(place, 0)
                self._kafka.pause(place)
            self._changes.assigned(places)
        self._generation, self._held = generation, places
