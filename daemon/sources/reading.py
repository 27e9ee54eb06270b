"""One member of a consumer group at work, as long as its broker answers: from polls to batches that are stored."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from daemon.clients.kafka import Consumer, Record
from daemon.clients.kafka_errors import OffsetsGone, Partition
from daemon.clients.kafka_places import CUT, Gap, Place, gap_of
from daemon.core.errors import StoreBusy, Unavailable
from daemon.core.events import Event
from daemon.core.problems import Problem
from daemon.intake import Batch, Intake
from daemon.kafkaparts import KafkaSource
from daemon.sources.delivery import Pulse
from daemon.sources.letters import Letters, NoRoom
from daemon.sources.topics import Poison, cursor_name, cursor_of, place_of, read, written_at

MOST = 1000
"""Most records of a poll, and so of a batch."""
POLL_S = 0.5
LOOK_S = 2.0
"""How often the broker is asked how far its logs go, and the group is told how far we are."""
STORE_S = 5.0
"""How long a batch waits to be stored before reading is paused."""
ANSWER_S = 1.5
"""How long one question may hold up the reading."""


RESTLESS, RESTLESS_S = 10, 60.0
"""So many rebalances in so long are told."""
FOREIGN_S = 10.0
"""Partitions that somebody else reads are told after so long: members change."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a reading works with, beside its broker."""

    intake: Intake
    pulse: Pulse
    clock: Callable[[], datetime]
    stop: threading.Event


