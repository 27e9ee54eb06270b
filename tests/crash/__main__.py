"""`python -m tests.crash`: kill the daemon at every fault point and at random moments; a line for each, and a sum.

    --times 20      kills at each point
    --random 200    kills at random moments of a scene in which much happens at once, worker and registry killed as well
    --story 200     kills at random moments of the story of `make run`, which is played as often as that takes
    --point NAME    only this point (may be given several times); no others unless they are asked for too
    --seed N        another course of everything

Exit code 0 when everything held, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from daemon.points import Point
from tests.crash.processes import ROOT
from tests.crash.trials import Ground, Outcome

RANDOM_A_SCENE = 25


def main(arguments: list[str]) -> int:
    """Run what is asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="tests.crash")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--random", type=int)
    parser.add_argument("--story", type=int)
    parser.add_argument("--point", action="append", choices=[point.name for point in Point], default=[])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    points = [Point[name] for name in asked.point] or list(Point)
    kills = asked.random if asked.random is not None else 0 if asked.point else 200
    in_story = asked.story if asked.story is not None else 0 if asked.point else 200
    folder = Path(tempfile.mkdtemp(prefix="driftd-crash-"))
    ground = Ground(folder, _say)
    began = time.monotonic()
    outcomes = [_told(point.name, ground.at_point(point, asked.times, asked.seed)) for point in points if asked.times]
    for number in range(-(-kills // RANDOM_A_SCENE)):
        part = min(RANDOM_A_SCENE, kills - number * RANDOM_A_SCENE)
        name = f"random moments {number + 1}{' under traffic' if number % 2 else ''}"
        outcomes.append(_told(name, ground.at_random(part, asked.seed * 1000 + number, on_traffic=bool(number % 2))))
    if in_story:
        outcomes.append(_told("the story", _stories(folder, in_story, asked.seed)))
    failed = sum(bool(outcome.wrong) for outcome in outcomes)
    if not failed:
        shutil.rmtree(folder)
    total = sum(outcome.kills for outcome in outcomes)
    _say(f"{total} kills in {time.monotonic() - began:.0f} s")
    _say(f"{len(outcomes) - failed} passed, {failed} failed")
    return int(failed > 0)


def _stories(folder: Path, kills: int, seed: int) -> Outcome:
    """Play the story until the daemon has been killed so often; each time in a process of its own."""
    outcome = Outcome(seed=f"story/{seed}")
    while outcome.kills < kills and not outcome.wrong:
        number = outcome.played["stories"]
        home = folder / f"story-{number}"
        command = [sys.executable, "-m", "tests.crash.story", f"{outcome.seed}/{number}"]
        environment = {**os.environ, "DRIFTD_HOME": str(home)}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        end = done.stdout.splitlines()[-1] if done.stdout else "{}"
        told = json.loads(end) if end.startswith("{") else {}
        outcome.kills += told.get("kills", 0)
        outcome.wrong += told.get("wrong", [f"it broke off: {end}"])
        outcome.played["stories"] += 1
        if not outcome.wrong:
            shutil.rmtree(home)
    return outcome


def _told(name: str, outcome: Outcome) -> Outcome:
    """Print a line about an outcome, and what does not hold."""
    took = outcome.recoveries
    shown = f"recovery {statistics.median(took):.1f} s, at most {max(took):.1f} s" if took else "no recovery"
    verdict = "FAILED" if outcome.wrong else "ok"
    played = ", ".join(f"{count} {what}" for what, count in outcome.played.items())
    _say(f"{name:30} {outcome.kills:3} kills, {shown}: {verdict}  [{outcome.seed}: {played}]")
    for wrong in outcome.wrong[:20]:
        _say(f"  {wrong}")
    return outcome


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
