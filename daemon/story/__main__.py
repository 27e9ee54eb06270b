"""`make run`: plays the story, and ends with exit code 0 only when everything in it happened as it should."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from daemon.config import load_config
from daemon.story import acts, onkafka, summary
from daemon.story.board import Board
from daemon.story.jars import NoBroker
from daemon.story.stage import Stage, StoryFailed

DATA = Path(".cache/data")


def main() -> int:
    """Play the acts in order."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the daemon and the gateway up at the end")
    parser.add_argument("--kafka", action="store_true", help="through a Kafka broker, which is started for it")
    wanted = parser.parse_args()
    began = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where whoever started it ignores them
        signal.signal(number, signal.default_int_handler)
    stage, seen = Stage(load_config(with_secrets=False), DATA.absolute()), acts.Seen()
    kept = False
    try:
        with Board(stage) as board:
            stage.tell = board.tell
            play(stage, board, seen, wanted.kafka)
        summary.show(stage, seen, time.monotonic() - began)
        if wanted.keep:
            leave(stage)
            kept = True
    except (StoryFailed, NoBroker) as failed:
        print(f"The story broke off: {failed}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("The story is broken off; what it started is being ended.", file=sys.stderr)
        return 130
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # asked again, it would leave half of it running
            signal.signal(number, signal.SIG_IGN)
        if not kept:
            stage.close()
    return 0


def leave(stage: Stage) -> None:
    """Leave all that is up to itself, and say how to end it."""
    print(f"The daemon is up (pid {stage.leave('daemon')}), and the gateway that it serves models by; end both with")
    print(f"{stage.at_home} .venv/bin/driftd stop --gateway")
    if stage.broker is not None:
        print(f"and then the Kafka broker at {stage.broker.address} with\nkill {stage.broker.pid}")


def play(stage: Stage, board: Board, seen: acts.Seen, on_kafka: bool = False) -> None:
    """All acts."""
    stage.clear()
    if on_kafka:
        board.act("A Kafka broker starts")
        stage.broker = onkafka.broker_in(stage.config.home)
        stage.config = onkafka.begin(stage.broker, stage.config)
        os.environ.update(DRIFTD_CONFIG=str(stage.config.root / "config.yaml"))  # for the programs that play
        board.tell(f"it listens on {stage.broker.address}")
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
    if on_kafka:
        board.act("The topics are read to their ends")
        acts.read_to_the_end(stage, seen)


if __name__ == "__main__":
    sys.exit(main())
