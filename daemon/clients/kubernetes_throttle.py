"""When the next request may go: a token bucket, and the pauses that the server asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bucket:
    """A token bucket as data: `rate` tokens come per second, at most `burst` wait; each request takes one.

    Tokens may be owed: who comes when there is none is told how long to wait, and the next one waits longer.
    """

    rate: float
    burst: float
    tokens: float
    at: float
    """When `tokens` was counted, in seconds of any clock that does not go back."""

    def taken(self, now: float) -> tuple[Bucket, float]:
        """The bucket after one request at `now`, and the seconds that this request must wait."""
        tokens = min(self.burst, self.tokens + max(now - self.at, 0.0) * self.rate) - 1
        return replace(self, tokens=tokens, at=max(now, self.at)), max(-tokens / self.rate, 0.0)


class Throttle:
    """Lets requests through at a rate. Safe to use from any thread."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._bucket = Bucket(rate, burst, burst, clock())
        self._not_before = 0.0

    def turn(self, patience: float) -> float | None:
        """Seconds to wait before a request may go; None when that is more than `patience`, and nothing is taken."""
        with self._lock:
            now = self._clock()
            bucket, wait = self._bucket.taken(now)
            wait = max(wait, self._not_before - now)
            if wait > patience:
                return None
            self._bucket = bucket
            return wait

    def pause(self, seconds: float) -> None:
        """The server wants no more requests for so long."""
        with self._lock:
            self._not_before = max(self._not_before, self._clock() + seconds)
