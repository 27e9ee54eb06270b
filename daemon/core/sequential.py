"""Anytime-valid tests on two arms: evidence that may be looked at after every block without inflating false alarms.

Evidence is a running log likelihood ratio; while its null hypothesis holds it ever reaches L with probability at most
e**-L (Ville's inequality), however often one looks. Blocks may differ in size, split and base rate; inside a block units
must be independent, and a block's size must not depend on its outcomes. Pure standard library.

Real traffic has incidents: for a minute half the requests of one arm fail, and the next minute all is well. They break the
independence, and no test that counts requests survives them. So one block adds at most BLOCK_CAP, and the few blocks that
speak loudest (two, and half as many more as incidents are expected) add at most ORDINARY. Less than the likelihood ratio
is always valid; simulated, incidents in 2 % of the blocks, of any size, then stay under alpha too, while every block
counted in full is wrong in a quarter of the canaries. The price: even a total failure takes about four blocks to show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

RATIOS: tuple[float, ...] = (1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
"""Rate ratios challenger/champion that "worse" is tried with."""
FINE: tuple[float, ...] = (0.5, 0.75, 1.0)
"""Rate ratios that "not worse by the margin" is tried with, as far as they are under the margin."""
MOVES: tuple[float, ...] = (0.05, 0.15, 0.3, 0.6)
"""How far beyond the tolerance "this share moved" is tried with."""
STAYS: tuple[float, ...] = (-0.5, 0.0, 0.5)
"""How much of the tolerance the share moved after all: what "it did not move by the tolerance" is tried with."""
BLOCK_CAP = 2.0
"""Most that one block adds to a log."""
ORDINARY = 0.7
"""What a loud block still adds; about one failed unit of a small block, which is no incident."""
KEPT = 12
"""Most loud blocks."""

_LEAST, _CLOSE = 1e-6, 1e-10


@dataclass(frozen=True, slots=True)
class Arm:
    """So many units, and so many of them with the event."""

    units: int = 0
    events: int = 0

    @property
    def rate(self) -> float | None:
        """Share of units with the event; None without units."""
        return self.events / self.units if self.units else None

    @property
    def others(self) -> Arm:
        """The same units, with the opposite event."""
        return Arm(self.units, self.units - self.events)

    def __add__(self, other: Arm) -> Arm:
        return Arm(self.units + other.units, self.events + other.events)


@dataclass(frozen=True, slots=True)
class Tracks:
    """Running logs, one per alternative, with what the loudest blocks of each added over ORDINARY."""

    logs: tuple[float, ...]
    tops: tuple[tuple[float, ...], ...]
    """Per track the largest excesses over ORDINARY, descending, at most KEPT."""

    @classmethod
    def start(cls, count: int) -> Tracks:
        """So many tracks at zero."""
        return cls((0.0,) * count, ((),) * count)

    def add(self, gains: Sequence[float]) -> Tracks:
        """With one more block's gains, held at BLOCK_CAP."""
        capped = [min(gain, BLOCK_CAP) for gain in gains]
        tops = tuple(
            tuple(sorted((*top, gain - ORDINARY), reverse=True)[:KEPT]) if gain > ORDINARY else top
            for top, gain in zip(self.tops, capped, strict=True)
        )
        return Tracks(tuple(log + gain for log, gain in zip(self.logs, capped, strict=True)), tops)

    def evidence(self, loud: int = 0) -> float:
        """The log of the tracks' mean likelihood ratio, with so many of each track's loudest blocks held at ORDINARY."""
        return mix([log - math.fsum(top[:loud]) for log, top in zip(self.logs, self.tops, strict=True)])


