"""The watch over two versions: measured traffic in, evidence per guard out. Canary and soak go on with the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from daemon.handling import Answer, Call, Context, judge

PAGE = 500
"""Most blocks that one look takes in."""
FRESH_LOOKS, FRESH_SECONDS = 3, 10.0
"""Evidence is fresh for so many looks, and at least so many seconds."""
LOOK_BACK = 20_000
"""How many events back the champion's baseline may come from."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is kept between two looks."""

    canary: judge.Canary
    """The evidence so far."""
    cursor: int
    """The last event that it has seen."""
    newest: str = ""
    """ISO time at which the newest block was recorded; empty before the first look at both versions."""

    def to_json(self) -> dict[str, Any]:
        """For the call's state."""
        return {"canary": self.canary.to_json(), "cursor": self.cursor, "newest": self.newest}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Watch:
        """From the call's state."""
        return cls(judge.Canary.from_json(stored["canary"]), int(stored["cursor"]), stored.get("newest", ""))

    def is_stale(self, now: datetime, look: float) -> bool:
        """Whether nothing was measured lately (`look` in seconds): the monitors are behind, as after a crash, or there is
        no traffic. Nothing good may be concluded then: what was answered meanwhile is not in the evidence yet.
        """
        fresh = timedelta(seconds=max(FRESH_LOOKS * look, FRESH_SECONDS))
        return not self.newest or now - datetime.fromisoformat(self.newest) > fresh

    @property
    def lacks(self) -> tuple[str, ...]:
        """What the baseline still lacks before anything may be compared; empty when it is frozen."""
        guards = {guard.name for guard in self.canary.plan.guards}
        slow = "latency_p95" in guards and self.canary.slow_from is None
        shift = "prediction_shift" in guards and self.canary.shift is None
        need = self.canary.plan.baseline_units
        return (
            *([f"{sum(self.canary.latency_before)} of {need} latencies"] if slow else []),
            *([f"{sum(self.canary.scores_before)} of {need} scores"] if shift else []),
        )


def begin(context: Context, plan: judge.Plan) -> Watch:
    """A watch that has seen nothing; its baseline may come from traffic that was measured before."""
    return Watch(judge.Canary(plan), max(0, context.last_seq() - LOOK_BACK))


def warmed(call: Call, context: Context, watch: Watch) -> tuple[Watch, int]:
    """The baseline with the blocks since the last look, and how many they were. It is frozen before the new version gets
    its first request; blocks after that are only passed by.
    """
    blocks = context.events("traffic.measured", call.model, watch.cursor, PAGE)
    for recorded in blocks:
        watch = Watch(judge.warm(watch.canary, recorded.event.data["arms"]), recorded.seq)
    return watch, len(blocks)


def looked(call: Call, context: Context, watch: Watch) -> tuple[Watch, int]:
    """The evidence with the blocks since the last look, and how many they were; PAGE of them: there are more."""
    blocks = context.events("traffic.measured", call.model, watch.cursor, PAGE)
    for recorded in blocks:
        canary = judge.observe(watch.canary, recorded.event.data["arms"])
        watch = replace(watch, canary=canary, cursor=recorded.seq, newest=recorded.at.isoformat())
    return watch, len(blocks)


def evidence(verdict: judge.Verdict) -> Answer:
    """A verdict for the audit."""
    return Answer("canary", "verdict", verdict.to_json())


def reasons(verdict: judge.Verdict) -> str:
    """The verdict's reasons in a sentence."""
    return "; ".join(verdict.reasons) or "no guard has decided"
