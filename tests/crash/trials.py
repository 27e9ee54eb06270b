"""Trials: a daemon that is killed again and again in one scene, and what its last life left."""

from __future__ import annotations

import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from daemon.platforms.local_serving import LocalServing
from daemon.points import Point
from tests.crash.invariants import Measures, happened, measures, unsettled, violations
from tests.crash.processes import Doom, Life, children, kill, left_running, pause
from tests.crash.scene import Scene, lay_out
from tests.crash.senders import Senders
from tests.crash.served import Served
from tests.postgres import Database

KILLS_A_SCENE = 5
"""Kills at a point before all is checked; each in a life of its own."""
STARTING = 0.3
"""Share of the random kills that come while the daemon starts."""
REACH_SECONDS = 180.0
SETTLE_SECONDS = 120.0
DEPOSED = 5
"""Exit status of a daemon that finds that another leads."""
ON_TRAFFIC = frozenset({Point.SHIFTED, Point.REGISTRY_CHANGED})
"""Points that only a canary passes."""


@dataclass
class Outcome:
    """What came of a trial."""

    kills: int = 0
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the start of each life to its first answer."""
    wrong: list[str] = field(default_factory=list)
    seed: str = ""
    played: Counter[str] = field(default_factory=Counter)
    """What happened in its scenes, counted."""


@dataclass
class Ground:
    """Where trials take place, one after the other, always in the same folder: what was measured names its paths."""

    folder: Path
    say: Callable[[str], None] = print
    undisturbed: Measures | None = None
    database: Callable[[], Database] | None = None
    """Makes the database of each scene that two daemons share."""
    _failed: int = 0

    @property
    def scene(self) -> Path:
        """The folder of the scene that is played now."""
        return self.folder / "scene"

    def at_point(self, point: Point, kills: int, seed: int) -> Outcome:
        """Kill the daemon so many times at a point, a few in each scene, at a random pass of it each time."""
        outcome = Outcome(seed=f"{point.name}/{seed}")
        random = Random(outcome.seed)
        while outcome.kills < kills and not outcome.wrong:
            part = min(KILLS_A_SCENE, kills - outcome.kills)
            self._at_points([point] * part, outcome, random)
        return outcome

    def at_points(self, points: Sequence[Point], seed: int) -> Outcome:
        """Kill the daemon at each of these points in turn, all in one scene."""
        outcome = Outcome(seed=f"{'+'.join(point.name for point in points)}/{seed}")
        self._at_points(points, outcome, Random(outcome.seed))
        return outcome

    def taken_over(self, points: Sequence[str], seed: int) -> Outcome:
        """Stop the leader at each of these points (or verbs) in turn, let the other daemon take over, and wake the first."""
        outcome = Outcome(seed=f"taken-{'+'.join(points)}/{seed}")
        on_traffic = not {"SHIFTED", "REGISTRY_CHANGED", "canary", "promote", "rollback", "soak"}.isdisjoint(points)
        with self._played(outcome, Random(outcome.seed), on_traffic=on_traffic) as play:
            for point in points:
                most = _MOST_PASSES.get(Point[point], 6) if point.isupper() else 2
                play.taken_over(Doom(point, play.random.randint(1, most), stands_still=True))
        return outcome

    def undisturbed_by_kills(self, seed: int) -> tuple[Scene, Senders, Measures]:
        """A scene with a few kills that went well, as it was left: for those who want to spoil it."""
        outcome = Outcome(seed=f"whole/{seed}")
        with self._played(outcome, Random(outcome.seed), on_traffic=False) as play:
            for point in (Point.JOB_STARTED, Point.LANDED):
                play.life_to(Doom(point.name, 2))
        assert outcome.wrong == []
        return play.scene, play.senders, self.reference()

    def _at_points(self, points: Sequence[Point], outcome: Outcome, random: Random) -> None:
        with self._played(outcome, random, on_traffic=not ON_TRAFFIC.isdisjoint(points)) as play:
            for point in points:
                play.life_to(Doom(point.name, play.random.randint(1, _MOST_PASSES.get(point, 12))))

    def at_random(self, kills: int, seed: int, *, on_traffic: bool) -> Outcome:
        """Kill the daemon so many times at random moments of one scene; now and then its worker or registry as well."""
        outcome = Outcome(seed=f"random/{seed}/{'traffic' if on_traffic else 'files'}")
        with self._played(outcome, Random(outcome.seed), on_traffic=on_traffic) as play:
            for _ in range(kills):
                play.life_for(4.0 if on_traffic else 2.0)
        return outcome

    @contextmanager
    def _played(self, outcome: Outcome, random: Random, *, on_traffic: bool) -> Iterator[Play]:
        """A scene: laid out, played by the caller, then settled and checked; nothing of it runs on."""
        undisturbed = self.reference()
        scene = self._lay_out(self.database)
        play = Play(scene, Senders(scene, random), random, outcome, Served(scene, self.folder) if on_traffic else None)
        try:
            with play.opened():
                yield play
                play.settle()
            outcome.played += happened(scene, play.senders)
            outcome.wrong += violations(scene, play.senders, undisturbed)
            if play.served is not None:
                outcome.wrong += play.served.violations()
                outcome.played += play.served.ends
        except AssertionError as error:
            outcome.wrong.append(str(error))
        finally:
            if play.served is not None:
                play.served.close()
            outcome.wrong += ended(scene)
            if outcome.wrong:
                self._failed += 1
                kept = self.folder / f"failed-{self._failed}"
                self.scene.rename(kept)
                self.say(f"  {outcome.seed}: the scene is kept in {kept}")

    def reference(self) -> Measures:
        """What an undisturbed daemon measures of the same files."""
        if self.undisturbed is None:
            scene = self._lay_out()
            senders = Senders(scene, Random(0))
            senders.land_rest()
            try:
                with Life(scene) as life:
                    life.ready()
                    _wait_until_settled(life, scene, senders)
                    assert life.end() == 0, "an undisturbed daemon did not end well"
                self.undisturbed = measures(scene)
            finally:
                senders.close()
                left = ended(scene)
            assert not left, left
        return self.undisturbed

    def _lay_out(self, database: Callable[[], Database] | None = None) -> Scene:
        shutil.rmtree(self.scene, ignore_errors=True)
        return lay_out(self.scene, None if database is None else database())


@dataclass
class Play:
    """One scene while it is played."""

    scene: Scene
    senders: Senders
    random: Random
    outcome: Outcome
    served: Served | None
    _allowed_at: float = 0.0

    @contextmanager
    def opened(self) -> Iterator[None]:
        """With everything that talks to the daemon."""
        try:
            if self.served is not None:
                self.served.start()
            yield
        finally:
            if self.served is not None:
                self.served.stop()
            self.senders.close()

    def life_to(self, doom: Doom) -> None:
        """A life that ends at a point."""
        limit = time.monotonic() + REACH_SECONDS
        with self._life(doom) as life:
            while life.status is None:
                assert time.monotonic() < limit, (
                    f"{doom.point} was not passed {doom.number} times in {REACH_SECONDS:g} s"
                )
                self._go_on()
            self._died(life)

    def taken_over(self, doom: Doom) -> None:
        """A leader that stands still at a point. Another takes over and goes on; the first wakes up, and ends by itself."""
        limit = time.monotonic() + REACH_SECONDS
        with self._life(doom) as leader, Life(self.scene) as follower:
            led = leader.epoch()
            while not leader.stands_still:
                assert leader.status is None, f"the leader ended by itself with {leader.status}"
                assert time.monotonic() < limit, f"{doom.point} was not passed {doom.number} times"
                self._go_on()
            while follower.epoch() <= led:
                assert follower.status is None, f"the follower ended by itself with {follower.status}"
                assert time.monotonic() < limit, "the follower did not take over"
                pause(0.1)
            # Both are on this machine: until it ends the first has the webhook's port, and takes what is posted there.
            status = leader.wake()
            assert status == DEPOSED, f"who was deposed ended with {status}"
            self.senders.allow()
            self.senders.retry()
            until = time.monotonic() + 2
            while time.monotonic() < until:
                self._go_on()
            status = follower.end()
            assert status == 0, f"who took over ended with {status} when it was told to stop"
        self.outcome.kills += 1
        self.senders.land_stream(2, dead=True)

    def life_for(self, most: float) -> None:
        """A life that ends at any moment: while it starts, or within so many seconds of its first answer. Now and then
        its worker or its registry's process is killed before.
        """
        chance = self.random.random()
        module = "daemon.monitors" if chance < 0.15 else "tests.crash.registry" if chance < 0.25 else ""
        when, starting = self.random.random(), self.random.random() < STARTING
        usual = statistics.median(self.outcome.recoveries[-9:] or [1.5])
        until = time.monotonic() + self.random.uniform(0.0, usual) if starting else None
        with self._life(None, until) as life:
            seconds = self.random.uniform(0.0, most)
            began = time.monotonic()
            while until is None and time.monotonic() - began < seconds:
                assert life.status is None, f"the daemon ended by itself with {life.status}"
                self._go_on()
                if module and time.monotonic() - began > when * seconds:
                    for child in children(life.pid, module):
                        kill(child)
                    module = ""
            life.kill()
            self._died(life)

    def settle(self) -> None:
        """A last life in which everything comes to its end, and which ends in good order."""
        self.senders.land_rest()
        with self._life(None) as life:
            _wait_until_settled(life, self.scene, self.senders)
            if self.served is not None:
                self.served.check(life)
            status = life.end()
            assert status == 0, f"the daemon ended with {status} when it was told to stop"

    @contextmanager
    def _life(self, doom: Doom | None, until: float | None = None) -> Iterator[Life]:
        with Life(self.scene, doom) as life:
            seconds = life.ready(until)
            if seconds is not None:
                self.outcome.recoveries.append(seconds)
            self.senders.allow()
            self._allowed_at = time.monotonic()
            if life.status is None and seconds is not None:
                self.senders.retry()
            yield life

    def _go_on(self) -> None:
        if time.monotonic() - self._allowed_at > 2:
            self._allowed_at = time.monotonic()
            self.senders.allow()
        self.senders.act()
        if self.served is not None:
            self.served.act(self.random)
        pause(self.random.uniform(0.0, 0.06))

    def _died(self, life: Life) -> None:
        assert life.status == -9, f"the daemon ended by itself with {life.status}"
        self.outcome.kills += 1
        self.senders.land_stream(2, dead=True)


def _wait_until_settled(life: Life, scene: Scene, senders: Senders) -> None:
    limit = time.monotonic() + SETTLE_SECONDS
    while left := unsettled(scene, senders):
        assert life.status is None, f"the daemon ended by itself with {life.status}"
        assert time.monotonic() < limit, f"not settled after {SETTLE_SECONDS:g} s: {'; '.join(left)}"
        senders.retry()
        pause(0.1)


def ended(scene: Scene) -> list[str]:
    """End the gateway; then nothing of the scene may be running. What does is ended by its number, and told."""
    limit = time.monotonic() + 30
    while (left := left_running(scene)) and time.monotonic() < limit:
        LocalServing(scene.config).stop()  # again and again: one that is just starting cannot be found yet
        pause(0.1)
    for pid in left:
        kill(pid)
    return [f"left running: {command} ({pid})" for pid, command in left.items()]


_MOST_PASSES = {
    Point.SUBMITTED: 40,
    Point.BEFORE_COMMIT: 40,
    Point.AFTER_COMMIT: 40,
    Point.RECEIPTED: 40,
    Point.MEASURED: 1,
    Point.RULES_LOADED: 3,
    Point.HEAD_EXPORTED: 3,
    Point.JOB_MADE: 3,
    Point.JOB_STARTED: 3,
    Point.LANDED: 3,
    Point.SHIFTED: 2,
    Point.REGISTRY_CHANGED: 4,
}
"""Points that a life passes more, or less, often than a dozen times in a few seconds."""