@dataclass(frozen=True, slots=True)
class RateEvidence:
    """What is known of one rate (failed, slow, wrong) of challenger and champion."""

    worse: Tracks = field(default_factory=lambda: Tracks.start(len(RATIOS)))
    """Per ratio: evidence that the challenger's rate is so many times the champion's, not the same or less."""
    peak: float = 0.0
    """The most that the evidence for "worse" has been."""
    margin: Tracks = field(default_factory=lambda: Tracks.start(len(FINE)))
    """Per ratio: evidence that the challenger's rate is not the margin times the champion's or more."""
    fine: float = 0.0
    """The evidence for "not worse by the margin" now."""
    challenger: Arm = field(default_factory=Arm)
    champion: Arm = field(default_factory=Arm)
    blocks: int = 0

    def observe(self, challenger: Arm, champion: Arm, margin: float, incidents: float = 0.0) -> RateEvidence:
        """With one more block. `incidents`: share of the blocks in which one arm alone may have an incident."""
        if not challenger.units and not champion.units:
            return self
        blocks = self.blocks + 1
        loud = 2 + int(1.5 * incidents * blocks) if incidents else 0
        worse = self.worse.add(rate_gains(challenger, champion, self.challenger + self.champion))
        fine = self.margin.add(margin_gains(challenger, champion, margin))
        peak = max(self.peak, worse.evidence(loud))
        together = self.challenger + challenger, self.champion + champion
        return RateEvidence(worse, peak, fine, fine.evidence(loud), *together, blocks)


@dataclass(frozen=True, slots=True)
class ShareEvidence:
    """What is known of the shares of two arms' units in a few groups, e.g. the quartiles of the champion's scores."""

    moved: Tracks
    """Per group, direction and move: evidence that the group's share differs by more than the tolerance."""
    peak: float
    """The most that the evidence for "moved" has been."""
    stayed: tuple[Tracks, ...]
    """Per group and direction, for each of STAYS: evidence that it does not differ by the tolerance."""
    challenger: tuple[int, ...]
    """Units per group."""
    champion: tuple[int, ...]
    before: tuple[int, ...]
    """The champion's units per group before the first block; tells what its shares may be."""

    @classmethod
    def start(cls, before: Sequence[int]) -> ShareEvidence:
        """Nothing is known yet but the champion's shares from before."""
        groups, nothing = len(before), (0,) * len(before)
        stayed = (Tracks.start(len(STAYS)),) * (2 * groups)
        return cls(Tracks.start(2 * groups * len(MOVES)), 0.0, stayed, nothing, nothing, tuple(before))

    def observe(self, challenger: Sequence[int], champion: Sequence[int], tolerance: float) -> ShareEvidence:
        """With one more block: units per group."""
        moves: list[float] = []
        stays: list[tuple[float, ...]] = []
        for group in range(len(self.before)):
            ours, theirs = (Arm(sum(counts), counts[group]) for counts in (challenger, champion))
            known = Arm(sum(self.before) + sum(self.champion), self.before[group] + self.champion[group])
            base = (known.events + 0.5) / (known.units + 1)
            for new, old, share in ((ours, theirs, base), (ours.others, theirs.others, 1 - base)):
                moves += [beyond_gain(new, old, (share + tolerance + move, share), tolerance) for move in MOVES]
                stays.append(tuple(beyond_gain(new, old, (share + s * tolerance, share), tolerance) for s in STAYS))
        moved = self.moved.add(moves)
        stayed = tuple(tracks.add(gains) for tracks, gains in zip(self.stayed, stays, strict=True))
        ours_now = tuple(a + b for a, b in zip(self.challenger, challenger, strict=True))
        theirs_now = tuple(a + b for a, b in zip(self.champion, champion, strict=True))
        return ShareEvidence(moved, max(self.peak, moved.evidence()), stayed, ours_now, theirs_now, self.before)

    @property
    def same(self) -> float:
        """Log evidence that no share differs by the tolerance: the least of the groups'."""
        return min(tracks.evidence() for tracks in self.stayed)

    @property
    def largest_move(self) -> float | None:
        """The largest difference of a share, as seen; None until both arms have units."""
        ours, theirs = sum(self.challenger), sum(self.champion)
        if not ours or not theirs:
            return None
        return max(abs(a / ours - b / theirs) for a, b in zip(self.challenger, self.champion, strict=True))


def mix(logs: Sequence[float]) -> float:
    """The log of the mean of likelihood ratios given as logs."""
    top = max(logs)
    return top + math.log(sum(math.exp(value - top) for value in logs) / len(logs))


