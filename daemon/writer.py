"""The one writer: a thread that turns what everybody hands it into transactions.

Group commit: whatever has queued up while the last transaction was made durable goes into the next, so a single event
waits for one disk sync and ten thousand events share a few. Receipts are given, calls handed out and memory replaced only
after COMMIT.

When the database is locked or its disk is full the writer keeps what it holds and tries again until it works; the queue
fills up, `submit` no longer takes anything, and the sources stop reading. When a group fails for any other reason it is
tried again one by one, so that one bad batch costs that batch only.

Due times and calls wait until rules are in force (`load`): a timer that came due while driftd was down is decided by the
rules that asked for it, not by none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import structlog

from daemon.answers import Answers
from daemon.auditing import Head, HeadFile
from daemon.claims import Claimed, Claims
from daemon.core.calls import Outcome
from daemon.core.errors import DaemonError, Deposed, Kept, StoreBusy, StoreError
from daemon.core.events import Event
from daemon.core.memory import Memory
from daemon.core.rules import RuleSet
from daemon.intake import Batch, Receipt
from daemon.lanes import Item, Lanes
from daemon.ledger import Ledger, Standing, standing_of
from daemon.points import OnPoint, Point, no_point
from daemon.running import Running
from daemon.store.base import Store
from daemon.store.rows import micros, moment
from daemon.tally import Tally

BRIEF = 8
"""A batch of at most so many things goes before the streams."""
FILES = 16
"""So many files that are gone weigh as much as an event."""
TIMERS = 512
"""Most due times turned into events in one transaction."""
LOAD_S = 60.0
"""How long to wait until a rule set is in force."""


OnBegun = Callable[[str, Event], None]
"""Told of each run that began, after COMMIT, with its trigger; must return at once."""


@dataclass(frozen=True, slots=True)
class _Committed:
    """What a transaction has left to do once it is durable."""

    ledger: Ledger
    results: list[Any]
    """Of the first items; the others are still to be done."""
    claimed: list[Claimed]
    timers_due: datetime | None
    calls_due: datetime | None


class Writer(Answers):
    """The only one that opens a transaction. Also the `Intake` of sources and monitors."""

    def __init__(
        self,
        store: Store,
        running: Running,
        clock: Callable[[], datetime],
        heads: Path,
        on_point: OnPoint = no_point,
        on_begun: OnBegun = lambda _run, _trigger: None,
    ) -> None:
        super().__init__(store)
        self.clock = clock
        self.tally = Tally()
        self._running = running
        self._heads = HeadFile(heads)
        self._on_point = on_point
        self._on_begun = on_begun
        self._log = structlog.get_logger("writer")
        self._condition = threading.Condition()
        self._lanes = Lanes()
        self._turned: float | None = None
        """When the thread last began something; None while it has nothing to do."""
        self._stopping = False
        self._ended = False
        self._failure: BaseException | None = None
        self._waiting = ""
        self._claims = Claims()
        self._last: _Committed | None = None
        """What the transaction has written that was tried last, and whose end may not be known."""
        self._hand_out: Callable[[list[Claimed]], None] = lambda _claimed: None
        self._epoch = store.lead()
        self._memory: dict[tuple[str, str], Memory]
        with store.read() as session:
            self._standing, self._memory = standing_of(session)
        self._rules: RuleSet | None = None
        self._ahead = timedelta()
        self._calls_due: datetime | None = moment(0)
        self._timers_due: datetime | None = moment(0)
        self._thread = threading.Thread(target=self._loop, name="writer", daemon=True)

    # -- for the app

    @property
    def epoch(self) -> int:
        """The epoch that this process leads with."""
        return self._epoch

    @property
    def standing(self) -> Standing:
        """Where the store stands: a consistent, frozen view (its memory map moves on)."""
        return self._standing

    @property
    def rules(self) -> RuleSet:
        """The rules in force; none before the first load."""
        return self._rules or RuleSet(())

    @property
    def failure(self) -> BaseException | None:
        """Why the writer has stopped by itself, if it has."""
        return self._failure

    @property
    def waiting(self) -> str:
        """Why nothing can be stored now (a locked database, a full disk); empty when it can."""
        return self._waiting

    @property
    def queued(self) -> int:
        """Batches that wait."""
        return len(self._lanes)

    @property
    def waited_s(self) -> float:
        """Seconds that the oldest of what was handed in has waited, and is not durable yet; 0 when there is none."""
        with self._condition:
            since = self._lanes.oldest
        return 0.0 if since is None else time.monotonic() - since

    @property
    def at_work_s(self) -> float:
        """Seconds since the thread last began something; 0 while it has nothing to do. It goes on for long only when the
        thread hangs: a store that is locked or full is tried again every few seconds.
        """
        turned = self._turned
        return 0.0 if turned is None else time.monotonic() - turned

    def start(self) -> None:
        """Take back what an earlier epoch had claimed, and begin."""
        with self._store.transaction(self._epoch) as session:
            session.run("reclaim_calls", micros(self._now()), self._epoch)
        if self._standing.audit:
            # The process before may have died between the end of a run and the export of its head.
            self._export([])
        self._thread.start()

    def stop(self, timeout: float = 15.0) -> bool:
        """Finish what is queued, or give it up when nothing can be stored, and end; whether it has ended."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def load(self, rules: RuleSet, files: Mapping[str, str]) -> None:
        """Put a rule set in force, from the next transaction on, and wait until it is. StoreBusy when it is not after a
        minute: load it again, which does no harm if it comes to be in force after all.
        """
        self._on_point(Point.RULES_LOADED)

        def put(ledger: Ledger) -> None:
            now = ledger.now
            ledger.session.run(
                "add_ruleset", rules.revision, micros(now), rules.commit, orjson.dumps(dict(files)).decode()
            )
            data = {
                "revision": rules.revision, "commit": rules.commit, "rules": len(rules.rules),
                "started": ledger.rules is None,
            }  # fmt: skip
            ledger.rules = rules
            name = f"{rules.revision}@{self._epoch}.{micros(now)}"
            ledger.record((Event(name, "driftd:rules", "rules.loaded", "", now, data),))

        future = self._put(Item(put, 1, forever=True), brief=True)
        try:
            future.result(LOAD_S)
        except FutureTimeout:
            future.cancel()
            raise StoreBusy(f"not in force after {LOAD_S:g} s; load them again") from None

    def serve(self, slots: int, hand_out: Callable[[list[Claimed]], None]) -> None:
        """A dispatcher with `slots` workers takes calls from now on; 0: nobody does."""
        with self._condition:
            self._hand_out = hand_out
            self._claims.staff(slots)
            self._condition.notify_all()

    # -- for dispatcher workers

    def settle(self, claimed: Claimed, outcome: Outcome) -> bool:
        """Store a handler's outcome, and wait; False when nobody waits for it any more."""
        running, epoch = self._running, self._epoch

        def put(ledger: Ledger) -> bool:
            settle = running.close if claimed.ending else running.settle
            return settle(ledger, claimed.stored, outcome, epoch)

        try:
            future = self._put(Item(put, 1, forever=True), brief=claimed.stored.priority == 0)
            return bool(future.result())
        finally:
            with self._condition:
                self._claims.came_back(claimed)
                self._calls_due = moment(0)
                self._condition.notify_all()

    # -- Intake, for sources, monitors and operators

    def submit(self, batch: Batch, timeout: float = 30.0) -> Receipt:
        """Store a batch and wait until it is durable; see `daemon.intake.Intake`."""
        until = time.monotonic() + timeout
        item = Item(lambda ledger: ledger.take(batch), len(batch.events) + len(batch.gone) // FILES + 1)
        # Whoever hands a few events in waits for them, so they are few.
        future = self._put(item, brief=item.size <= BRIEF, timeout=timeout)
        self._on_point(Point.SUBMITTED)
        try:
            receipt: Receipt = future.result(max(until - time.monotonic(), 0.0))
        except FutureTimeout:
            future.cancel()
            raise StoreBusy(f"not durable after {timeout:g} s; hand it in again") from None
        return receipt

    # -- the thread

    def _put(self, item: Item, *, brief: bool, timeout: float = 60.0) -> Future[Any]:
        with self._condition:
            if not item.forever and not self._condition.wait_for(
                lambda: self._lanes.has_room(brief=brief) or self._stopping or self._failure, timeout
            ):
                raise StoreBusy("the writer's queue is full; hand it in again")
            if self._failure is not None:
                raise StoreError(f"the writer has stopped: {self._failure}") from self._failure
            if self._ended or (self._stopping and not item.forever):
                raise StoreBusy("driftd is stopping")
            self._lanes.put(item, brief=brief)
            self._condition.notify_all()
        return item.future

    def _gather(self) -> list[Item] | None:
        """What the next transaction is made of; None: stop. An empty list: only due times and calls."""
        with self._condition:
            self._lanes.done()
            while not self._lanes:
                if self._stopping:
                    return None
                wait = self._until_due()
                if wait is not None and wait <= 0:
                    return []
                self._turned = None
                self._condition.wait(wait)
            items = self._lanes.take()
            self._condition.notify_all()
            return items

    def _until_due(self) -> float | None:
        dues = [self._heads.due, self._timers_due if self._rules is not None else None]
        if self._rules is not None and self._claims.free > 0:
            dues.append(self._calls_due)
            # A worker that is too slow loses its call: somebody must be awake then.
            dues.extend(self._claims.leases_after(self._standing.at))
        known = [due for due in dues if due is not None]
        return (min(known) - self._now()).total_seconds() if known else None

    def _now(self) -> datetime:
        """The time, never before what was recorded; when the clock is set back it flows on from there."""
        wall, last = self.clock(), self._standing.at
        if wall >= last:
            self._ahead = timedelta()
            return wall
        self._ahead = max(self._ahead, last - wall)
        return wall + self._ahead

    def _loop(self) -> None:
        done = False
        try:
            while (items := self._gather()) is not None:
                self._group([item for item in items if item.wanted()])
            done = True
        except StoreBusy as error:
            done = True
            self._log.warning("writer.gave_up", why=str(error))
        except DaemonError as error:
            self._failure = error
            self._log.exception("writer.stopped", why=str(error))
        finally:
            with self._condition:
                self._ended = True
                if not done and self._failure is None:
                    self._failure = StoreError("the writer broke; its log says where")
                waiting = self._lanes.take_all()
                self._condition.notify_all()
            end = StoreBusy("driftd is stopping") if done else StoreError(f"the writer has stopped: {self._failure}")
            for item in waiting:
                if item.wanted():
                    item.future.set_exception(end)

    def _group(self, items: list[Item]) -> None:
        """One transaction for all; one each when that fails."""
        try:
            committed = self._transact(items)
        except (Deposed, StoreBusy) as error:  # busy: it is told to stop, and nothing can be stored
            for item in items:
                item.future.set_exception(error)
            raise
        except Exception as error:
            if not items:
                raise StoreError(f"due times cannot be handled: {error}") from error
            if len(items) == 1:
                self._refuse(items[0], error)
                return
            for item in items:
                self._group([item])
        else:
            self._conclude(committed, items)

    def _refuse(self, item: Item, error: Exception) -> None:
        if not isinstance(error, DaemonError):
            self._log.exception("writer.batch_failed", why=str(error))
        item.future.set_exception(error)

    def _transact(self, items: list[Item]) -> _Committed:
        pause = 0.0
        while True:
            try:
                committed = self._once(items)
            except Kept:
                if self._last is None:
                    raise
                self._log.info("writer.was_kept")
                self._waiting = ""
                return self._last
            except StoreBusy as error:
                if not pause:
                    self._log.warning("writer.waiting", why=str(error))
                self._waiting = str(error)
                pause = min(max(pause * 2, 0.05), 2.0)
                with self._condition:
                    if self._condition.wait_for(lambda: self._stopping, pause):
                        raise
            else:
                if pause:
                    self._log.info("writer.goes_on")
                self._waiting = ""
                return committed

    def _once(self, items: list[Item]) -> _Committed:
        self._turned = time.monotonic()
        with self._store.transaction(self._epoch) as session:
            self._last = None
            ledger = Ledger(session, self._standing, self._rules, self._now())
            ledger.begin, ledger.handle = self._running.begin, self._running.handle
            results = self._results(ledger, items)
            claimed: list[Claimed] = []
            if ledger.rules is not None:
                ledger.due_timers(TIMERS)
                claimed = self._claims.claim(session, self._epoch, ledger.now)
            ledger.flush()
            timer, call = session.rows("next_timer")[0][0], session.rows("next_call")[0][0]
            self._on_point(Point.BEFORE_COMMIT)
            self._last = committed = _Committed(
                ledger,
                results,
                claimed,
                timers_due=None if timer is None else moment(timer),
                calls_due=None if call is None else moment(call),
            )
        return committed

    def _results(self, ledger: Ledger, items: list[Item]) -> list[Any]:
        """What came of the items; of the first ones only, when they are a stream's and something urgent waits."""
        results: list[Any] = []
        for item in items:
            if results and self._lanes.must_yield:
                break
            results.append(item.work(ledger))
        return results

    def _conclude(self, committed: _Committed, items: list[Item]) -> None:
        """It is durable: memory moves, and those who wait are told. Nothing here is ever tried again."""
        ledger, claimed = committed.ledger, committed.claimed
        self._standing = ledger.standing(self._memory)
        self._rules = ledger.rules
        self.tally.stored(ledger.counts())
        self._on_point(Point.AFTER_COMMIT)
        with self._condition:
            self._claims.handed_out(claimed)
            self._timers_due, self._calls_due = committed.timers_due, committed.calls_due
            if self._claims.any_at_work and self._calls_due is not None:
                # A due call may belong to a run that is at work; its worker wakes us when it is done.
                self._calls_due = max(self._calls_due, self._now() + timedelta(milliseconds=50))
        for run, trigger in ledger.begun:
            self._on_begun(run, trigger)
        due = self._heads.due
        if ledger.ended or (due is not None and due <= self._now()):
            self._export(ledger.ended)
        done = len(committed.results)
        with self._condition:
            self._lanes.put_back(items[done:])
        for item, result in zip(items[:done], committed.results, strict=True):
            item.future.set_result(result)
        self._on_point(Point.RECEIPTED)
        if claimed:
            self._hand_out(claimed)

    def _export(self, runs: list[str]) -> None:
        """Note the chain's head outside the database: a cut tail no longer reaches it."""
        head = Head(self._standing.audit, self._standing.head, self._standing.at.isoformat(), tuple(runs))
        self._log.info("audit.head", seq=head.seq, hash=head.hash, runs=runs)
        if why := self._heads.export(head, self._now()):
            self._log.warning("audit.head_not_exported", why=why, seq=head.seq, hash=head.hash)
        self._on_point(Point.HEAD_EXPORTED)
