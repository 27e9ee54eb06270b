"""Named fault points: places where a crash must do no harm, and where a test makes one.

A point is a call of `on_point(Point.X)`; in production that does nothing. Tests pass a function that ends the process at
the nth pass of a point, so that every gap between a write and what follows it is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class Point(Enum):
    """Where a crash may come."""

    SUBMITTED = "a batch is queued, nothing is stored"
    BEFORE_COMMIT = "all is written, nothing is committed"
    AFTER_COMMIT = "it is committed, nobody has been told"
    RECEIPTED = "receipts are given, calls are not yet at work"
    BEFORE_HANDLER = "a call is claimed, its handler has not begun"
    AFTER_HANDLER = "the handler has answered, nobody knows"
    AFTER_SETTLING = "the outcome is committed, the worker is not free yet"
    RULES_LOADED = "a new rule set is read, but not yet in force"
    HEAD_EXPORTED = "the audit head is exported, its run has ended"
    LANDED = "a landed file is read, its event is not handed in yet"
    MEASURED = "what was measured is stored, its worker has not been told"
    JOB_MADE = "a job's folder is there, its shim is not started"
    JOB_STARTED = "a job's shim is started, its handler does not know"
    SHIFTED = "the gateway has split the traffic anew, its handler does not know"
    REGISTRY_CHANGED = "the registry has a new alias or tag, its handler does not know"


OnPoint = Callable[[Point], None]


def no_point(_point: Point) -> None:
    """Production: pass on."""
