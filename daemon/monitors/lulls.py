"""A lull of a partition that is over, as an event: who measures the log again needs to know what was closed in it."""

from __future__ import annotations

from daemon.core.canonical import content_id
from daemon.core.events import Event
from daemon.monitors.slices import Head
from daemon.monitors.values import instant


def lull_over(stream: str, head: Head, offset: int, now: int) -> Event:
    """`partition.closed`: before the record at this offset came, slices had been closed because none did. `now` in µs."""
    place = head.base + offset
    data = {
        "stream": stream, "topic": head.topic, "partition": head.partition, "offset": offset, "place": place,
        "until": instant(head.frontier.closed).isoformat(),
    }  # fmt: skip
    number = content_id("partition.closed", stream, head.topic, head.partition, place)
    return Event(number, f"stream:{stream}", "partition.closed", stream, instant(now), data)
