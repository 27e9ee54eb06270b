"""Under which keys the parts of a stream on Kafka lie in the store: `part/TOPIC/PARTITION/…`; all others are the closer's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it needs numpy, which the daemon process goes without
    from daemon.monitors.slices import Head


def part_prefix(topic: str, partition: int) -> str:
    """Of everything that the partition's owner stores."""
    return f"part/{topic}/{partition}/"


def head_key(head: Head) -> str:
    """Where the partition stands."""
    return f"{part_prefix(head.topic, head.partition)}head"


def slice_prefix(head: Head) -> str:
    """Of the sums of the partition's slices."""
    return f"{part_prefix(head.topic, head.partition)}slice/"


def slice_key(head: Head, slice_: tuple[int, int]) -> str:
    """The sums of one slice [start, end)."""
    return f"{slice_prefix(head)}{slice_[0]}:{slice_[1]}"


def halves_key(head: Head) -> str:
    """What a partition's format remembers."""
    return f"{part_prefix(head.topic, head.partition)}halves"


def is_part(key: str) -> bool:
    """It is a partition's."""
    return key.startswith("part/")
