"""What sources share: their pulse, and handing a batch over until it is durable."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from daemon.core.errors import StoreBusy
from daemon.intake import Batch, Intake, Receipt
from daemon.sources.base import Health

BUSY_AGAIN_S = 1.0
"""How long to wait before a batch is handed over again that the store had no room for."""


class Pulse:
    """The health of one source: written by its own thread, read by others. It counts from when the source was made, so
    one that never reaches its system is found out too.
    """

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._health = Health(clock(), None, "")

    def alive(self, problem: str = "") -> None:
        """The source reached its system just now; `problem` is what is wrong all the same."""
        with self._lock:
            self._health = replace(self._health, alive_at=self._clock(), problem=problem)

    def took(self) -> None:
        """Something new came and is durable."""
        with self._lock:
            self._health = replace(self._health, event_at=self._clock())

    def ails(self, problem: str) -> None:
        """The source cannot reach its system, or the store, since some time: `alive_at` stands still."""
        with self._lock:
            self._health = replace(self._health, problem=problem)

    def behind(self, lag: int | None, unread_at: datetime | None) -> None:
        """So much lies there unread; see Health."""
        with self._lock:
            self._health = replace(self._health, lag=lag, unread_at=unread_at)

    def health(self) -> Health:
        """How it is doing now."""
        with self._lock:
            return self._health


def deliver(intake: Intake, batch: Batch, stop: threading.Event, pulse: Pulse) -> Receipt | None:
    """Hand `batch` over, again and again while the store is busy; None when `stop` was set before it was durable.

    A source waits here: it reads nothing more while the store cannot take what it has, and nothing is dropped.
    """
    while not stop.is_set():
        try:
            receipt = intake.submit(batch)
        except StoreBusy as error:
            pulse.ails(f"the store does not take events now: {error}")
            stop.wait(BUSY_AGAIN_S)
        else:
            if batch.events:
                pulse.took()
            return receipt
    return None
