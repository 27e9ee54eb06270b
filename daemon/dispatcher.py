"""Workers that run the handlers of claimed calls.

The writer hands out a call in the transaction that makes it due, to one of a fixed number of workers; the worker runs the
handler and waits until its outcome is stored. Handlers never sleep, so a few workers serve many runs. What a handler
raises becomes an outcome here: a service that does not answer is tried again with growing pauses, a refusal fails the
step, and anything unforeseen fails the step with its reason. A call whose run turned away comes back once more, to end
what it started.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping

import structlog

from daemon.claims import Claimed
from daemon.core.calls import Again, Call, Done, Failed, Outcome
from daemon.core.errors import Conflict, Refused, StoreError, Unavailable
from daemon.handling import Context
from daemon.points import OnPoint, Point, no_point
from daemon.running import crashed
from daemon.verbs import Loaded
from daemon.writer import Writer

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Pauses between attempts, in seconds: doubled each time."""


class Dispatcher:
    """A fixed number of worker threads."""

    def __init__(
        self,
        writer: Writer,
        verbs: Mapping[str, Loaded],
        context: Callable[[Call], Context],
        workers: int = 4,
        on_point: OnPoint = no_point,
    ) -> None:
        self._writer = writer
        self._verbs = verbs
        self._context = context
        self._on_point = on_point
        self._log = structlog.get_logger("dispatcher")
        # The writer hands out no more than there are free workers, so this never holds more than `workers` calls.
        self._calls: queue.Queue[Claimed | None] = queue.Queue(maxsize=workers * 2)
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True) for number in range(workers)
        ]

    def start(self) -> None:
        """Begin to take calls."""
        for thread in self._threads:
            thread.start()
        self._writer.serve(len(self._threads), self._hand_out)

    def stop(self, timeout: float = 10.0) -> None:
        """Take no more calls; wait for those at work, `timeout` seconds for all of them."""
        self._writer.serve(0, lambda _claimed: None)
        for _ in self._threads:
            self._calls.put(None)
        until = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(until - time.monotonic(), 0.0))

    def _hand_out(self, claimed: list[Claimed]) -> None:
        for one in claimed:
            self._calls.put(one)

    def _work(self) -> None:
        while (claimed := self._calls.get()) is not None:
            self._on_point(Point.BEFORE_HANDLER)
            outcome = self._timed(claimed)
            self._on_point(Point.AFTER_HANDLER)
            try:
                self._writer.settle(claimed, outcome)
            except StoreError as error:
                # The call stays claimed and comes back when its lease ends, or with the next epoch.
                self._log.warning("dispatcher.not_settled", call=claimed.call.id, why=str(error))
            self._on_point(Point.AFTER_SETTLING)

    def _timed(self, claimed: Claimed) -> Outcome:
        tally, verb = self._writer.tally, claimed.call.verb
        tally.started((self._writer.clock() - claimed.stored.due).total_seconds())
        began = time.monotonic()
        outcome = self._outcome(claimed.call, ending=claimed.ending)
        told = "ended" if claimed.ending else type(outcome).__name__.lower()
        tally.answered(verb, told, time.monotonic() - began)
        return outcome

    def _outcome(self, call: Call, *, ending: bool) -> Outcome:
        log = self._log.bind(call=call.id, run=call.run, verb=call.verb)
        try:
            verb = self._verbs[call.verb]
            outcome = _ended(verb, call, self._context(call)) if ending else verb.run(call, self._context(call))
        except Unavailable as error:
            outcome = Again(_pause(call.attempt), str(error), call.state)
        except Conflict as error:
            outcome = Again(FIRST_PAUSE, str(error), call.state)
        except StoreError as error:
            outcome = Again(_pause(call.attempt), str(error), call.state)
        except Refused as error:
            outcome = Failed(str(error))
        except Exception as error:
            log.exception("handler.broke", why=str(error))
            outcome = crashed(error)
        log.info("handler.answered", outcome=type(outcome).__name__, note=_note(outcome))
        return outcome


def _ended(verb: Loaded, call: Call, context: Context) -> Done:
    """End what an unfinished call has started."""
    if verb.cancel is not None:
        verb.cancel(call, context)
    return Done()


def _pause(attempt: int) -> float:
    return float(min(FIRST_PAUSE * 2 ** min(attempt, 10), LONGEST_PAUSE))


def _note(outcome: Outcome) -> str:
    return str(getattr(outcome, "why", "") or getattr(outcome, "note", ""))
