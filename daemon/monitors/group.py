"""The partitions that a worker owns as a member of a consumer group: read, summed, and stored by compare-and-set.

What a partition's progress is, the store says: on assignment the daemon is asked for it, and the log is read from there. A
partition that another member has moved meanwhile is refused (Fenced) and taken up anew. Partitions that are far ahead of the
slowest pause, so that what waits to be put together stays bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson

from daemon.core.errors import BadInput, ClientError
from daemon.core.problems import Problem
from daemon.intake import Batch
from daemon.monitors.batches import batch_frame
from daemon.monitors.decoding import JsonFormat
from daemon.monitors.frames import Frame
from daemon.monitors.held import FAULTS
from daemon.monitors.partition import Champions, PartitionMonitor, Portion
from daemon.monitors.plan import Champion, StreamPlan
from daemon.monitors.session import CHECKPOINT_S, Times
from daemon.monitors.slices import BEFORE, Head
from daemon.monitors.statekeys import head_key

AHEAD = 60
"""A partition pauses when it is so many slices ahead of the slowest."""
POLL_S = 0.05
"""How long a poll waits for records."""
RETRY_S = 1.0
"""Between two looks at a broker that does not answer, and between looks for idle partitions."""

PartitionName = tuple[str, int]
"""Topic and number."""


class GroupLog(Protocol):
    """The logs of some topics, as a member of a consumer group reads them. All raise ClientError when there is no answer."""

    def poll(self, seconds: float) -> Mapping[PartitionName, Portion]:
        """The next records of the partitions that are not paused; waits for some at most so long.

        Assignments and revocations happen in here, and newly assigned partitions are paused.
        """
        ...

    def seek(self, name: PartitionName, offset: int) -> int:
        """Read a partition from here on, or from the first record that is there when this offset is not; from which one."""
        ...

    def pause(self, names: Sequence[PartitionName]) -> None:
        """Bring nothing of these for a while."""
        ...

    def resume(self, names: Sequence[PartitionName]) -> None:
        """Go on with these."""
        ...

    def ends(self, names: Sequence[PartitionName]) -> Mapping[PartitionName, int]:
        """The offsets behind the last records."""
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0 when it is not there."""
        ...

    def mark(self, offsets: Mapping[PartitionName, int]) -> None:
        """Tell the group how far was read; only for tools that show lag, so errors are nobody's business."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


OpenLog = Callable[
    [StreamPlan, Callable[[Sequence[PartitionName]], None], Callable[[Sequence[PartitionName]], None]], GroupLog
]
"""Joins the group of a stream; told are the partitions that came and those that went."""


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
        self._stored_at = self._looked_at = times.monotonic()
        self._retry_at = 0.0
        self._far = self._tail = BEFORE
        self._notes: list[str] = []
        self._problems: list[Problem] = []

    def champion(self, model: str, champion: Champion) -> None:
        """From now on rows of this version are measured, against this reference."""
        if self._champions.set(model, champion):
            for owned in self._owned.values():
                if owned.monitor is not None:
                    owned.monitor.refresh()

    def frontier(self, far: int, tail: int) -> None:
        """How far the stream's partitions are: the furthest of the predictions, and the slowest of all."""
        self._far, self._tail = far, tail

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
        self._problems.clear()
        self._ask_again([name for name in self._sent if name in self._owned])

    def step(self) -> tuple[bool, Frame | None]:
        """Read and sum some records, if there is room; whether there were any, and what to ask or to have stored."""
        busy = False
        if not self._is_full():
            try:
                busy = self._read()
                self.problem = ""
            except ClientError as error:
                self.problem = str(error)
                self._retry_at = self._times.monotonic() + RETRY_S
                self._leave()
        if self._wanted:
            wanted, self._wanted = self._wanted, []
            return True, Frame("want", {"stream": self.plan.name, "partitions": wanted})
        passed = self._times.monotonic() - self._stored_at
        if not self._under_way and self._changed() and self._kept() and (passed >= CHECKPOINT_S or not busy):
            return busy, self._checkpoint()
        return busy, None

    def take_notes(self) -> list[str]:
        """What a log should say, since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def figures(self) -> dict[str, int]:
        """What it has."""
        monitors = [owned.monitor for owned in self._owned.values() if owned.monitor is not None]
        return {
            "partitions": len(self._owned),
            "paused": sum(owned.paused for owned in self._owned.values()),
            "open_slices": sum(monitor.open_slices for monitor in monitors),
        }

    def close(self) -> None:
        """Leave the group; what is not stored is forgotten."""
        self._leave()

    def _leave(self) -> None:
        """A reader that failed is of no use any more: another one joins, and asks the store where to begin."""
        self._owned.clear()
        self._wanted.clear()
        if self._log is not None:
            self._log.close()
            self._log = None

    # -- reading

    def _is_full(self) -> bool:
        """The daemon is slower than the stream, or its disk is full: wait."""
        late = self._times.monotonic() - self._stored_at >= CHECKPOINT_S
        waits = (self._under_way and late and self._changed()) or self._times.monotonic() < self._retry_at
        return waits or not self._kept()

    def _kept(self) -> bool:
        """Whether all dead letters are where they belong; while one finds no room nothing is read, and nothing stored."""
        letters = [owned.monitor.letters for owned in self._owned.values() if owned.monitor is not None]
        waiting = [one for one in letters if not one.kept()]
        if waiting:
            self.problem = waiting[0].problem
        return not waiting

    def _read(self) -> bool:
        if self._log is None:
            self._log = self._open_log(self.plan, self._assigned, self._revoked)
        came = self._log.poll(POLL_S)
        now = self._times.monotonic()
        for name, portion in came.items():
            owned = self._owned.get(name)
            if owned is None or owned.monitor is None:
                continue
            owned.came_at = now
            self._rows += len(portion.values)
            if owned.monitor.head.offset < owned.careful:
                _one_by_one(owned.monitor, portion)
                continue
            try:
                owned.monitor.add(portion)
            except FAULTS as error:  # what it has done to the sums is not known: begin anew, and carefully
                self._notes.append(f"{name[0]}/{name[1]}: a batch cannot be measured ({type(error).__name__}: {error})")
                self._careful[name] = portion.next
                self._ask_again([name])
        self._pace(self._log)
        if now - self._looked_at >= RETRY_S:
            self._looked_at = now
            self._close_idle(self._log, now)
        return bool(came)

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

    def _close_idle(self, log: GroupLog, now: float) -> None:
        """Close the slices of partitions to whose end was read, and that have brought nothing for a while."""
        quiet = {
            name: owned.monitor
            for name, owned in self._owned.items()
            if owned.monitor is not None and not owned.paused and now - owned.came_at >= self.plan.idle
            and (not owned.monitor.head.idle or owned.monitor.head.frontier.closed < self._far)
        }  # fmt: skip
        if not quiet:
            return
        ends = log.ends(list(quiet))
        for name, monitor in quiet.items():
            if ends.get(name, -1) <= monitor.head.offset:
                monitor.close(self._far)

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
        of = max(1, log.partitions(name[0]))
        head = Head(*name, 0, of=of)
        if head_key(head) in stored:
            head = replace(Head.from_json(orjson.loads(stored[head_key(head)])), of=of)
        fields = self.plan.label_columns if name[0] == self.plan.labels else self.plan.columns
        decoder = JsonFormat(fields, self.plan.numbers)
        monitor = PartitionMonitor(self.plan, self._champions, head, stored, decoder)
        offset = log.seek(name, head.offset)
        if offset != head.offset:
            if head_key(head) in stored:
                self._gap(name, head.offset, offset)
            monitor.skip(offset)
        self._owned[name] = _Owned(monitor, self._times.monotonic(), careful=self._careful.get(name, -1))
        log.resume([name])

    def _gap(self, name: PartitionName, start: int, there: int) -> None:
        where = f"{name[0]}/{name[1]}@{start}"
        why = f"{there - start} records were gone before they were read: the topic keeps them too short"
        if there < start:
            why = f"the log ends before this offset: the topic was made anew or cut; it is read from {there} on"
        self._problems.append(Problem("record", where, why))

    # -- storing

    def _changed(self) -> bool:
        return any(owned.monitor is not None and owned.monitor.changed for owned in self._owned.values())

    def _checkpoint(self) -> Frame:
        monitors = {
            name: owned.monitor
            for name, owned in self._owned.items()
            if owned.monitor is not None and owned.monitor.changed
        }
        parts = [monitor.checkpoint() for monitor in monitors.values()]
        batch = Batch(
            progress=tuple(progress for progress, _, _ in parts),
            states=tuple(write for _, writes, _ in parts for write in writes),
            problems=(*(problem for _, _, problems in parts for problem in problems), *self._problems),
        )
        self._problems = []
        self._under_way = True
        self._stored_at = self._times.monotonic()
        self._sent = {name: monitor.head.offset for name, monitor in monitors.items()}
        rows, self._rows = self._rows, 0
        frame = batch_frame(self.plan.name, rows, batch)
        heads = [[m.head.topic, m.head.partition, m.head.of, m.head.complete] for m in monitors.values()]
        return replace(frame, body={**frame.body, "role": "partitions", "heads": heads})


def _one_by_one(monitor: PartitionMonitor, portion: Portion) -> None:
    """Add records one by one; one that cannot be measured is set aside."""
    for value, offset, timestamp in zip(portion.values, portion.offsets, portion.timestamps, strict=True):
        try:
            monitor.add(Portion((value,), (offset,), (timestamp,), offset + 1))
        except FAULTS as error:
            monitor.reject(value, offset, f"it cannot be measured ({type(error).__name__}: {error})")
    monitor.add(Portion((), (), (), portion.next))


def open_group(frame: Frame, open_log: OpenLog, times: Times) -> GroupSession:
    """The session that an `open` frame of the role `partitions` asks for. BadInput when it cannot be made."""
    body = frame.body
    try:
        session = GroupSession(StreamPlan.from_json(body["plan"]), open_log, times)
    except (KeyError, TypeError) as error:
        raise BadInput(f"the plan of a stream cannot be read: {error!r}") from error
    for model, champion in body["champions"].items():
        session.champion(model, Champion(**champion))
    session.frontier(*_frontier(body))
    return session


def _frontier(body: Mapping[str, Any]) -> tuple[int, int]:
    far, tail = body["frontier"]
    return int(far), int(tail)
