"""Figures of canary verdicts, by simulation under a look a minute: how often a good version is rolled back, how surely and
how soon a bad one is found.

`python -m tests.benchmarks.canary [NAME]` prints the figures whose names start so. Every run has a seed of its own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np
import orjson

from daemon.core.canary import GUARDS, Canary, Outlook, Plan, guard, observe, verdict, warm
from daemon.core.events import LATENCY_EDGES_MS
from daemon.core.performance import wilson
from daemon.core.sequential import Arm, RateEvidence

ALPHA = 0.05
LOOKS = 240
INCIDENTS = Plan("", "", ()).incidents
Figure = dict[str, Any]
Blocks = Iterator[tuple[Arm, Arm]]
"""Per look the challenger's and the champion's units, and how many of them failed."""


def figures(prefix: str = "") -> Iterator[Figure]:
    """The figures whose names start with `prefix`."""
    for name, figure in FIGURES.items():
        if name.startswith(prefix):
            yield from figure()


def false_rollback_rate() -> Iterator[Figure]:
    """Share of canaries of a version like the champion that are ever rejected; at most alpha is promised."""
    cases: tuple[tuple[str, Callable[[int], Blocks], str, Callable[[int], bool]], ...] = (
        ("independent units, 1 % fail", _independent, "z-test at each look", lambda run: _z_each_look(_independent(run))),
        (
            "20 requests per unit, failures clustered by unit", _clustered,
            "the same test per request", lambda run: _look_of_rejection(_clustered_requests(run)) is not None,
        ),
        (
            "in 2 % of the blocks one arm alone fails 20 %", _incidents,
            "the same test with every block counted", lambda run: _look_of_rejection(_incidents(run), 0.0) is not None,
        ),
    )  # fmt: skip
    for case, blocks, reference, other in cases:
        rejected = [_look_of_rejection(blocks(run)) is not None for run in range(1000)]
        yield _share("canary.false_rollback_rate", case, rejected, (reference, [other(run) for run in range(200)]))
    rejected = [_all_guards(run) for run in range(150)]
    yield _share(
        "canary.false_rollback_rate", "all guards, 40 of 160 units per look", rejected, ("alpha", [True]), ALPHA
    )


def power() -> Iterator[Figure]:
    """Share of canaries of a worse version that are rejected within 240 looks."""
    for base, ratio, units in ((0.01, 2, 1000), (0.01, 1.5, 1000), (0.005, 2, 200), (0.005, 5, 200)):
        runs = [_independent(run, base, ratio, units) for run in range(300)]
        found = [_look_of_rejection(blocks) is not None for blocks in runs]
        bare = [_look_of_rejection(_independent(run, base, ratio, units), 0.0) is not None for run in range(300)]
        case = f"{base:.1%} fail, {ratio} times as many of the challenger's {units // 10} of {units} units per look"
        yield _share("canary.power", case, found, ("with every block counted", bare))


def requests_to_detect() -> Iterator[Figure]:
    """Requests of the challenger (10 % of the traffic, a block per 100 of them) until it is rejected."""
    for base, ratio in ((0.001, 2), (0.001, 5), (0.01, 1.5), (0.01, 2), (0.01, 5), (0.05, 1.5), (0.05, 2)):
        found, bare = (
            [_requests(_independent(run, base, ratio, 1000, looks=1000), incidents) for run in range(200)]
            for incidents in (INCIDENTS, 0.0)
        )
        yield {
            "name": "canary.requests_to_detect",
            "case": f"{base:.1%} fail, {ratio} times as many of the challenger's",
            "value": median(found),
            "unit": "requests",
            "p90": float(np.quantile(found, 0.9)),
            "every_block_counted": median(bare),
            "every_block_counted_p90": float(np.quantile(bare, 0.9)),
            "reference": {"name": "one z-test at a size fixed before, power 90 %", "value": _fixed_size(base, ratio)},
        }


FIGURES: Mapping[str, Callable[[], Iterator[Figure]]] = {
    "canary.false_rollback_rate": false_rollback_rate,
    "canary.power": power,
    "canary.requests_to_detect": requests_to_detect,
}


def _independent(run: int, base: float = 0.01, ratio: float = 1, units: int = 1000, looks: int = LOOKS) -> Blocks:
    random = np.random.default_rng((1, run))
    ours, theirs = units // 10, units - units // 10
    for _ in range(looks):
        yield Arm(ours, int(random.binomial(ours, base * ratio))), Arm(theirs, int(random.binomial(theirs, base)))


def _incidents(run: int) -> Blocks:
    random = np.random.default_rng((2, run))
    for _ in range(LOOKS):
        rates = np.where(random.random(2) < INCIDENTS, 0.2, 0.01)
        yield Arm(100, int(random.binomial(100, rates[0]))), Arm(900, int(random.binomial(900, rates[1])))


def _users(run: int) -> Iterator[tuple[list[int], list[int]]]:
    """Per look and arm: failed requests of each unit. A unit in fifty is one whose requests fail every second time."""
    random = np.random.default_rng((3, run))
    for _ in range(LOOKS):
        failed = [random.binomial(20, np.where(random.random(users) < 0.02, 0.5, 0.0)).tolist() for users in (5, 45)]
        yield failed[0], failed[1]


def _clustered(run: int) -> Blocks:
    for block in _users(run):
        ours, theirs = (Arm(len(failed), sum(count > 0 for count in failed)) for failed in block)
        yield ours, theirs


def _clustered_requests(run: int) -> Blocks:
    for block in _users(run):
        ours, theirs = (Arm(20 * len(failed), sum(failed)) for failed in block)
        yield ours, theirs


def _look_of_rejection(blocks: Blocks, incidents: float = INCIDENTS) -> int | None:
    """The first look at which the error-rate guard, holding all of alpha, calls the challenger worse."""
    evidence = RateEvidence()
    for look, (ours, theirs) in enumerate(blocks, 1):
        evidence = evidence.observe(ours, theirs, 1.5, incidents)
        if evidence.peak >= math.log(1 / ALPHA):
            return look
    return None


def _requests(blocks: Blocks, incidents: float) -> float:
    look = _look_of_rejection(blocks, incidents)
    return math.inf if look is None else look * 100.0


def _all_guards(run: int) -> bool:
    """Whether a canary with all four guards rejects a version like the champion, looked at after each of 120 blocks."""
    random = np.random.default_rng((4, run))
    canary = warm(Canary(Plan("1", "2", tuple(guard(name) for name in GUARDS))), {"1": _arm(random, 400)})
    for _ in range(120):
        canary = observe(canary, {"1": _arm(random, 120), "2": _arm(random, 40)})
        if verdict(canary).outlook is Outlook.REJECT:
            return True
    return False


def _arm(random: np.random.Generator, units: int) -> dict[str, Any]:
    failed = int(random.binomial(units, 0.01))
    speeds = np.clip(np.round(random.normal(24, 3, units)).astype(int), 0, len(LATENCY_EDGES_MS))
    return {
        "requests": units,
        "errors": failed,
        "units": units,
        "failed_units": failed,
        "latency": np.bincount(speeds, minlength=len(LATENCY_EDGES_MS) + 1).tolist(),
        "scores": random.multinomial(units, [0.05] * 20).tolist(),
        "labelled": units,
        "wrong": int(random.binomial(units, 0.07)),
    }


def _z_each_look(blocks: Blocks) -> bool:
    """What looking at a z-test of the counts so far after each block comes to."""
    ours, theirs = Arm(), Arm()
    for new, old in blocks:
        ours, theirs = ours + new, theirs + old
        both = (ours.events + theirs.events) / (ours.units + theirs.units)
        error = math.sqrt(both * (1 - both) * (1 / ours.units + 1 / theirs.units))
        if error and (ours.events / ours.units - theirs.events / theirs.units) / error > 1.6449:
            return True
    return False


def _fixed_size(base: float, ratio: float) -> int:
    """The challenger's requests that a one-sided z-test at alpha needs for a power of 90 %, at a tenth of the traffic."""
    rate = base * ratio
    pooled = (rate + 9 * base) / 10
    null, alternative = pooled * (1 - pooled) * (1 + 1 / 9), rate * (1 - rate) + base * (1 - base) / 9
    return math.ceil(((1.6449 * math.sqrt(null) + 1.2816 * math.sqrt(alternative)) / (rate - base)) ** 2)


def _share(
    name: str, case: str, found: list[bool], reference: tuple[str, list[bool]], reference_value: float | None = None
) -> Figure:
    lower, upper = wilson(sum(found), len(found))
    other = sum(reference[1]) / len(reference[1]) if reference_value is None else reference_value
    return {
        "name": name,
        "case": case,
        "value": sum(found) / len(found),
        "unit": "share of canaries",
        "lower": round(lower, 4),
        "upper": round(upper, 4),
        "runs": len(found),
        "reference": {"name": reference[0], "value": other},
    }


if __name__ == "__main__":
    for line in figures(*sys.argv[1:2]):
        print(orjson.dumps(line).decode(), flush=True)
