"""`make run`: plays the story, and ends with exit code 0 only when everything in it happened as it should."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from daemon.config import load_config
from daemon.story import acts, summary
from daemon.story.board import Board
from daemon.story.stage import Stage, StoryFailed

DATA = Path(".cache/data")


def main() -> int:
    """Play the acts in order."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the daemon and the gateway up at the end")
    keep = parser.parse_args().keep
    began = time.monotonic()
    stage, seen = Stage(load_config(with_secrets=False), DATA.absolute()), acts.Seen()
    kept = False
    try:
        with Board(stage) as board:
            stage.tell = board.tell
            play(stage, board, seen)
        summary.show(stage, seen, time.monotonic() - began)
        if keep:
            home = stage.config.home
            print(
                f"The daemon is up (pid {stage.leave('daemon')}), and the gateway that it serves models by; end both with"
            )
            print(f"DRIFTD_HOME={home} .venv/bin/driftd stop --gateway")
            kept = True
    except StoryFailed as failed:
        print(f"The story broke off: {failed}", file=sys.stderr)
        return 1
    finally:
        if not kept:
            stage.close()
    return 0


def play(stage: Stage, board: Board, seen: acts.Seen) -> None:
    """All acts."""
    stage.clear()
    board.act("A data scientist trains the first model")
    acts.first_model(stage, seen)
    board.act("The daemon starts; 25,000 rows in which nothing changes")
    acts.daemon_starts(stage)
    acts.quiet(stage)
    board.act("The applicants change")
    run = acts.change(stage, seen)
    board.act("Canary, promotion and soak on real requests")
    acts.canary(stage, seen, run)
    board.act("Somebody registers a version trained on shuffled labels")
    acts.bad_version(stage, seen, "shuffled")
    board.act("Somebody registers a version that fails on one request in twenty")
    acts.bad_version(stage, seen, "flaky")


if __name__ == "__main__":
    sys.exit(main())
