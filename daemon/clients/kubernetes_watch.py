"""One watch of one kind: a local mirror that follows the cluster by list and watch, through whatever happens to either.

| what happens | what is done |
|---|---|
| the server ends the stream, as it does every few minutes | watch on from where it was, at once |
| nothing came for `quiet` seconds (a bookmark comes each minute) | the same: the connection may be dead |
| the connection breaks, 5xx, 429 | the same, after a pause that doubles up to 30 s; a Retry-After holds it longer |
| 410, as an answer or in the stream | list anew, then watch: what was missed is told as changes |
| the kind is not served, or driftd may not watch it | told as its problem, and tried again: it may be installed later |

There is one per kind and namespace, however many runs look at it; asking the mirror costs no request.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from daemon.clients.kubernetes import Cluster, refusal
from daemon.clients.kubernetes_connection import Reply, Stream
from daemon.clients.kubernetes_errors import SERVICE, Expired, UnknownKind
from daemon.clients.kubernetes_mirror import Change, Mirror, Pause, Project, without_managers
from daemon.clients.kubernetes_objects import Kind, Object
from daemon.core.errors import ClientError, Unavailable

QUIET_S = 75.0
"""A stream that brought nothing for so long, not even a bookmark, counts as broken."""
LASTS_S = 300
"""How long the server is asked to let a stream last."""
SHORTEST_S = 1.0
"""A stream that ends sooner counts as one that failed."""
LIMIT = 20_000
"""Most objects that a mirror holds."""
_LONGEST_LINE = 16 * 1024 * 1024

OnChanges = Callable[[Sequence[Change]], None]


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched."""

    kind: Kind
    namespace: str = ""
    """Empty: the one driftd works in; `*`: all."""
    labels: str = ""
    project: Project = without_managers
    """What is kept of each object."""
    limit: int = LIMIT
    group: Callable[[Object], str] | None = None
    """What objects are asked for by, besides their names: e.g. a label's value."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a watch is doing."""

    synced: bool
    """The mirror has been complete once."""
    seen: float
    """Seconds since the server last answered: a list, a change, a bookmark, or the beginning of a stream."""
    problem: str
    """Why it is not following now; empty when it is."""
    objects: int
    left_out: int
    """Objects that there was no room for."""


