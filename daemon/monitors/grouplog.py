"""What a worker's share of a stream asks of the logs: a protocol, so that tests can have logs of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from daemon.clients.kafka_letters import Letter
from daemon.clients.kafka_places import Gap, Place
from daemon.monitors.partition import Portion
from daemon.monitors.plan import StreamPlan

PartitionName = tuple[str, int]
"""Topic and number."""


class GroupLog(Protocol):
    """The logs of some topics, as a member of a consumer group reads them. All raise ClientError when there is no answer."""

    @property
    def timeout(self) -> float:
        """After so many seconds without an answer its broker counts as away."""
        ...

    def poll(self, seconds: float) -> Mapping[PartitionName, Portion]:
        """The next records of the partitions that are not paused; waits for some at most so long.

        Assignments and revocations happen in here, and newly assigned partitions are paused. Raises OffsetsGone for
        partitions whose place is not in their log (they are to be sought anew), and Unreadable when a batch cannot be
        decoded (then nothing but `behind` and `close` is of use any more).
        """
        ...

    def seek(self, name: PartitionName, before: Place | None, written: int) -> tuple[Place, Gap | None]:
        """Read a partition from this place on (None: from its start), or from where its log goes on; and what is lost.

        `written`: when the newest record before this place had been written (ms since 1970), -1 when nobody knows.
        """
        ...

    def pause(self, names: Sequence[PartitionName]) -> None:
        """Bring nothing of these for a while."""
        ...

    def resume(self, names: Sequence[PartitionName]) -> None:
        """Go on with these."""
        ...

    def ends(self, names: Sequence[PartitionName], seconds: float) -> Mapping[PartitionName, int]:
        """The offsets behind the last records."""
        ...

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has, as far as is known; 0 when it is not there."""
        ...

    def topic_id(self, topic: str) -> str:
        """What tells the topic from another one of its name, as far as is known; empty when it is not."""
        ...

    def topic_ids(self, names: Sequence[PartitionName], seconds: float) -> Mapping[PartitionName, str]:
        """The same for the partitions' topics by the word of their brokers, asked now: what polls have brought until now is
        of these topics or of earlier ones, whatever `topic_id` knows.
        """
        ...

    def exists(self, topic: str) -> bool:
        """Whether there is such a topic: asks the broker."""
        ...

    def behind(self, name: PartitionName, offset: int) -> int | None:
        """Where a partition can be read again when nothing can be decoded at this offset; None when something can."""
        ...

    def send(self, letters: Sequence[Letter]) -> Sequence[str]:
        """Send records to the stream's dead-letter topic: why each was not sent, empty for those that are there."""
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


def missing(log: GroupLog, plan: StreamPlan, *, unsure: bool) -> str:
    """What to tell of topics that are not there; empty when all are. `unsure`: nothing else tells that the broker is there."""
    topics = [topic for topic in (plan.predictions, plan.labels) if topic]
    asked = [topic for topic in topics if not log.partitions(topic)]
    if unsure and not asked:
        asked = topics[:1]
    gone = [topic for topic in asked if not log.exists(topic)]
    return f"there is no topic {', '.join(gone)}: create it, or correct config.yaml" if gone else ""
