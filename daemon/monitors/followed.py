"""A stream as the supervisor follows it: what is open where, what is wrong, and how far its partitions are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import orjson

from daemon.core.canonical import content_id
from daemon.core.events import Event
from daemon.monitors.plan import StreamPlan

NOWHERE = -(2**62)
"""Where a partition stands that has brought nothing (slices.BEFORE, which is not imported: it needs numpy)."""


@dataclass(slots=True)
class Followed:
    """One stream."""

    plan: StreamPlan
    home: int
    """The slot that reads its files, or puts its slices together."""
    brought: datetime
    """When it last brought rows; at first, when the supervisor began."""
    told: datetime | None = None
    """The `brought` of the stall that was reported."""
    problems: dict[tuple[int, str], str] = field(default_factory=dict)
    """Slot and role -> why nothing can be read there."""
    figures: dict[tuple[int, str], Mapping[str, int]] = field(default_factory=dict)
    skip: dict[str, str] = field(default_factory=dict)
    """Files that cannot be measured, and why: given up when the stream is opened again."""
    heads: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """Topic and partition -> partitions of the topic, and up to which event time (µs) it is complete."""

    def roles(self, slots: int) -> Iterator[tuple[int, str]]:
        """What must be open, and in which slot."""
        if self.plan.kind == "files":
            yield self.home, "files"
            return
        yield self.home, "windows"
        for slot in range(slots):
            yield slot, "partitions"

    @property
    def role(self) -> str:
        """Of the session that has the windows."""
        return "files" if self.plan.kind == "files" else "windows"

    @property
    def problem(self) -> str:
        """What is wrong now, if anything. May be asked from any thread."""
        return next((problem for problem in list(self.problems.values()) if problem), "")

    def restore_heads(self, states: Mapping[str, bytes]) -> None:
        """Take up what the store says of the partitions."""
        for key, blob in states.items():
            if key.startswith("part/") and key.endswith("/head"):
                head = orjson.loads(blob)
                self.heads[head["topic"], head["partition"]] = (head["of"], head["complete"])

    @property
    def frontier(self) -> tuple[int, int]:
        """How far the furthest partition of the predictions is, and the slowest of all."""
        far = max(
            (time for (topic, _), (_, time) in self.heads.items() if topic == self.plan.predictions), default=NOWHERE
        )
        topics = [self.plan.predictions, *([self.plan.labels] if self.plan.labels else [])]
        return far, min(map(self._slowest, topics))

    def stalled(self, since: datetime, limit: timedelta, now: datetime) -> Event:
        """That it brings nothing although it should."""
        name = self.plan.name
        why = self.problem or f"no predictions for {limit}"
        data = {"source": f"stream:{name}", "since": since.isoformat(), "why": why}
        identity = content_id("stalled", name, since.isoformat())
        return Event(identity, f"stream:{name}", "source.stalled", f"stream:{name}", now, data)

    def _slowest(self, topic: str) -> int:
        heads = [head for (name, _), head in self.heads.items() if name == topic]
        if not heads or len(heads) < max(of for of, _ in heads):
            return NOWHERE
        return min(time for _, time in heads)
