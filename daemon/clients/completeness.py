"""When a file in a watched folder is complete: a pure decision on what was seen of it.

Nothing in a file says that its writer has finished. There are three signs, and a folder is configured to trust one:

renamed   It was moved into place, or closed after writing. Both are notifications; without them (a file that landed
          while nobody watched, a network file system, a lost notification) a size that stands still has to do.
marker    `NAME.done` lies beside it.
stable    Its size and time have stood still for a while, by our own clock: the writer's clock may be wrong.

A file that some process has open for writing is not complete, however long that process pauses; the kernel tells us for
local files. An empty file is never complete by a notification: many writers create first and write later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Complete = Literal["renamed", "marker", "stable"]

LOST_CLOSE_S = 60.0
"""A file seen being created but never closed, on a system that cannot say who writes, is taken after so long a silence:
notifications get lost when the kernel's queue overflows."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of one file up to now."""

    size: int
    mtime_ns: int
    since: float
    """Monotonic seconds since which size and time have stood still."""
    settled: bool = False
    """Moved into place or closed after writing, and not changed since."""
    created: bool = False
    """Seen being created; its close was not seen yet."""
    asked: bool = False
    """The system was asked who writes it; before that `writing` says nothing."""
    writing: bool | None = None
    """Some process has it open for writing; None: the system cannot say."""
    marked: bool = False
    """`NAME.done` lies beside it and is not older than a change to a file that was taken before."""


def is_complete(sight: Sight, complete: Complete, stable_for: float, now: float) -> bool:
    """Whether the file may be taken at monotonic time `now`; `stable_for` in seconds."""
    if complete == "marker":
        return sight.marked
    if sight.writing:
        return False
    if complete == "renamed" and sight.settled and sight.size > 0:
        return True
    return now - sight.since >= quiet_for(sight, complete, stable_for)


def quiet_for(sight: Sight, complete: Complete, stable_for: float) -> float:
    """How many seconds the file must stand still where no notification and no marker speaks for it."""
    awaiting_close = complete == "renamed" and sight.created and sight.asked and sight.writing is None
    return max(stable_for, LOST_CLOSE_S) if awaiting_close else stable_for
