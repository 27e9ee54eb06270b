"""Problems: what came in and could not be used. Stored, counted and visible; nothing is dropped silently."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("record", "file", "rule", "config", "webhook", "kafka", "event", "worker", "registry", "kubernetes")
"""What kinds of problems there are."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that could not be used. The same problem again only counts up."""

    kind: str
    """One of KINDS."""
    where: str
    """File and position, or the sender."""
    reason: str
    """Why, in a sentence that says what to do."""
    dead_letter: str = ""
    """Where the raw thing was kept, when it was."""
