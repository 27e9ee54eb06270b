"""Sources that do not reach their system: told once per stall, and over as soon as they reach it again."""

from __future__ import annotations

from datetime import datetime, timedelta

from daemon.core.events import Event
from daemon.sources.base import Source

STALLED = timedelta(minutes=2)
"""A source that has not reached its system for so long is stalled."""


class Stall:
    """The stall of one source, when there is one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._told = ""

    @property
    def lasts(self) -> bool:
        """Whether the source is stalled, and the store knows it."""
        return bool(self._told)

    def news(self, now: datetime) -> Event | None:
        """`source.stalled` when there is a stall that has not been told; None else, and a stall that is over is forgotten."""
        health = self._source.health()
        since = health.alive_at
        if since is None or now - since < STALLED:
            self._told = ""
            return None
        if self._told == since.isoformat():
            return None
        name, why = self._source.name, health.problem or "it has not reached its system"
        data = {"source": name, "since": since.isoformat(), "why": why}
        return Event(f"{name}@{since.isoformat()}", "driftd:health", "source.stalled", name, now, data)

    def tell(self, news: Event) -> None:
        """The news is stored."""
        self._told = news.data["since"]
