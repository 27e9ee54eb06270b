"""The nodes of a cluster: `node.lost`, `node.ready`, `gpu.capacity_changed`, from one watch.

What counts, and when, is in `core/nodes.py`. The cursor is what was told of each node; it moves in the transaction of the
events, so after a restart the first list is held against what was told before, and changes that were made meanwhile are
found: a node that is gone, too. While the cluster cannot be reached nothing counts: not hearing of a node is no news of it.

The cursor: {"turns": events told, "nodes": {name: {"reason", "gpus", "product", "memory_mb"}}}
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from daemon.clients.kubernetes import Cluster
from daemon.clients.kubernetes_mirror import Change
from daemon.clients.kubernetes_objects import Kind, Object
from daemon.clients.kubernetes_watch import Watch, Watched
from daemon.core.errors import ClientError
from daemon.core.events import Event
from daemon.core.nodes import GONE, Happened, Patience, Told, Track, baseline, due, observed, over, settled, tracked
from daemon.core.problems import Problem
from daemon.intake import Batch, Cursor, Intake
from daemon.nodeparts import NodesSource as NodesConfig
from daemon.platformparts import KubernetesConnection
from daemon.sources import nodestate
from daemon.sources.base import Health
from daemon.sources.delivery import Pulse, deliver

NODE = Kind("v1", "Node")
SLICE_S = 1.0
"""How often it looks whether something counts by now; a change wakes it at once."""
AGAIN_S = 5.0
"""How long after credentials that could not be used they are read again."""
_NEWS_S = 30.0
"""A watch that has trouble for so long is told by the health; ..."""
_FIRST_S = 1.0
"""... one that has never followed, after so long."""


class Fleet:
    """The nodes as they are followed: what was told of each, what is seen, and what is due. Pure but for its own state."""

    def __init__(self, name: str, config: NodesConfig, cursor: Mapping[str, Any] | None) -> None:
        self._name = name
        self._config = config
        self._patience = Patience(config.settle, config.ready_after)
        self._fresh = cursor is None
        nodes = (cursor or {}).get("nodes", {})
        self._told = {node: Told(**told) for node, told in nodes.items()}
        self._turns = int((cursor or {}).get("turns", 0))
        self._tracks: dict[str, Track] = {}

    @property
    def cursor(self) -> dict[str, Any]:
        """What is stored."""
        nodes = {name: asdict(told) for name, told in sorted(self._told.items())}
        return {"turns": self._turns, "nodes": nodes}

    def begin(self, nodes: Mapping[str, Object], now: datetime) -> None:
        """The first whole list: what was told before is held against it; without any stored state, it is where watching begins."""
        for name, node in nodes.items():
            if self._fresh and nodestate.counts(node, self._config):
                self._told[name] = baseline(nodestate.seen(node, self._config))
        self._fresh = False
        for name in sorted(self._told.keys() | nodes.keys()):
            self.look(name, nodes.get(name), now)

    def look(self, name: str, node: Object | None, now: datetime) -> None:
        """A node as it is now; None: there is none. Ask `settle` up to `now` first."""
        track = self._tracks.get(name)
        known = track is not None or name in self._told
        if not known and (node is None or not nodestate.counts(node, self._config)):
            return
        seen = GONE if node is None else nodestate.seen(node, self._config)
        track = tracked(self._told.get(name), seen, now) if track is None else observed(track, seen, now)
        self._tracks[name] = track
        if over(track):
            self._forget(name)

    def settle(self, until: datetime) -> tuple[Event, ...]:
        """The events of what counts by `until`, in the order in which they came to count; the cursor has them."""
        found: list[tuple[datetime, str, Happened]] = []
        for name, track in list(self._tracks.items()):
            at = due(track, self._patience)
            if at is None or at > until:
                continue
            after, happened = settled(track, until, self._patience)
            self._tracks[name], self._told[name] = after, after.told
            found += [(one.at, name, one) for one in happened]
            if over(after):
                self._forget(name)
        return tuple(self._event(name, happened) for _, name, happened in sorted(found, key=lambda one: one[:2]))

    def next_due(self) -> datetime | None:
        """When something counts next, if all stays as it is."""
        dues = [at for track in self._tracks.values() if (at := due(track, self._patience)) is not None]
        return min(dues, default=None)

    def _forget(self, name: str) -> None:
        self._tracks.pop(name, None)
        self._told.pop(name, None)

    def _event(self, node: str, happened: Happened) -> Event:
        self._turns += 1
        data = {"node": node, "source": self._name, "since": happened.since.isoformat(), **happened.data}
        return Event(f"{node}-{self._turns}", f"nodes:{self._name}", happened.type, node, happened.since, data)


class NodesSource:
    """The source of one entry of kind nodes under `sources:`."""

    def __init__(
        self, name: str, config: NodesConfig, connection: KubernetesConnection, clock: Callable[[], datetime]
    ) -> None:
        self.name = f"nodes:{name}"
        self._short = name
        self._config = config
        self._connection = connection
        self._clock = clock
        self._pulse = Pulse(clock)
        self._lock = threading.Lock()
        self._news: dict[str, Object | None] = {}
        self._woken = threading.Event()
        self._problem = ""

    def run(self, intake: Intake, stop: threading.Event) -> None:
        """Follow the nodes until `stop` is set."""
        while not stop.is_set():
            try:
                cluster = Cluster(self._connection)
            except ClientError as error:
                self._tell(str(error), intake, stop)
                stop.wait(AGAIN_S)
                continue
            watched = Watched(NODE, labels=self._config.labels, project=nodestate.project)
            with self._lock:
                self._news = {}
            watch = Watch(cluster, watched, self._heard)
            watch.start()
            try:
                self._follow(watch, intake, stop)
            finally:
                watch.stop()
                cluster.close()

    def health(self) -> Health:
        """How it is doing now."""
        return self._pulse.health()

    def _heard(self, changes: Sequence[Change]) -> None:
        """In the watch's thread: only the last of each node is kept, so this is never longer than there are nodes."""
        with self._lock:
            for before, now in changes:
                found = now if now is not None else before
                if found is not None:
                    self._news[str(found["metadata"]["name"])] = now
        self._woken.set()

    def _follow(self, watch: Watch, intake: Intake, stop: threading.Event) -> None:
        cursor = intake.cursor(self.name)
        fleet = Fleet(self._short, self._config, cursor)
        begun = False
        while not stop.is_set():
            self._woken.clear()
            standing, now = watch.standing, self._clock()
            with self._lock:
                news, self._news = (self._news, {}) if standing.synced else ({}, self._news)
            if standing.problem:
                if standing.seen >= (_NEWS_S if begun else _FIRST_S):
                    self._tell(standing.problem, intake, stop)
            else:
                self._problem = ""
                self._pulse.alive()
            # What was seen before holds as far as the cluster was heard of.
            until = now - timedelta(seconds=standing.seen) if standing.problem else now
            events = fleet.settle(until)
            if begun:
                for name, node in sorted(news.items()):
                    fleet.look(name, node, now)
            elif standing.synced:
                begun = True
                fleet.begin({str(node["metadata"]["name"]): node for node in watch.objects()}, now)
            if not standing.problem:
                events += fleet.settle(now)
            if begun and (events or cursor != fleet.cursor):
                cursor = fleet.cursor
                if deliver(intake, Batch(events, (Cursor(self.name, cursor),)), stop, self._pulse) is None:
                    return
            self._rest(stop)

    def _rest(self, stop: threading.Event) -> None:
        if not stop.is_set():
            self._woken.wait(SLICE_S)

    def _tell(self, problem: str, intake: Intake, stop: threading.Event) -> None:
        if problem != self._problem:
            deliver(intake, Batch(problems=(Problem("kubernetes", self.name, problem),)), stop, self._pulse)
            self._problem = problem
        self._pulse.ails(problem)
