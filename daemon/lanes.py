"""What waits for the writer's next transaction, in two lanes: a few brief things, and the streams' many.

A few events must not wait behind a stream's hundreds: what is brief goes alone, so that its transaction is short, and the
streams' turn comes right after.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from daemon.ledger import Ledger

GROUP_EVENTS = 256
"""Most events in one transaction (a larger batch is one by itself): enough to share a disk sync, few enough to be short."""
QUEUE_BATCHES = 256
"""Most batches that wait in a lane; a full one pauses the sources."""


@dataclass(slots=True)
class Item:
    """Something to do in a transaction, and who waits for it."""

    work: Callable[[Ledger], Any]
    size: int
    future: Future[Any] = field(default_factory=Future)
    forever: bool = False
    """Nobody hands it in again: keep it until it is stored."""
    since: float = field(default_factory=time.monotonic)
    """When it was handed in."""

    def wanted(self) -> bool:
        """Whether somebody still waits for it, who cannot turn away from now on; one that was put back is under way already."""
        return self.future.running() or self.future.set_running_or_notify_cancel()


class Lanes:
    """What waits, and what is under way. Guarded by the writer's condition, all but `must_yield`."""

    def __init__(self) -> None:
        self._brief: deque[Item] = deque()
        self._streams: deque[Item] = deque()
        self._was_brief = False
        """What was taken last."""
        self._taken: float | None = None
        """Since when the oldest of what was taken last has waited; None when it is done."""

    def __len__(self) -> int:
        return len(self._brief) + len(self._streams)

    @property
    def oldest(self) -> float | None:
        """Since when the oldest has waited, also one that is under way; None when there is none."""
        firsts = [lane[0].since for lane in (self._brief, self._streams) if lane]
        return min(firsts if self._taken is None else [*firsts, self._taken], default=None)

    @property
    def must_yield(self) -> bool:
        """Something brief waits while a stream is under way."""
        return bool(self._brief) and not self._was_brief

    def has_room(self, *, brief: bool) -> bool:
        """Whether the lane takes one more."""
        return len(self._lane(brief=brief)) < QUEUE_BATCHES

    def put(self, item: Item, *, brief: bool) -> None:
        """One more waits."""
        self._lane(brief=brief).append(item)

    def put_back(self, items: Sequence[Item]) -> None:
        """These were taken and not done: they are the next of their lane. They are streams': only those yield."""
        self._streams.extendleft(reversed(items))

    def take(self) -> list[Item]:
        """What the next transaction is made of; none when nothing waits."""
        lane = self._lane(brief=bool(self._brief) and not (self._was_brief and self._streams))
        self._was_brief = lane is self._brief
        items: list[Item] = []
        size = 0
        while lane and size < GROUP_EVENTS:
            item = lane.popleft()
            items.append(item)
            size += item.size
        self._taken = min((item.since for item in items), default=None)
        return items

    def done(self) -> None:
        """What was taken is done with."""
        self._taken = None

    def take_all(self) -> list[Item]:
        """All that waits: it will not be done."""
        items = [*self._brief, *self._streams]
        self._brief.clear()
        self._streams.clear()
        return items

    def _lane(self, *, brief: bool) -> deque[Item]:
        return self._brief if brief else self._streams
