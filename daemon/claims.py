"""Calls at workers: which are handed out, to how many, and until when they belong to them.

A call is claimed in the transaction of the writer that finds it due, for a lease. Of one run only one call is at work at a
time, so an undo never runs beside the step that it undoes; a worker that has not answered when its lease ends no longer
counts, and what it says then is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import orjson

from daemon.core.calls import Call
from daemon.store.base import Session
from daemon.store.rows import StoredCall, call_for, call_of, micros, run_of

LEASE = timedelta(minutes=5)
"""How long a claimed call belongs to its worker; longer than any single step of a handler takes."""
CALLS = 256
"""Most due calls looked at in one transaction."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A call that was handed out, with the epoch under which it may answer."""

    call: Call
    stored: StoredCall
    """As claimed, with the lease under which it was handed out."""
    epoch: int

    @property
    def ending(self) -> bool:
        """The call is no longer needed: what it started is to be ended."""
        return self.stored.status == "closing"


class Claims:
    """What workers have. Safe to use from any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._workers = 0
        self._at_work: dict[tuple[str, datetime], str] = {}
        """(call, lease) -> run."""

    def staff(self, workers: int) -> None:
        """So many workers take calls from now on."""
        with self._guard:
            self._workers = workers

    @property
    def free(self) -> int:
        """Workers without a call."""
        return self._workers - len(self._at_work)

    @property
    def any_at_work(self) -> bool:
        """A worker has a call."""
        return bool(self._at_work)

    def leases_after(self, now: datetime) -> list[datetime]:
        """When the leases end that have not ended yet."""
        with self._guard:
            return [lease for _, lease in self._at_work if lease > now]

    def claim(self, session: Session, epoch: int, now: datetime) -> list[Claimed]:
        """Claim due calls for the free workers, in the writer's transaction; `handed_out` follows its COMMIT."""
        with self._guard:
            free = self._workers - len(self._at_work)
            busy = {run for (_, lease), run in self._at_work.items() if lease > now}
        if free <= 0:
            return []
        session.run("expired_leases", micros(now), micros(now))
        claimed: list[Claimed] = []
        lease = now + LEASE
        for row in session.rows("calls_due", micros(now), orjson.dumps(sorted(busy)).decode(), CALLS):
            due = call_of(row)
            if due.run in busy or len(claimed) == free:
                continue
            session.run("claim_call", epoch, micros(lease), due.id)
            status = "claimed" if due.status == "due" else "closing"
            stored = replace(due, status=status, epoch=epoch, lease=lease)
            run = run_of(session.rows("run", stored.run)[0])
            busy.add(stored.run)
            claimed.append(Claimed(call_for(stored, run, run.step(stored.step)), stored, epoch))
        return claimed

    def handed_out(self, claimed: Iterable[Claimed]) -> None:
        """These are at workers now."""
        with self._guard:
            self._at_work.update({(one.stored.id, one.stored.lease): one.stored.run for one in claimed})

    def came_back(self, claimed: Claimed) -> None:
        """A worker is free again."""
        with self._guard:
            self._at_work.pop((claimed.stored.id, claimed.stored.lease), None)
