"""The worker process: measures the streams that the daemon opens in it, over a pipe.

It keeps nothing of its own. What it made counts once the daemon says that it is stored; a worker that dies is replaced
by one that goes on from the store, and the daemon cannot tell their results apart.

    python -m daemon.monitors     frames come on standard input and go to standard output
"""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from pathlib import Path
from typing import IO, Protocol

from daemon.core.errors import BadInput
from daemon.monitors.closing import ClosingSession, open_closing
from daemon.monitors.evidence import Samples
from daemon.monitors.frames import Frame, read_frame, write_frame
from daemon.monitors.lane import Lane, open_group
from daemon.monitors.logs import open_log
from daemon.monitors.plan import Champion
from daemon.monitors.session import Session, Times, Unmeasurable, open_session


class Measured(Protocol):
    """What a worker does for a stream."""

    @property
    def problem(self) -> str:
        """Why nothing can be read now."""
        ...

    def champion(self, model: str, champion: Champion) -> None:
        """From now on rows of this version are measured, against this reference."""
        ...

    def step(self) -> tuple[bool, Frame | None]:
        """Do the next piece of work; whether there was any, and what is to be told. Raises Unmeasurable."""
        ...

    def stored(self) -> None:
        """The batch under way is durable."""
        ...

    def take_notes(self) -> list[str]:
        """What a log should say, since the last call."""
        ...

    def figures(self) -> dict[str, int]:
        """How much it keeps."""
        ...

    def close(self) -> None:
        """Let go of everything; what is not stored is forgotten."""
        ...


INBOX = 10_000
"""Frames from the daemon that wait. There are at most a few per stream (one answer per batch), so it never fills; a full
inbox while both sides write could stop them both."""
ALIVE_S = 2.0
"""A sign of life so often."""
REST_S = 0.2
"""How long to rest when no stream has anything."""
LEAVE_S = 2.0
"""How long the streams' topics may take at the end to leave their groups: somebody else takes over sooner then."""


class Worker:
    """Reads frames, measures, writes frames, until its standard input ends."""

    def __init__(self, daemon: IO[bytes], times: Times) -> None:
        self._daemon = daemon
        self._telling = threading.Lock()
        self._times = times
        self._inbox: queue.Queue[Frame | None] = queue.Queue(INBOX)
        self._stop = threading.Event()
        self._sessions: dict[tuple[str, str], Measured] = {}
        """By stream and role: `files`, `partitions` (of topics), `windows` (made of them)."""
        self._samples = Samples()
        self._alive_at = -ALIVE_S

    def listen(self, pipe: IO[bytes]) -> None:
        """Put the daemon's frames into the inbox until it goes away. Runs in a thread of its own."""
        try:
            while True:
                self._inbox.put(read_frame(pipe))
        except (EOFError, OSError, BadInput):
            self._stop.set()
            self._inbox.put(None)

    def run(self) -> None:
        """Work until the daemon goes away."""
        self._tell(Frame("ready", {"pid": os.getpid()}))
        busy = False
        while not self._stop.is_set():
            self._take(0.0 if busy else REST_S)
            busy = self._step()
            if self._times.monotonic() - self._alive_at >= ALIVE_S:
                self._alive_at = self._times.monotonic()
                told = [[*name, session.problem, session.figures()] for name, session in self._sessions.items()]
                places = {name[0]: one.places() for name, one in self._sessions.items() if isinstance(one, Lane)}
                self._tell(Frame("alive", {"sessions": told, "places": places}))
        for session in self._sessions.values():
            session.close()
        until = self._times.monotonic() + LEAVE_S
        for session in self._sessions.values():
            if isinstance(session, Lane):
                session.left(max(until - self._times.monotonic(), 0.0))

    def _take(self, seconds: float) -> None:
        """Handle what is in the inbox; wait for something at most so long."""
        try:
            frame = self._inbox.get(timeout=seconds) if seconds else self._inbox.get_nowait()
            while frame is not None and not self._stop.is_set():
                self._handle(frame)
                frame = self._inbox.get_nowait()
        except queue.Empty:
            pass

    def _step(self) -> bool:
        """One block of each stream; whether any had one."""
        busy = False
        for name, session in list(self._sessions.items()):
            try:
                read, batch = session.step()
            except Unmeasurable as error:
                traceback.print_exc()
                self._close(name)
                body = {"stream": name[0], "role": name[1], "where": error.where, "why": error.why}
                self._tell(Frame("unmeasurable", body))
                continue
            busy = busy or read
            for note in session.take_notes():
                self._tell(Frame("note", {"stream": name[0], "text": note}))
            if batch is not None:
                self._tell(batch)
            if self._stop.is_set():
                break
        return busy

    def _handle(self, frame: Frame) -> None:
        body = frame.body
        session = self._sessions.get((body.get("stream", ""), body.get("role", "")))
        match frame.kind, session:
            case "open", _:
                self._open(frame)
            case "close", _:
                self._close((body["stream"], body["role"]))
            case "champion", _:
                for name, one in self._sessions.items():
                    if name[0] == body["stream"]:
                        one.champion(body["model"], Champion(**body["champion"]))
            case "report", _:
                self._report(frame)
            case "stored", session if session is not None:
                session.stored()
            case "parts", ClosingSession():
                session.parts(frame)
            case "partitions", Lane():
                session.opened(frame)
            case "fenced", Lane():
                session.fenced()
            case "frontier", Lane():
                session.frontier(body["far"], body["tail"])

    def _open(self, frame: Frame) -> None:
        name = (frame.body["plan"]["name"], frame.body["role"])
        before = self._close(name)
        try:
            self._sessions[name] = self._session(frame, before)
        except BadInput as error:
            self._tell(Frame("failed", {"stream": name[0], "role": name[1], "why": str(error)}))

    def _session(self, frame: Frame, before: Measured | None) -> Measured:
        match frame.body["role"]:
            case "partitions":
                group = open_group(frame, open_log, self._times)
                return Lane(group, self._tell, self._times, before if isinstance(before, Lane) else None)
            case "windows":
                return open_closing(frame, self._samples, self._times)
            case _:
                return open_session(frame, self._samples, self._times, self._stop)

    def _close(self, name: tuple[str, str]) -> Measured | None:
        session = self._sessions.pop(name, None)
        if session is not None:
            session.close()
        return session

    def _report(self, frame: Frame) -> None:
        body = frame.body
        sessions = (self._sessions.get((body["stream"], role)) for role in ("files", "windows"))
        session = next((one for one in sessions if one is not None), None)
        try:
            track = None
            if isinstance(session, Session | ClosingSession):
                track = session.monitor.track(body["monitor"], body["segment"])
            if track is None:
                raise BadInput("nothing is measured under this name")
            self._samples.report(track, body["last"], Path(body["path"]))
            why = ""
        except (BadInput, OSError) as error:
            why = str(error)
        self._tell(Frame("reported", {**body, "why": why}))

    def _tell(self, frame: Frame) -> None:
        try:
            with self._telling:
                write_frame(self._daemon, frame)
        except OSError:  # nobody listens: the daemon is gone
            self._stop.set()


def main() -> None:
    """Serve the daemon on the other end of standard input and output."""
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get between the frames
    worker = Worker(frames, Times(lambda: time.time_ns() // 1000, time.monotonic))
    # Not sys.stdin: an interpreter that ends while another thread reads that one aborts.
    threading.Thread(target=worker.listen, args=(os.fdopen(os.dup(0), "rb"),), name="frames", daemon=True).start()
    worker.run()
