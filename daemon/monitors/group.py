"""The partitions that a worker owns as a member of a consumer group: read, summed, and stored by compare-and-set.

What a partition's progress is, the store says: on assignment the daemon is asked for it, and the log is read from there. A
partition that another member has moved meanwhile is refused (Fenced) and taken up anew. Partitions that are far ahead of the
slowest pause, so that what waits to be put together stays bounded.

Nothing is passed over in silence: records that are gone before they were read (retention, a topic that was made anew, a log
that its brokers have cut) or cannot be decoded are a `source.gap`, stored with the progress behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from daemon.clients.kafka_errors import OffsetsGone, Partition, Unreadable
from daemon.clients.kafka_places import Gap, Place
from daemon.clients.kafka_stepping import TRIES
from daemon.core.errors import ClientError, Unavailable
from daemon.core.events import Event
from daemon.intake import Batch
from daemon.monitors.batches import batch_frame
from daemon.monitors.formats import format_of
from daemon.monitors.frames import Frame
from daemon.monitors.grouplog import GroupLog, OpenLog, PartitionName, missing
from daemon.monitors.held import FAULTS
from daemon.monitors.lulls import lull_over
from daemon.monitors.partition import Champions, PartitionMonitor, Portion
from daemon.monitors.plan import Champion, StreamPlan
from daemon.monitors.session import CHECKPOINT_S, Times
from daemon.monitors.slices import BEFORE, Head
from daemon.monitors.statekeys import head_key
from daemon.monitors.values import instant

AHEAD = 60
"""A partition pauses when it is so many slices ahead of the slowest."""
POLL_S = 0.05
"""How long a poll waits for records."""
RETRY_S, LONGEST_S = 1.0, 15.0
"""The first pause after a broker that did not answer; it doubles up to the other."""
LOOK_S = 1.0
"""How often the broker is asked how far its logs go: which partitions are idle, and how far we are behind."""
ANSWER_S = 1.5
"""How long that question may hold up the reading."""


@dataclass(slots=True)
class _Owned:
    """A partition that this worker has."""

    monitor: PartitionMonitor | None = None
    """None until the store has answered."""
    came_at: float = 0.0
    paused: bool = False
    """It is too far ahead."""
    careful: int = -1
    """Up to this offset records are looked at one by one: one of them could not be measured."""


class GroupSession:
    """A worker's share of one stream's partitions. At most one batch is under way."""

    def __init__(self, plan: StreamPlan, open_log: OpenLog, times: Times) -> None:
        self.plan = plan
        self.problem = ""
        self._times = times
        self._open_log = open_log
        self._log: GroupLog | None = None
        self._champions = Champions(plan)
        self._owned: dict[PartitionName, _Owned] = {}
        self._wanted: list[PartitionName] = []
        self._careful: dict[PartitionName, int] = {}
        self._sent: dict[PartitionName, int] = {}
        """What the batch under way says of its partitions."""
        self._under_way = False
        self._rows = 0
        self._stored_at = self._looked_at = self._answered_at = times.monotonic()
        self._retry_at = 0.0
        self._pause = RETRY_S
        self._far: dict[str, int] = {}
        self._tail = BEFORE
        self._notes: list[str] = []
        self._events: dict[str, Event] = {}
        """Gaps, and lulls that are over: to be stored with the progress behind them."""
        self._ends: dict[PartitionName, int] = {}
        self._fault = ""
        """How reading failed; it counts until the broker has answered again, and what could not be decoded is read."""
        self._wrong = ""
        """What the last look has found."""
        self._unreadable = 0
        """How often in a row a batch could not be decoded."""

    def champion(self, model: str, champion: Champion) -> None:
        """From now on rows of this version are measured, against this reference."""
        if self._champions.set(model, champion):
            for _, monitor in self._monitors():
                monitor.refresh()

    def frontier(self, far: Mapping[str, int], tail: int) -> None:
        """How far the stream's partitions are: by topic up to where idle ones are closed, and the slowest of all."""
        self._far, self._tail = dict(far), tail

    def opened(self, frame: Frame) -> None:
        """The store's word on partitions that were asked for."""
        blobs = iter(frame.blobs)
        for item in frame.body["partitions"]:
            stored = {key: next(blobs) for key in item["states"]}
            name = (item["topic"], item["partition"])
            if name not in self._owned or self._log is None:
                continue  # it went while the store was asked
            try:
                self._take_up(self._log, name, stored)
            except ClientError as error:
                self.problem = str(error)
                self._leave()

    def stored(self) -> None:
        """The batch under way is durable."""
        self._under_way = False
        if self._log is not None:
            self._log.mark({name: offset for name, offset in self._sent.items() if name in self._owned})

    def fenced(self) -> None:
        """Somebody else has moved a partition of the batch under way: ask the store again."""
        self._under_way = False
        self._events.clear()
        self._ask_again([name for name in self._sent if name in self._owned])

    def step(self) -> tuple[bool, Frame | None]:
        """Read and sum some records, if there is room; whether there were any, and what to ask or to have stored."""
        busy = False
        if not self._is_full():
            try:
                busy = self._read()
                self.problem = self._fault or self._wrong
            except ClientError as error:
                return True, self._failed(error)
        elif self._log is not None:
            self._look_ahead(self._log)
        if self._wanted:
            wanted, self._wanted = self._wanted, []
            return True, Frame("want", {"stream": self.plan.name, "partitions": wanted})
        passed = self._times.monotonic() - self._stored_at
        due = not self._under_way and self._changed() and (passed >= CHECKPOINT_S or not busy)
        if due and self._kept() and self._archived():
            return busy, self._batch()
        return busy, None

    def take_notes(self) -> list[str]:
        """What a log should say, since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def figures(self) -> dict[str, int]:
        """What it has."""
        return {
            "partitions": len(self._owned),
            "paused": sum(owned.paused for owned in self._owned.values()),
            "open_slices": sum(monitor.open_slices for _, monitor in self._monitors()),
        }

    def places(self) -> dict[str, Any]:
        """`topics`: how many partitions each has; `partitions`: those of this worker, each with topic, partition, offset and
        lag (the records behind the offset; None where that is not known).
        """
        found: list[dict[str, Any]] = []
        for (topic, number), owned in self._owned.items():
            head = owned.monitor.head if owned.monitor is not None else None
            end = self._ends.get((topic, number))
            lag = None if head is None or end is None or self._log is None else max(end - head.offset, 0)
            found.append({"topic": topic, "partition": number, "offset": head and head.offset, "lag": lag})
        log, topics = self._log, filter(None, (self.plan.predictions, self.plan.labels))
        counts = {} if log is None else {topic: log.partitions(topic) for topic in topics}
        return {"topics": counts, "partitions": found}

    def close(self) -> None:
        """Leave the group; what is not stored is forgotten."""
        self._leave()

    def _failed(self, error: ClientError) -> Frame | None:
        """The broker does not do what is asked of it: tell, and try again later. What was read until now is to be stored."""
        self.problem = self._fault = str(error)
        if isinstance(error, Unreadable):
            self._unreadable += 1
            if self._unreadable >= TRIES:
                self._step_over(error.why)
        frame = None
        if not self._under_way and self._changed() and self._kept() and self._archived():
            frame = self._batch()
        self._retry_at = self._times.monotonic() + self._pause
        self._pause = min(self._pause * 2, LONGEST_S)
        self._leave()
        return frame

    def _leave(self) -> None:
        """A reader that failed is of no use any more: another one joins, and asks the store where to begin."""
        self._owned.clear()
        self._wanted.clear()
        self._ends.clear()
        self._events.clear()
        if self._log is not None:
            self._log.close()
            self._log = None

    # -- reading

    def _is_full(self) -> bool:
        """The daemon is slower than the stream, or its disk is full: wait."""
        late = self._times.monotonic() - self._stored_at >= CHECKPOINT_S
        waits = (self._under_way and late and self._changed()) or self._times.monotonic() < self._retry_at
        return waits or not self._kept() or any(monitor.archive.problem for _, monitor in self._monitors())

    def _kept(self) -> bool:
        """Whether all dead letters are where they belong; while one finds no room nothing is read, and nothing stored."""
        waiting = [one.letters.problem for _, one in self._monitors() if not one.letters.kept()]
        self.problem = waiting[0] if waiting else self.problem
        return not waiting

    def _archived(self) -> bool:
        """Whether the rows of the next progress are in the archive; while it cannot be written nothing is read, nor stored."""
        waiting = [one.archive.problem for _, one in self._monitors() if not one.archive.kept()]
        self.problem = waiting[0] if waiting else self.problem
        return not waiting

    def _read(self) -> bool:
        if self._log is None:
            self._answered_at = self._times.monotonic()
            self._log = self._open_log(self.plan, self._assigned, self._revoked)
        try:
            came = self._log.poll(POLL_S)
        except OffsetsGone as gone:
            self._seek_again(self._log, gone)
            return True
        now = self._times.monotonic()
        anew = self._look_for_other_topics(self._log)
        for name, portion in came.items():
            owned = self._owned.get(name)
            if owned is None or owned.monitor is None or name in anew:
                continue
            self._add(name, owned, portion, now)
        self._pace(self._log)
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._look(self._log, now)
        return bool(came)

    def _add(self, name: PartitionName, owned: _Owned, portion: Portion, now: float) -> None:
        assert owned.monitor is not None
        owned.came_at = now
        self._unreadable = 0
        self._rows += len(portion.values)
        if portion.values and owned.monitor.head.idle and owned.monitor.head.frontier.closed > BEFORE:
            lull = lull_over(self.plan.name, owned.monitor.head, portion.offsets[0], self._times.now())
            self._events[lull.id] = lull
        if owned.monitor.head.offset < owned.careful:
            owned.monitor.add_carefully(portion)
            return
        try:
            owned.monitor.add(portion)
        except FAULTS as error:  # what it has done to the sums is not known: begin anew, and carefully
            self._notes.append(f"{name[0]}/{name[1]}: a batch cannot be measured ({type(error).__name__}: {error})")
            self._careful[name] = portion.next
            self._ask_again([name])

    def _pace(self, log: GroupLog) -> None:
        """Pause what is too far ahead of the slowest partition, and let the others go on."""
        limit = self._tail + AHEAD * self.plan.slice_us
        for name, owned in self._owned.items():
            if owned.monitor is None:
                continue
            ahead = self._tail > BEFORE and owned.monitor.head.complete > limit
            if ahead != owned.paused:
                (log.pause if ahead else log.resume)([name])
                owned.paused = ahead
                owned.came_at = self._times.monotonic()

    def _look(self, log: GroupLog, now: float) -> None:
        """Ask the broker how far its logs go. That it answers is the health; what lies between is the lag."""
        monitors = dict(self._monitors())
        try:
            self._wrong = missing(log, self.plan, unsure=not self._owned)
            self._ends = dict(log.ends(list(monitors), ANSWER_S))
        except Unavailable:
            if now - self._answered_at > log.timeout:
                raise
            self._wrong = f"the broker has not answered within {ANSWER_S:g} s"
            self._ends.clear()
            return
        self._answered_at = self._times.monotonic()
        if not self._unreadable:
            self._fault, self._pause = "", RETRY_S
        for name, monitor in monitors.items():
            if self._is_quiet(name, now) and self._ends.get(name, -1) <= monitor.head.offset:
                monitor.close(self._far.get(name[0], BEFORE))

    def _look_ahead(self, log: GroupLog) -> None:
        """How far the logs go while nothing is read of them: what waits is the lag."""
        now = self._times.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        try:
            self._ends = dict(log.ends([name for name, _ in self._monitors()], ANSWER_S))
        except ClientError:
            self._ends.clear()

    def _is_quiet(self, name: PartitionName, now: float) -> bool:
        """Whether a partition has brought nothing for a while, and may have slices that are open for want of it."""
        owned = self._owned[name]
        if owned.monitor is None or owned.paused or now - owned.came_at < self.plan.idle:
            return False
        return not owned.monitor.head.idle or owned.monitor.head.frontier.closed < self._far.get(name[0], BEFORE)

    # -- where there is nothing to read any more

    def _seek_again(self, log: GroupLog, gone: OffsetsGone) -> None:
        """Places that are not in the log: say what is lost, and go on where there is something."""
        for name, monitor in list(self._monitors()):
            if Partition(*name) in gone.partitions:
                self._go_on(log, name, monitor)

    def _look_for_other_topics(self, log: GroupLog) -> frozenset[PartitionName]:
        """Partitions whose topic was deleted and made anew, and may be full enough that our place is in them.

        Ids tell; what is known of them may be older or newer than what was read, so brokers have the last word.
        """
        ids = {topic: log.topic_id(topic) for topic in {topic for topic, _ in self._owned}}
        odd = [
            name
            for name, monitor in self._monitors()
            if not monitor.head.is_of(ids[name[0]]) and name[1] < log.partitions(name[0])
        ]
        return self._leave_old_topics(log, odd) if odd else frozenset()

    def _leave_old_topics(self, log: GroupLog, names: Sequence[PartitionName]) -> frozenset[PartitionName]:
        """Those of the partitions whose topic is not there any more, but another one of its name.

        What was read and is not stored may be of either: it is forgotten, and the new topic is read from its start.
        """
        ids = log.topic_ids(names, ANSWER_S)
        anew = [name for name, monitor in self._monitors() if not monitor.head.is_of(ids.get(name, ""))]
        self._ask_again(anew)
        return frozenset(anew)

    def _go_on(self, log: GroupLog, name: PartitionName, monitor: PartitionMonitor) -> None:
        head = monitor.head
        place, gap = log.seek(name, _place(head), head.written)
        self._move(name, monitor, place, gap)
        if self._owned[name].paused:
            log.pause([name])

    def _move(self, name: PartitionName, monitor: PartitionMonitor, place: Place, gap: Gap | None) -> None:
        assert self._log is not None
        monitor.move(place, max(1, self._log.partitions(name[0])))
        if gap is not None:
            self._tell(gap, monitor)
            self._careful.pop(name, None)
            self._owned[name].careful = -1

    def _step_over(self, why: str) -> None:
        """Batches that could not be decoded so often in a row never will be: go on behind them."""
        assert self._log is not None
        for name, monitor in self._monitors():
            head = monitor.head
            try:
                offset = self._log.behind(name, head.offset)
            except ClientError as error:
                self.problem = str(error)
                return
            if offset is not None:
                after = Place(head.topic_id, offset)
                gap = Gap(Partition(*name), _place(head), after, f"a batch in the log cannot be decoded: {why}")
                self._move(name, monitor, after, gap)
                self._unreadable = 0

    def _tell(self, gap: Gap, monitor: PartitionMonitor) -> None:
        event = gap.event("stream", self.plan.name, instant(self._times.now()), monitor.head.base)
        self._events[event.id] = event

    def _monitors(self) -> Iterator[tuple[PartitionName, PartitionMonitor]]:
        """The partitions that are read."""
        return ((name, owned.monitor) for name, owned in self._owned.items() if owned.monitor is not None)

    # -- partitions come and go

    def _assigned(self, names: Sequence[PartitionName]) -> None:
        self._ask_again(names)

    def _revoked(self, names: Sequence[PartitionName]) -> None:
        for name in names:
            self._owned.pop(name, None)

    def _ask_again(self, names: Sequence[PartitionName]) -> None:
        if names and self._log is not None:
            self._log.pause(names)  # until the store has answered
        for name in names:
            self._owned[name] = _Owned()
        self._wanted += [name for name in names if name not in self._wanted]

    def _take_up(self, log: GroupLog, name: PartitionName, stored: Mapping[str, bytes]) -> None:
        head = Head(*name, 0)
        known = stored.get(head_key(head))
        if known is not None:
            head = Head.from_json(orjson.loads(known))
        decoder = format_of(self.plan, head, stored)
        send = log.send if self.plan.dead_letter_topic else None
        monitor = PartitionMonitor(self.plan, self._champions, head, stored, decoder, send)
        place, gap = log.seek(name, None if known is None else _place(head), head.written)
        self._owned[name] = _Owned(monitor, self._times.monotonic(), careful=self._careful.get(name, -1))
        self._move(name, monitor, place, gap)
        log.resume([name])

    # -- storing

    def _changed(self) -> bool:
        return any(monitor.changed for _, monitor in self._monitors())

    def _batch(self) -> Frame | None:
        """What is to be stored, once brokers have said that it is of the topics that are known; None when they do not."""
        assert self._log is not None
        try:
            self._leave_old_topics(self._log, [name for name, monitor in self._monitors() if monitor.changed])
        except ClientError:
            return None
        return self._checkpoint() if self._changed() else None

    def _checkpoint(self) -> Frame:
        monitors = {name: monitor for name, monitor in self._monitors() if monitor.changed}
        parts = [monitor.checkpoint() for monitor in monitors.values()]
        batch = Batch(
            progress=tuple(progress for progress, _, _ in parts),
            states=tuple(write for _, writes, _ in parts for write in writes),
            problems=tuple(problem for _, _, problems in parts for problem in problems),
            events=tuple(self._events.values()),
        )
        self._events.clear()
        self._under_way = True
        self._stored_at = self._times.monotonic()
        self._sent = {name: monitor.head.offset for name, monitor in monitors.items()}
        rows, self._rows = self._rows, 0
        frame = batch_frame(self.plan.name, rows, batch)
        heads = [monitor.head.standing() for monitor in monitors.values()]
        return replace(frame, body={**frame.body, "role": "partitions", "heads": heads})


def _place(head: Head) -> Place:
    return Place(head.topic_id, head.offset, head.epoch)
