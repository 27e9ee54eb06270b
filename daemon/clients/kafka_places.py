"""Where in a topic reading stands, and what cannot be read any more: the same for topics of events and for streams."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from daemon.clients.kafka_errors import Partition
from daemon.core.canonical import content_id
from daemon.core.events import Event

DELETED = "records were deleted before they were read: their retention ran out, or somebody deleted them"
ANEW = (
    "the topic was deleted and made anew: what of the old one was not read is gone, the new one is read from its start"
)
CUT = "the log ends before what was read: its brokers have lost records; it is read again from where it is known"


@dataclass(frozen=True, slots=True)
class Place:
    """Where reading stands in a partition, as it is stored."""

    topic_id: str
    """Tells the topic from another one of its name; empty where the broker does not say."""
    offset: int
    """The next one to be read."""
    epoch: int = -1
    """Of the leader who took the record before it; -1: not known."""

    def is_of(self, topic_id: str) -> bool:
        """Whether it is a place in this topic, as far as that is known."""
        return not self.topic_id or not topic_id or self.topic_id == topic_id


@dataclass(frozen=True, slots=True)
class Gap:
    """What cannot be read any more: from where, where reading goes on, and why."""

    partition: Partition
    before: Place
    after: Place
    why: str

    def event(self, kind: Literal["kafka", "stream"], name: str, now: datetime, nth: int = 0) -> Event:
        """`source.gap` of a source (`kafka`) or a stream; the same gap is the same event.

        `nth` tells gaps apart that are the same by their places: a log can be lost twice.
        """
        before, after = self.before, self.after
        data: dict[str, Any] = {
            "source": name,
            "topic": self.partition.topic,
            "partition": self.partition.number,
            "from_offset": before.offset,
            "to_offset": after.offset,
            "why": self.why,
        }
        if before.is_of(after.topic_id) and before.offset <= after.offset:
            data["lost"] = after.offset - before.offset
        more = (nth,) if nth else ()
        places = (before.topic_id, before.offset, after.topic_id, after.offset)
        number = content_id("gap", *self.partition, *places, *more)
        return Event(number, f"{kind}:{name}", "source.gap", name, now, data)


def gap_of(partition: Partition, before: Place, topic_id: str, start: int, end: int) -> Gap | None:
    """What was lost when `before` is sought in a topic whose log goes from `start` to `end`; None when nothing was.

    A log that ends before the place has lost records that were read already: what comes now in their place is new. It is
    read from its start; whoever cannot tell what was read before has to look for a better place.
    """
    if not before.is_of(topic_id):
        return Gap(partition, before, Place(topic_id, start), ANEW)
    if before.offset < start:
        return Gap(partition, before, Place(topic_id, start), DELETED)
    if before.offset > end:
        return Gap(partition, before, Place(topic_id, start), CUT)
    return None