class Reading:
    """What `name` reads. `timeout`: after so many seconds without an answer its broker counts as away."""

    def __init__(
        self,
        name: str,
        config: KafkaSource,
        consumer: Consumer,
        letters: Letters,
        around: Surroundings,
        timeout: float,
    ) -> None:
        self._name = name
        self._source = f"kafka:{name}"
        self._config = config
        self._consumer = consumer
        self._letters = letters
        self._around = around
        self._timeout = timeout
        self._stored: dict[Partition, Place] = {}
        """The places of our partitions, as they are stored."""
        self._gained: set[Partition] = set()
        """Partitions that are ours but not placed yet."""
        self._told: dict[Partition, int] = {}
        self._answered = self._foreign_since = time.monotonic()
        self._look_at = self._answered + LOOK_S
        self._rebalances: deque[float] = deque(maxlen=RESTLESS)
        """When the group last shared its partitions out anew."""
        self._wrong = ""
        self._last: datetime | None = None
        """When the newest record that was read had been written."""

    def run(self, on_answer: Callable[[], None]) -> None:
        """Read until everything stops; `on_answer` is called whenever the broker has answered. ClientError when it fails."""
        self._consumer.subscribe(self._config.topics)
        while not self._around.stop.is_set():
            self._turn()
            if time.monotonic() >= self._look_at:
                self._look()
                on_answer()

    def _turn(self) -> None:
        try:
            records = self._poll(MOST, POLL_S)
        except OffsetsGone as gone:
            self._find_gaps(gone)
            return
        if self._gained:
            self._place()
        self._look_for_other_topics()
        if records:
            self._take(records)

    def _poll(self, most: int, timeout: float) -> Mapping[Partition, Sequence[Record]]:
        polled = self._consumer.poll(most, timeout)
        for partition in polled.lost:
            self._stored.pop(partition, None)
        self._gained = (self._gained - polled.lost) | polled.gained
        self._rebalances.extend([time.monotonic()] * polled.rebalances)
        return polled.records

    # -- records

    def _take(self, found: Mapping[Partition, Sequence[Record]]) -> None:
        """Store the events of these records, with the places behind them.

        What is known of the topics may be older than the records: it is asked for now, and nothing of a topic that was made
        anew is taken with the place in the one before it.
        """
        anew = self._find_other_topics(self._consumer.topic_ids(found))
        found = {partition: records for partition, records in found.items() if partition not in anew}
        if not found:
            return
        now = self._around.clock()
        events: list[Event] = []
        problems: list[Problem] = []
        for partition, records in found.items():
            came, poison = read(self._name, partition, records, self._config.max_bytes, now)
            events += came
            problems += self._keep(poison)
        if self._around.stop.is_set():
            return
        times = [written_at(record, now) for records in found.values() for record in (records[0], records[-1])]
        self._last = max(times)
        self._store(events, self._places(found), problems, min(times))

    def _keep(self, poison: Sequence[Poison]) -> tuple[Problem, ...]:
        while not self._around.stop.is_set():
            try:
                return self._letters.keep(poison)
            except NoRoom as error:
                self._wait(str(error))
        return ()

    def _places(self, partitions: Iterable[Partition]) -> dict[Partition, Place]:
        """Where we are now in those of them that are still ours."""
        reached = self._consumer.reached()
        return {
            partition: Place(self._stored[partition].topic_id, *reached[partition])
            for partition in partitions
            if partition in reached and partition in self._stored
        }

    def _store(
        self,
        events: Sequence[Event],
        places: Mapping[Partition, Place],
        problems: Sequence[Problem] = (),
        since: datetime | None = None,
    ) -> None:
        """Hand over until it is durable, or everything stops. `since`: when the oldest of what is handed over was written."""
        cursors = tuple(cursor_of(self._source, partition, place) for partition, place in places.items())
        batch = Batch(events=tuple(events), cursors=cursors, problems=tuple(problems))
        paused = False
        while not self._around.stop.is_set():
            try:
                self._around.intake.submit(batch, STORE_S)
            except StoreBusy as error:
                self._around.pulse.behind(self._around.pulse.health().lag, since)
                self._wait(f"the store does not take events now: {error}")
                paused = True
                continue
            if events:
                self._around.pulse.took()
            self._stored |= {partition: place for partition, place in places.items() if partition in self._stored}
            break
        if paused:
            self._consumer.resume()

    def _wait(self, why: str) -> None:
        """Read nothing for a moment, but stay in the group. What changes hands meanwhile is placed afterwards."""
        self._around.pulse.ails(why)
        self._consumer.pause()
        for partition, records in self._poll(1, 1.0).items():
            self._consumer.seek(partition, records[0].offset)

    # -- places

    def _place(self) -> None:
        """Begin to read partitions that have become ours: where the store says, or where the source is to start."""
        fresh = sorted(self._gained)
        ids = self._consumer.topic_ids(fresh)
        starts, ends = self._consumer.starts(fresh), self._consumer.ends(fresh)
        known = {partition: self._known(partition) for partition in fresh}
        gaps: list[Gap] = []
        places: dict[Partition, Place] = {}
        for partition in fresh:
            before = known[partition]
            if before is None:
                late = self._config.start == "latest" and self._is_new(partition, ids[partition])
                places[partition] = Place(ids[partition], ends[partition] if late else starts[partition])
                continue
            gap = gap_of(partition, before, ids[partition], starts[partition], ends[partition])
            if gap is not None and gap.why == CUT and before.epoch >= 0:
                gap = None  # the next poll tells up to where it is the log that was read
            if gap is not None:
                gaps.append(gap)
            places[partition] = (
                gap.after if gap is not None else replace(before, topic_id=ids[partition] or before.topic_id)
            )
        self._stored |= places
        changed = {partition: place for partition, place in places.items() if place != known[partition]}
        if changed:
            self._store([gap.event("kafka", self._name, self._around.clock()) for gap in gaps], changed)
        offsets = {partition: place.offset for partition, place in places.items()}
        self._consumer.place(offsets, {partition: place.epoch for partition, place in places.items()})
        self._gained -= places.keys()

    def _known(self, partition: Partition) -> Place | None:
        return place_of(self._around.intake.cursor(cursor_name(self._source, partition)))

    def _is_new(self, partition: Partition, topic_id: str) -> bool:
        """Whether no partition of its topic was ever read: one that was added later is read from its start."""
        others = (self._known(other) for other in self._consumer.partitions(partition.topic))
        return not any(place is not None and place.is_of(topic_id) for place in others)

    def _find_gaps(self, gone: OffsetsGone) -> None:
        """Places that are not in the log: say what is lost, and go on where there is something."""
        asked = [partition for partition in gone.partitions if partition in self._stored]
        anew = self._find_other_topics(self._consumer.topic_ids(asked))
        mine = sorted(partition for partition in asked if partition not in anew and partition not in self._gained)
        starts, ends = self._consumer.starts(mine), self._consumer.ends(mine)
        reached = self._consumer.reached()
        for partition in mine:
            if partition not in reached or partition not in self._stored:
                continue  # it is somebody else's by now
            before = Place(self._stored[partition].topic_id, *reached[partition])
            gap = gap_of(partition, before, before.topic_id, starts[partition], ends[partition])
            if gone.cut or (gap is not None and gap.why == CUT):
                known = gone.ends.get(partition, starts[partition])
                offset = min(max(known, starts[partition]), ends[partition])
                gap = Gap(partition, before, Place(before.topic_id, offset), CUT)
            if gap is not None:
                self._go_on_behind(gap)

    def _look_for_other_topics(self) -> None:
        """A topic may have been deleted and made anew, and be full enough that our place is in it: its id tells.

        What is known of the ids may be older than the places, so brokers have the last word.
        """
        odd = [
            partition
            for partition, place in self._stored.items()
            if partition not in self._gained and not place.is_of(self._consumer.topic_id(partition.topic))
        ]
        if odd:
            self._find_other_topics(self._consumer.topic_ids(odd))

    def _find_other_topics(self, ids: Mapping[Partition, str]) -> frozenset[Partition]:
        """Those of the partitions whose topic was made anew, by its id: they are read from their start."""
        found: set[Partition] = set()
        for partition, topic_id in ids.items():
            place = self._stored.get(partition)
            if place is None or partition in self._gained or place.is_of(topic_id):
                continue
            found.add(partition)
            (start,) = self._consumer.starts([partition]).values()
            gap = gap_of(partition, place, topic_id, start, start)
            if gap is not None:
                self._go_on_behind(gap)
        return frozenset(found)

    def _go_on_behind(self, gap: Gap) -> None:
        self._store([gap.event("kafka", self._name, self._around.clock())], {gap.partition: gap.after})
        if gap.partition in self._stored and not self._around.stop.is_set():
            self._consumer.seek(gap.partition, gap.after.offset)

    # -- health

    def _look(self) -> None:
        """Ask the broker how far its logs go: that it answers is the health; what lies between is the lag."""
        self._look_at = time.monotonic() + LOOK_S
        there = [partition for topic in self._config.topics for partition in self._consumer.partitions(topic)]
        try:
            missing = self._missing()
            ends = self._consumer.ends(there, ANSWER_S)
        except Unavailable:
            if time.monotonic() - self._answered > self._timeout:
                raise
            self._around.pulse.ails(f"the broker has not answered within {ANSWER_S:g} s")
            return
        self._answered = time.monotonic()
        positions = self._consumer.positions()
        self._tell(missing or self._restless(), self._foreign(len(there) - len(positions), len(there)))
        lag = sum(max(ends[partition] - offset, 0) for partition, offset in positions.items() if partition in ends)
        self._around.pulse.behind(lag, self._last if lag else None)
        moved = {p: place for p, place in self._places(self._stored).items() if place != self._stored[p]}
        anew = self._find_other_topics(self._consumer.topic_ids(moved)) if moved else frozenset()
        if moved:  # behind marks of transactions, which are no records
            self._store([], {partition: place for partition, place in moved.items() if partition not in anew})
        told = {partition: place.offset for partition, place in self._stored.items()}
        if told != self._told:
            self._consumer.commit(told)
            self._told = told

    def _tell(self, wrong: str, odd: str) -> None:
        """It is alive; what is `wrong` is also a problem, what is only `odd` is not."""
        self._around.pulse.alive(wrong or odd)
        if wrong and wrong != self._wrong:
            self._store([], {}, [Problem("kafka", self._source, wrong)])
        self._wrong = wrong

    def _missing(self) -> str:
        topics = [topic for topic in self._config.topics if not self._consumer.partitions(topic)]
        exist = self._consumer.exists(topics) if topics else {}
        missing = [topic for topic in topics if not exist[topic]]
        return f"there is no topic {', '.join(missing)}: create it, or correct config.yaml" if missing else ""

    def _restless(self) -> str:
        since = time.monotonic() - RESTLESS_S
        while self._rebalances and self._rebalances[0] < since:
            self._rebalances.popleft()
        if len(self._rebalances) < RESTLESS:
            return ""
        group = self._config.group
        return f"members of group {group} come and go: {RESTLESS} rebalances and more within {RESTLESS_S:g} s"

    def _foreign(self, others: int, there: int) -> str:
        now = time.monotonic()
        if others <= 0:
            self._foreign_since = now
        if now - self._foreign_since < FOREIGN_S:
            return ""
        return (
            f"{others} of {there} partitions are read by other members of group {self._config.group}: right if they are "
            "driftds of this store, else give each a group of its own"
        )
