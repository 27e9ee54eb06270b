"""How the daemon is doing: one account for `driftd status`, for probes and for Prometheus.

Ready means that what comes in is taken, and that no source is silently stuck: a source that has not reached its system for
two minutes is told once as `source.stalled`, and a stream that has had something wrong for as long counts as stuck too. All
is read from memory: asking costs no disk, and waits for none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from daemon import __version__
from daemon.core.errors import DaemonError
from daemon.intake import Batch
from daemon.monitors.supervisor import Supervisor
from daemon.sources.base import Source
from daemon.sources.stalls import STALLED, Stall
from daemon.writer import Writer

LOOK_S = 5.0
"""How often sources are looked at for stalls."""
HANGS_S = 120.0
"""A writer that has been at one transaction for so long hangs; a slow disk takes seconds, and a locked store is tried again."""
STARTING, STOPPING = "driftd is starting", "driftd is stopping"


@dataclass(slots=True)
class _Watched:
    source: Source
    stall: Stall


class Condition:
    """What is looked at, and what it says. `status` and `deadly` may be called from any thread."""

    def __init__(self, writer: Writer, streams: Supervisor, clock: Callable[[], datetime]) -> None:
        self.phase = STARTING
        """Why it cannot be ready yet, or no more; empty in between."""
        self._writer = writer
        self._streams = streams
        self._clock = clock
        self._watched: list[_Watched] = []
        self._ailing: dict[str, datetime] = {}
        """Streams that have something wrong, and since when."""
        self._log = structlog.get_logger("app")

    def watch(self, source: Source) -> None:
        """Look after this one too."""
        self._watched.append(_Watched(source, Stall(source)))

    def run(self, stop: threading.Event) -> None:
        """Look for stalls until `stop` is set."""
        while not stop.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Look for stalls now."""
        now = self._clock()
        for watched in self._watched:
            self._tell_stall(watched, now)
        self._ailing = {stream: self._ailing.get(stream, now) for stream in self._streams.problems()}

    def status(self) -> dict[str, Any]:
        """All of it, as JSON values; `ready` says whether a probe should be content, and `reasons` why not."""
        writer, standing = self._writer, self._writer.standing
        stuck = self._stuck()
        reasons = [*self._reasons(), *(f"{name} is stuck: {why}" for name, why in stuck.items())]
        return {
            "version": __version__,
            "ready": not reasons,
            "reasons": reasons,
            "epoch": writer.epoch,
            "seq": standing.seq,
            "recorded_at": standing.at.isoformat(),
            "paused": standing.world.paused,
            "rules": {"revision": writer.rules.revision, "count": len(writer.rules.rules)},
            "queued": writer.queued,
            "waiting": writer.waiting,
            "audit": {"seq": standing.audit, "hash": standing.head},
            "stalled": list(stuck),
            "sources": {watched.source.name: _health(watched.source) for watched in self._watched},
            "streams": self._streams.figures(),
        }

    def deadly(self) -> str:
        """Why only a new process can help; empty while this one lives."""
        writer = self._writer
        if writer.failure is not None:
            return f"the writer has stopped: {writer.failure}"
        if writer.at_work_s > HANGS_S:
            return f"the writer has been at one transaction for {writer.at_work_s:.0f} s"
        return ""

    def _reasons(self) -> list[str]:
        writer = self._writer
        waiting = f"nothing can be stored: {writer.waiting}" if writer.waiting else ""
        return [why for why in (self.phase, self.deadly(), waiting) if why]

    def _stuck(self) -> dict[str, str]:
        """What is stuck, and why."""
        stuck: dict[str, str] = {}
        for watched in self._watched:
            if watched.stall.lasts:
                health = watched.source.health()
                since = health.alive_at.isoformat() if health.alive_at else "its start"
                stuck[watched.source.name] = f"{health.problem or 'it has not reached its system'} (since {since})"
        now, problems = self._clock(), self._streams.problems()
        for stream, first in self._ailing.items():
            if stream in problems and now - first >= STALLED:
                stuck[f"stream:{stream}"] = f"{problems[stream]} (since {first.isoformat()})"
        return stuck

    def _tell_stall(self, watched: _Watched, now: datetime) -> None:
        """A source that does not reach its system is an event, once per stall."""
        news = watched.stall.news(now)
        if news is None:
            return
        try:
            self._writer.submit(Batch(events=(news,)))
        except DaemonError as error:
            self._log.warning("stall.not_stored", source=watched.source.name, why=str(error))
            return
        watched.stall.tell(news)


def _health(source: Source) -> Mapping[str, Any]:
    health = source.health()
    return {
        "alive_at": health.alive_at.isoformat() if health.alive_at else None,
        "event_at": health.event_at.isoformat() if health.event_at else None,
        "problem": health.problem,
        "lag": health.lag,
        "unread_at": health.unread_at.isoformat() if health.unread_at else None,
    }
