"""A stream's topics in a thread of their own: brokers that do not answer hold up this stream, and no other one of the worker.

What the worker says to a session waits in its inbox; what the session has to tell goes out as it comes. Nobody waits for a
session but itself: what is shown of it is what it last said.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from daemon.core.errors import BadInput
from daemon.monitors.frames import Frame
from daemon.monitors.group import GroupSession
from daemon.monitors.grouplog import OpenLog
from daemon.monitors.plan import Champion, StreamPlan
from daemon.monitors.session import Times

INBOX = 10_000
"""Words from the daemon that wait: there are at most a few at a time, one answer per batch and news of champions."""
REST_S = 0.2
"""How long to rest when there is nothing to do."""
HELD_UP_S = 30.0
"""One step that takes longer is told: each question to a broker has its own timeout, but there may be many."""
LEAVE_S = 15.0
"""How long a session waits for the one before it to leave the group; then it joins beside it."""


class Lane:
    """A session at work in its thread until it is closed. As the worker sees sessions: see `worker.Measured`."""

    def __init__(
        self, session: GroupSession, tell: Callable[[Frame], None], times: Times, before: Lane | None = None
    ) -> None:
        """`tell`: hands a frame to the daemon, from any thread. `before`: one of the same stream, which is closed."""
        self._session = session
        self._name = session.plan.name
        self._tell = tell
        self._times = times
        self._before = before
        self._inbox: queue.Queue[Callable[[], None]] = queue.Queue(INBOX)
        self._telling = threading.Lock()
        self._stop = threading.Event()
        self._step_at = times.monotonic()
        self._show()
        self._thread = threading.Thread(target=self._run, name=f"topics-{self._name}", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> str:
        """Why nothing can be read now."""
        held_up = self._times.monotonic() - self._step_at
        if held_up > HELD_UP_S and not self._shown[0]:
            return f"its brokers, or its dead letters, have held it up for {held_up:.0f} s"
        return self._shown[0]

    def figures(self) -> dict[str, int]:
        """How much it keeps."""
        return self._shown[1]

    def places(self) -> dict[str, Any]:
        """Which partitions there are, and which of them it has: see `GroupSession.places`."""
        return self._shown[2]

    def champion(self, model: str, champion: Champion) -> None:
        """From now on rows of this version are measured, against this reference."""
        self._inbox.put(partial(self._session.champion, model, champion))

    def opened(self, frame: Frame) -> None:
        """The store's word on partitions that were asked for."""
        self._inbox.put(partial(self._session.opened, frame))

    def stored(self) -> None:
        """The batch under way is durable."""
        self._inbox.put(self._session.stored)

    def fenced(self) -> None:
        """Somebody else has moved a partition of the batch under way."""
        self._inbox.put(self._session.fenced)

    def frontier(self, far: Mapping[str, int], tail: int) -> None:
        """How far the stream's partitions are: see `GroupSession`."""
        self._inbox.put(partial(self._session.frontier, far, tail))

    def step(self) -> tuple[bool, Frame | None]:
        """Nothing is left to be done for it; that its thread lives is made sure of."""
        if not self._thread.is_alive():
            raise RuntimeError(f"the thread of the topics of {self._name} has ended; what it said stands above")
        return False, None

    def take_notes(self) -> list[str]:
        """None: it tells them itself."""
        return []

    def close(self) -> None:
        """Let go of everything, and tell nothing any more. Returns at once; `left` waits."""
        with self._telling:
            self._stop.set()
        self._inbox.put(lambda: None)

    def left(self, seconds: float) -> bool:
        """Whether it has left its group; waits so long for it."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    # -- its thread

    def _run(self) -> None:
        if self._before is not None:
            self._before.left(LEAVE_S)
            self._before = None
        busy = False
        while not self._stop.is_set():
            self._listen(0.0 if busy else REST_S)
            self._step_at = self._times.monotonic()
            busy, frame = self._session.step()
            for note in self._session.take_notes():
                self._say(Frame("note", {"stream": self._name, "text": note}))
            if frame is not None:
                self._say(frame)
            self._show()
        self._session.close()

    def _listen(self, seconds: float) -> None:
        """Do what was said; wait for something at most so long."""
        try:
            word = self._inbox.get(timeout=seconds) if seconds else self._inbox.get_nowait()
            while not self._stop.is_set():
                word()
                word = self._inbox.get_nowait()
        except queue.Empty:
            pass

    def _say(self, frame: Frame) -> None:
        with self._telling:
            if not self._stop.is_set():
                self._tell(frame)

    def _show(self) -> None:
        self._step_at = self._times.monotonic()
        self._shown = (self._session.problem, self._session.figures(), self._session.places())


def open_group(frame: Frame, open_log: OpenLog, times: Times) -> GroupSession:
    """The session that an `open` frame of the role `partitions` asks for. BadInput when it cannot be made."""
    body = frame.body
    try:
        session = GroupSession(StreamPlan.from_json(body["plan"]), open_log, times)
    except (KeyError, TypeError) as error:
        raise BadInput(f"the plan of a stream cannot be read: {error!r}") from error
    for model, champion in body["champions"].items():
        session.champion(model, Champion(**champion))
    far, tail = body["frontier"]
    session.frontier(far, int(tail))
    return session