class Watch:
    """A mirror of one kind that follows the cluster. Reading is safe from any thread."""

    def __init__(
        self, cluster: Cluster, watched: Watched, on_changes: OnChanges = lambda _changes: None, quiet: float = QUIET_S
    ) -> None:
        """`on_changes` is called in the watch's thread, in order, after the mirror has them; it must be quick."""
        self.watched = watched
        self._cluster = cluster
        self._on_changes = on_changes
        self._quiet = quiet
        self._mirror = Mirror(watched.limit, watched.project, watched.group)
        self._lock = threading.Condition()
        self._synced = False
        self._seen = time.monotonic()
        self._problem = "it has not begun"
        self._failure: ClientError | None = None
        self._pause = Pause()
        self._stop = threading.Event()
        self._stream: Stream | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch-{watched.kind.kind}", daemon=True)
        self._log = structlog.get_logger("kubernetes").bind(kind=str(watched.kind))

    # -- life

    def start(self) -> None:
        """Begin to follow, in a thread of its own."""
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Stop following; returns when the thread has ended, or after so long."""
        self._stop.set()
        with self._lock:
            stream = self._stream
        if stream is not None:
            stream.cut()
        if self._thread.is_alive():
            self._thread.join(seconds)

    # -- asking

    def get(self, name: str, namespace: str = "") -> Object | None:
        """The object as the watch last saw it; None: it saw none, which means there is none only if `complete`."""
        with self._lock:
            return self._mirror.get(namespace or self.watched.namespace or self._cluster.namespace, name)

    def objects(self) -> tuple[Object, ...]:
        """All that it sees."""
        with self._lock:
            return self._mirror.objects()

    def group(self, value: str) -> tuple[Object, ...]:
        """Those of one group."""
        with self._lock:
            return self._mirror.group(value)

    @property
    def complete(self) -> bool:
        """Whether what is not in the mirror was not there when the server last answered."""
        with self._lock:
            return self._synced and not self._mirror.left_out

    @property
    def served(self) -> bool:
        """False when the cluster does not know the kind, as far as the watch has asked: then there are no objects of it."""
        with self._lock:
            return not isinstance(self._failure, UnknownKind)

    @property
    def standing(self) -> Standing:
        """How it is doing."""
        with self._lock:
            objects, left_out = len(self._mirror.objects()), self._mirror.left_out
            return Standing(self._synced, time.monotonic() - self._seen, self._problem, objects, left_out)

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait until a change (or a list) has made this true; whether it has. It may ask the watch."""
        end = time.monotonic() + seconds
        while True:
            with self._lock:
                mark = self._seen
            if until():
                return True
            with self._lock:
                if self._stop.is_set() or time.monotonic() >= end:
                    return False
                if self._seen == mark:
                    self._lock.wait(min(1.0, max(end - time.monotonic(), 0.0)))

    def wait_synced(self, seconds: float) -> bool:
        """Wait until the mirror has been complete once; whether it has."""
        return self.wait(lambda: self._synced, seconds)

    # -- following

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._mirror.version:
                    self._list()
                began = time.monotonic()
                self._follow()
                if time.monotonic() - began < SHORTEST_S:
                    self._pause = self._pause.failed()  # whatever ends streams at once is not to be asked at once
            except Expired as gone:
                self._log.info("watch.expired", version=self._mirror.version, why=gone.why)
                self._mirror.version = ""
                # The list is asked at once the first time only: a server that answers it with 410 again has trouble.
                self._failed(gone)
            except ClientError as error:
                self._failed(error)
            except (KeyError, TypeError, ValueError) as error:
                self._mirror.version = ""
                self._failed(Unavailable(SERVICE, "watch", f"what came cannot be read: {error!r}"))
            if self._stop.wait(self._pause.seconds(random.random())):  # noqa: S311 - spreads clients, guards nothing
                return

    def _failed(self, error: ClientError) -> None:
        self._pause = self._pause.failed()
        with self._lock:
            was, self._problem, self._failure = self._problem, str(error), error
            self._lock.notify_all()
        if not self._stop.is_set() and was != self._problem:
            self._log.warning("watch.broken", why=str(error))

    def _list(self) -> None:
        listing = self._cluster.list(self.watched.kind, self.watched.namespace, self.watched.labels)
        with self._lock:
            changes = self._mirror.replaced(listing.items, listing.version)
            self._synced = True
        self._heard(changes)
        if self._mirror.left_out:
            self._log.warning("watch.full", limit=self.watched.limit, left_out=self._mirror.left_out)

    def _follow(self) -> None:
        query = {
            "resourceVersion": self._mirror.version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(LASTS_S),
        } | ({"labelSelector": self.watched.labels} if self.watched.labels else {})
        with self._cluster.watching(self.watched.kind, self.watched.namespace, query, self._quiet) as answer:
            if isinstance(answer, Reply):
                raise refusal("watch", answer)
            with self._lock:
                self._stream = answer
            if self._stop.is_set():
                return
            self._pause = self._pause.went_well()
            self._heard(())
            try:
                for line in lines(answer.chunks(), _LONGEST_LINE):
                    self._take(line)
            finally:
                with self._lock:
                    self._stream = None

    def _take(self, line: bytes) -> None:
        try:
            event: Any = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise Unavailable(SERVICE, "watch", f"a line is no JSON: {line[:200]!r}") from error
        with self._lock:
            change = self._mirror.told(event)
        self._heard((change,) if change is not None else ())

    def _heard(self, changes: Sequence[Change]) -> None:
        if changes:
            self._on_changes(changes)
        with self._lock:
            self._seen = time.monotonic()
            self._problem, self._failure = "", None
            self._lock.notify_all()


def lines(chunks: Iterator[bytes], longest: int) -> Iterator[bytes]:
    """The whole lines of a stream that comes in pieces; a last one without an end is dropped: it is not whole.

    Unavailable for a line longer than `longest`: what comes after it cannot be found.
    """
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *whole, last = bytes(rest).split(b"\n")
            yield from (line for line in whole if line.strip())
            rest = bytearray(last)
        if len(rest) > longest:
            raise Unavailable(SERVICE, "watch", f"a line of more than {longest} bytes")