def rate_gains(challenger: Arm, champion: Arm, seen: Arm) -> tuple[float, ...]:
    """Per ratio of RATIOS, what a block adds to the evidence for "ratio times the champion's rate" against "the same".

    Turner, Ly & Grünwald, arXiv:2106.02693. `seen`: both arms in all earlier blocks; the base rate is guessed from it.
    """
    units = challenger.units + champion.units
    if units == 0:
        return (0.0,) * len(RATIOS)
    base = min((seen.events + 0.5) / (seen.units + 50), 0.8)
    gains = []
    for ratio in RATIOS:
        raised = max(base, min(0.9, base * ratio))
        pooled = (challenger.units * raised + champion.units * base) / units
        gains.append(_gain(challenger, raised, pooled) + _gain(champion, base, pooled))
    return tuple(gains)


def margin_gains(challenger: Arm, champion: Arm, margin: float) -> tuple[float, ...]:
    """Per ratio of FINE, what a block adds to the evidence against "margin times the champion's rate, or more".

    Conditional on the events of both arms: which arm an event is on depends on the ratio alone, whatever the base rate
    does. A ratio that is not under the margin adds nothing.
    """
    events = challenger.events + champion.events
    if not challenger.units or not champion.units or not events:
        return (0.0,) * len(FINE)
    at_margin = challenger.units * margin / (challenger.units * margin + champion.units)
    gains = []
    for ratio in FINE:
        if ratio >= margin:
            gains.append(0.0)
            continue
        share = challenger.units * ratio / (challenger.units * ratio + champion.units)
        gains.append(_gain(Arm(events, challenger.events), share, at_margin))
    return tuple(gains)


def beyond_gain(challenger: Arm, champion: Arm, alternative: tuple[float, float], difference: float) -> float:
    """What a block adds to the evidence for a pair of rates (challenger's, champion's), against the nearest pair that is
    `difference` apart: for an alternative further apart this tests "differ by at most `difference`", for one less far
    apart "differ by at least".

    Both nulls are convex, so the likelihood ratio to the pair that is nearest by Kullback-Leibler divergence is valid
    against all of them (Turner & Grünwald, arXiv:2203.09785).
    """
    if not challenger.units and not champion.units:
        return 0.0
    ours, theirs = (min(max(rate, 0.005), 0.995) for rate in alternative)
    wanted, left = alternative[0] - alternative[1] - difference, ours - theirs - difference
    if difference >= 1 or wanted * left <= 0:  # there is no such pair of rates
        return 0.0
    null = _nearest(challenger.units, champion.units, ours, theirs, difference)
    return _gain(challenger, ours, null + difference) + _gain(champion, theirs, null)


def upper_bound(arm: Arm, alpha: float) -> float:
    """Anytime-valid upper bound of a rate, from the beta-binomial mixture with a uniform prior (Robbins 1970).

    1 without data; 1 - (alpha / (n + 1)) ** (1 / n) when none of n units had the event.
    """
    n, k = arm.units, arm.events
    if k == n:  # also without data
        return 1.0
    if k == 0:
        return -math.expm1((math.log(alpha) - math.log(n + 1)) / n)
    evidence = math.lgamma(k + 1) + math.lgamma(n - k + 1) - math.lgamma(n + 2) + math.log(alpha)
    low, high = k / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if k * math.log(middle) + (n - k) * math.log1p(-middle) >= evidence:
            low = middle
        else:
            high = middle
    return high


def _nearest(n: int, m: int, ours: float, theirs: float, difference: float) -> float:
    """The x with least n KL(ours | x + difference) + m KL(theirs | x): where the derivative, which ascends, is zero."""
    low, high = max(0.0, -difference) + _LEAST, min(1.0, 1 - difference) - _LEAST
    x = min(max((n * (ours - difference) + m * theirs) / (n + m), low), high)
    for _ in range(60):  # Newton, and halving where it would leave the bracket
        y = x + difference
        slope = n * (y - ours) / (y * (1 - y)) + m * (x - theirs) / (x * (1 - x))
        low, high = (x, high) if slope < 0 else (low, x)
        curve = n * (y * y - 2 * ours * y + ours) / (y * (1 - y)) ** 2
        curve += m * (x * x - 2 * theirs * x + theirs) / (x * (1 - x)) ** 2
        step = x - slope / curve
        step = step if low <= step <= high else (low + high) / 2
        if abs(step - x) < _CLOSE:
            return step
        x = step
    return x


def _gain(arm: Arm, alternative: float, null: float) -> float:
    return arm.events * math.log(alternative / null) + (arm.units - arm.events) * math.log(
        (1 - alternative) / (1 - null)
    )
