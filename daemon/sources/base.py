"""What every source is: a name, a loop that can stop, and its health."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from daemon.intake import Intake


@dataclass(frozen=True, slots=True)
class Health:
    """How a source is doing. `alive_at` moves whenever it reached its system, even when there was nothing new."""

    alive_at: datetime | None
    event_at: datetime | None
    problem: str
    """Empty when all is well; else what is wrong and what to do."""
    lag: int | None = None
    """Records that lie there and are not read yet; None: not known, or its system does not count them."""
    unread_at: datetime | None = None
    """When the oldest of them was written, or some time before that; None when there are none, or it is not known."""


class Source(Protocol):
    """A place that events come from. The app runs `run` in a thread of its own and restarts it when it raises."""

    @property
    def name(self) -> str:
        """`kind:name`, the `source` of its events and the key of its cursor."""
        ...

    def run(self, intake: Intake, stop: threading.Event) -> None:
        """Bring events to `intake` until `stop` is set; return within a second or two after that."""
        ...

    def health(self) -> Health:
        """How it is doing now; called from another thread."""
        ...
