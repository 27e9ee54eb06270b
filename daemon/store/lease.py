"""Leadership in PostgreSQL: a row with the epoch and until when it is led, beside the data that it guards.

The lease is on the server's clock alone, so clocks that differ do no harm. A thread renews it on a connection of its own.
How much is left is known here without asking: counted from before the last renewal was sent, on a clock that goes on while
this process is stopped, so a process that wakes up late knows at once that it may no longer act.
"""

from __future__ import annotations

import math
import threading
import time

import structlog

from daemon.core.errors import StoreBusy, StoreError
from daemon.store.links import Connection, Server, Statements, broken, connect, undo

RENEWALS = 6
"""In one lease."""


class Lease:
    """One leader's hold on the lead, from `take` to `leave`. Safe to ask from any thread."""

    def __init__(self, server: Server, owner: str) -> None:
        self._server = server
        self._owner = owner
        self._connection: Connection | None = None
        self._epoch = 0
        self._until = -math.inf
        """On the clock of `_now`; minus infinity when another leads, or nobody."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="lease", daemon=True)
        self._log = structlog.get_logger("store")

    @property
    def left_s(self) -> float:
        """Seconds that are surely left; minus infinity when the lead is lost for good."""
        return self._until - _now()

    def take(self) -> int:
        """The new epoch, or the one that is led. StoreBusy when somebody leads, with who it is and for how long."""
        if self.left_s > 0:
            return self._epoch
        asked = _now()
        session = self._session()
        rows = session.rows("take_lead", self._owner, self._server.lease_s)
        if not rows:
            epoch, owner, left = session.rows("leader")[0]
            raise StoreBusy(
                f"another driftd leads: {owner}, epoch {epoch}, for {max(left, 0.0):.0f} s if it says nothing"
            )
        self._epoch = int(rows[0][0])
        self._until = asked + self._server.lease_s
        if not self._thread.is_alive():
            self._thread.start()
        return self._epoch

    def lost(self) -> None:
        """Another epoch was seen: nothing is renewed any more."""
        self._until = -math.inf
        self._over.set()

    def leave(self) -> None:
        """Let others lead now, as far as the server can be told, and end."""
        led, self._until = self._until > -math.inf, -math.inf
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        if led:
            try:
                self._session().run("leave_lead", self._epoch)
            except StoreError as error:
                self._log.warning("lease.not_left", epoch=self._epoch, why=str(error))
        if self._connection is not None:
            self._connection.close()

    def _session(self) -> Statements:
        if self._connection is None or broken(self._connection):
            # A renewal that hangs is worth nothing: it is given up long before the lease is over.
            self._connection = connect(self._server, statement_timeout=f"{max(self._server.lease_s / 4, 0.5):g}s")
        return Statements(self._connection)

    def _loop(self) -> None:
        pause = self._server.lease_s / RENEWALS
        why = ""
        while not self._over.wait(pause):
            asked = _now()
            try:
                renewed = self._session().run("renew_lead", self._epoch, self._server.lease_s)
            except StoreError as error:
                if str(error) != why:
                    self._log.warning(
                        "lease.not_renewed", epoch=self._epoch, left_s=round(self.left_s, 1), why=str(error)
                    )
                why = str(error)
                if self._connection is not None:
                    undo(self._connection)
                continue
            why = ""
            if not renewed:
                self._log.error("lease.lost", epoch=self._epoch)
                self.lost()
            elif not self._over.is_set():
                self._until = asked + self._server.lease_s


def _now() -> float:
    """Seconds on a clock that is never set, and that goes on while the machine sleeps where there is such a one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
