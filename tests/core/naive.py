"""What a rule remembers, told a second time and as naively as can be: a log of all that happened, searched from its start.

Written from the words of the rule language, not from `daemon/core/memory.py`: no rings, no streak counters, nothing is
forgotten. Times are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

SLOT = 300.0
"""A rule that waits for a time and may not fire is asked again at the next multiple of this."""
CATCH_UP = 60.0
LONGEST_CHAIN = 8


@dataclass(frozen=True)
class Spec:
    """A rule, in plain numbers."""

    windowed: bool = True
    clear: bool = False
    duration: float | None = None
    windows: tuple[int, int] | None = None
    count: tuple[int, float] | None = None
    absent: float | None = None
    repeat: float | None = None
    cooldown: float = 0.0
    limit: tuple[int, float] | None = None
    on_unknown: str = "hold"
    stale_after: float = 1000.0
    observe: bool = False
    include_own: bool = False

    @property
    def lasting(self) -> bool:
        """Fires once per episode."""
        waits = self.duration is not None or self.windows is not None or self.absent is not None
        return self.windowed or self.clear or waits or self.repeat is not None

    @property
    def timed(self) -> bool:
        """Waits for a time."""
        return self.duration is not None or self.absent is not None


@dataclass(frozen=True)
class Told:
    """One event: its truth `T`, `F` or `U`, that of `clear`, and its window."""

    truth: str
    clears: str = "U"
    last: int | None = None
    chain: int = 0


@dataclass
class Naive:
    """One rule, one key."""

    spec: Spec
    log: list[tuple[str, float, Any]] = field(default_factory=list)
    fired: list[float] = field(default_factory=list)
    notices: list[float] = field(default_factory=list)
    looks: set[float] = field(default_factory=set)
    paused: bool = False
    started: float | None = None

    # -- searches in the log

    def _since(self, *marks: str) -> list[tuple[str, float, Any]]:
        """The log after the last entry of these kinds."""
        marked = [index for index, entry in enumerate(self.log) if entry[0] in marks]
        return self.log[marked[-1] + 1 :] if marked else list(self.log)

    def _known(self) -> list[tuple[float, Told]]:
        return [(t, told) for kind, t, told in self._since("edited", "broke") if kind == "known"]

    def _streak(self) -> float | None:
        """When the condition began to hold without a break."""
        start = None
        for t, told in self._known():
            start = None if told.truth == "F" else t if start is None else start
        return start

    def _unknown_since(self) -> float | None:
        start = None
        for kind, t, _ in self._since("edited"):
            if kind == "known":
                start = None
            elif kind == "unknown" and start is None:
                start = t
        return start

    def _episode(self) -> float | None:
        """When the open episode fired last."""
        firings = [t for kind, t, _ in self._since("edited", "broke") if kind == "fired"]
        return firings[-1] if firings and self.spec.lasting else None

    # -- what happens

    def edited(self, spec: Spec, t: float, *, again: bool) -> None:
        """The rule was edited; `again`: so that it decides differently."""
        self.spec = spec
        if again:
            self.log.append(("edited", t, None))

    def tell(self, t: float, told: Told) -> str:
        """An event came: the verdict."""
        spec = self.spec
        if told.chain and not spec.include_own and spec.windowed:
            return "own"
        if told.chain > LONGEST_CHAIN:
            return "loop"
        counted = [known for kind, _, known in self._since("edited") if kind == "known"]
        seen = [known.last for known in counted if spec.windows is not None or known.truth == "T"]
        if told.last is not None and any(told.last <= last for last in seen):
            return "repeated"
        if told.truth == "U" and spec.on_unknown == "act":
            told = replace(told, truth="T")
        if told.truth == "U":
            return self._tell_unknown(t)
        episode = self._episode()
        ends = told.truth == "F" if not spec.clear else told.clears == "T"
        if episode is not None and ends:
            self.log.append(("broke", t, None))
        self.log.append(("known", t, told))
        if episode is not None and ends and told.truth == "F":
            return "cleared"
        if not self._enough(t):
            if told.truth == "T" and spec.duration is not None:
                streak = self._streak()
                assert streak is not None
                self.looks.add(streak + spec.duration)
            return "held" if told.truth == "T" else "not met"
        return "not met" if told.truth == "F" else self._attempt(t)

    def _tell_unknown(self, t: float) -> str:
        told_of = False
        for kind, _, _ in self._since("edited"):
            told_of = (told_of or kind == "noticed") and kind != "known"
        self.log.append(("unknown", t, None))
        if self.spec.on_unknown == "notify" and not told_of and not self.paused and not self.spec.observe:
            self.log.append(("noticed", t, None))
            self.notices.append(t)
        since = self._unknown_since()
        assert since is not None
        if t - since >= self.spec.stale_after:
            self.log.append(("broke", t, None))
        return "unknown"

    def _enough(self, t: float) -> bool:
        spec, known = self.spec, self._known()
        if spec.count is not None:
            wanted, within = spec.count
            used = [] if spec.lasting else [f for kind, f, _ in self._since("edited") if kind == "fired"]
            hits = [k for k, told in known if told.truth == "T" and t - k < within and all(k > f for f in used)]
            return len(hits) >= wanted
        if spec.windows is not None:
            wanted, of = spec.windows
            return sum(told.truth == "T" for _, told in known[-of:]) >= wanted
        if spec.duration is not None:
            streak = self._streak()
            return streak is not None and t - streak >= spec.duration
        return known[-1][1].truth == "T"

    def _attempt(self, t: float) -> str:
        spec, episode = self.spec, self._episode()
        if episode is not None and (spec.repeat is None or t - episode < spec.repeat):
            return "episode"
        if self.fired and t < self.fired[-1] + spec.cooldown:
            self._look(self.fired[-1] + spec.cooldown)
            return "cooldown"
        if spec.limit is not None:
            most, per = spec.limit
            recent = [f for f in self.fired if t - f < per]
            if len(recent) >= most:
                self._look(recent[-most] + per)
                return "limit"
        if self.paused and not spec.observe:
            self._look((t // SLOT + 1) * SLOT)
            return "paused"
        self.fired.append(t)
        self.log.append(("fired", t, None))
        if spec.repeat is not None:
            self._look(t + spec.repeat)
        return "observed" if spec.observe else "fired"

    def _look(self, t: float) -> None:
        if self.spec.timed:
            self.looks.add(t)

    # -- time

    def look(self, t: float) -> str | None:
        """A time that the rule waited for has come."""
        spec = self.spec
        if spec.absent is not None:
            return self._look_for_silence(t, spec.absent)
        streak = self._streak()
        if spec.duration is None or streak is None or t - streak < spec.duration:
            return None
        unknown = self._unknown_since()
        if unknown is not None and t - unknown >= spec.stale_after:
            self.log.append(("broke", t, None))
            return "unknown"
        return self._attempt(t)

    # -- silence

    def waits(self, t: float) -> None:
        """An `absent` rule was loaded: silence counts from now."""
        assert self.spec.absent is not None
        self.log.append(("known", t, Told("T")))
        self.looks.add(t + self.spec.absent)

    def hears(self, t: float, told: Told) -> str:
        """The event that an `absent` rule waits for, or one like it."""
        assert self.spec.absent is not None
        if told.truth == "U" and self.spec.on_unknown != "act":
            return "unknown"
        if told.truth == "F":
            return "not met"
        episode = self._episode()
        self.log += [("broke", t, None), ("known", t, Told("T"))]
        self.looks.add(t + self.spec.absent)
        return "not met" if episode is None else "cleared"

    def _look_for_silence(self, t: float, absent: float) -> str | None:
        known = [k for kind, k, _ in self.log if kind == "known"]
        until = known[-1] + absent
        if t < until:
            return None
        if self.started is not None and t < self.started + CATCH_UP:
            self.looks.add(max(until, self.started + CATCH_UP))
            return None
        return self._attempt(t)
