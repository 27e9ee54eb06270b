"""`DRIFTD_HOME=… python -m tests.crash.story SEED`: the story of `make run` while its daemon is killed again and again.

The story is the product's, as shipped; only the daemon that it starts is looked after by `tests.crash.reviving`. All that
the story checks must come true, and afterwards the store must tell of an undisturbed course: windows without gap or
overlap, no training that ran twice, all traffic on one version, an audit chain that holds. Prints a JSON line with `kills`
and `wrong`; exit code 0 when nothing is wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.clients.registry import RegistryProcess
from daemon.config import load_config
from daemon.core.audit import verify
from daemon.platforms.local_serving import LocalServing
from daemon.reading import audit_chain, events_between
from daemon.store.sqlite import SqliteStore
from daemon.story.__main__ import DATA, play
from daemon.story.acts import Seen
from daemon.story.board import Board
from daemon.story.people import MODEL
from daemon.story.stage import Stage, StoryFailed

PATIENCE = 5
"""So many times as long as the story waits for something: most of the time the daemon is about to start."""
ROWS = 500
"""Of a window of the shipped rules."""
VERSIONS = 4
"""The champion, the one retraining, and the two bad versions."""


@dataclass(slots=True)
class Haunted(Stage):
    """A stage on which the daemon does not live long."""

    seed: str = ""

    @property
    def kills(self) -> Path:
        """A line per kill."""
        return self.config.home / "story" / "kills"

    def play(self, name: str, *module: str) -> subprocess.Popen[bytes]:
        """Start a program; the daemon by somebody who kills and revives it."""
        if name != "daemon":
            return Stage.play(self, name, *module)
        return Stage.play(self, name, "tests.crash.reviving", self.seed, str(self.kills), *module)

    def wait(self, what: str, condition: Callable[[], Any], seconds: float) -> Any:
        """As on any stage, only with more patience."""
        return Stage.wait(self, what, condition, PATIENCE * seconds)


def main(seed: str) -> int:
    """Play it once; the exit code."""
    config = load_config(with_secrets=False)
    stage, seen, wrong = Haunted(config, DATA.absolute(), seed=seed), Seen(), list[str]()
    try:
        with Board(stage) as board:
            stage.tell = board.tell
            play(stage, board, seen)
        traffic = LocalServing(config).traffic(MODEL).weights
        if sum(weight > 0 for weight in traffic.values()) != 1:
            wrong.append(f"traffic stays split: {dict(traffic)}")
        status = stage.end("daemon", 60)
        if status != 0:
            wrong.append(f"the daemon ended with {status} when it was told to stop")
        wrong += _left(stage, seen.fired_at_row)
    except StoryFailed as failed:
        wrong.append(str(failed))
    finally:
        stage.close()
    kills = len(stage.kills.read_text().splitlines()) if stage.kills.exists() else 0
    print(json.dumps({"kills": kills, "wrong": wrong}))
    return int(bool(wrong))


def _left(stage: Stage, fired: int) -> Iterator[str]:
    """What is wrong with what the daemon has left; `fired`: the rows measured until the rule fired, all one version's."""
    store = SqliteStore(stage.config.home / stage.config.store.path)
    try:
        verify(audit_chain(store))
        with store.read() as session:
            windows = [one.event.data["window"] for one in events_between(session, "drift.measured", "", 0, 1 << 60)]
    finally:
        store.close()
    rows = [(window["first"], window["last"] + 1) for window in windows if window["last"] < fired]
    if rows != [(first, first + ROWS) for first in range(0, fired, ROWS)]:
        yield f"the windows up to row {fired} have gaps or overlaps: {rows}"
    config = stage.config
    registry = RegistryProcess(config.registry.uri, config.registry.artifacts)
    try:
        (model,) = registry.models({config.models[MODEL].registered: 0})
    finally:
        registry.close()
    if len(model.live) != VERSIONS:
        yield f"{len(model.live)} versions were registered, not {VERSIONS}: a training ran twice, or never"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
