"""`driftd stop`: end the daemon, and with `--gateway` what outlives it."""

from __future__ import annotations

import threading
import time
from typing import Annotated

import typer

from daemon.commands.printing import AsJson, print_json, print_line
from daemon.commands.workplace import Workplace, workplace
from daemon.control import ask
from daemon.core.errors import StoreBusy, Unavailable
from daemon.platforms.local_serving import LocalServing

PATIENCE_S = 60.0
"""How long to wait for the daemon to end before its gateway is stopped."""

Gateway = Annotated[bool, typer.Option("--gateway", help="End the model gateway too: no request is answered any more.")]


def stop(context: typer.Context, gateway: Gateway = False, as_json: AsJson = False) -> None:
    """Stop the daemon: what is at work is settled, jobs and the gateway go on by themselves."""
    place = workplace(context)
    try:
        ask(place.home, {"op": "stop"})
    except Unavailable:
        if not gateway:
            raise
    if gateway:
        _await_end(place)  # a daemon that is there would start the gateway again
        LocalServing(place.config).stop()
    if as_json:
        print_json({"stopping": True, "gateway": gateway})
    else:
        print_line("Daemon and gateway have ended." if gateway else "It is stopping.")


def _await_end(place: Workplace) -> None:
    until, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while time.monotonic() < until:
        try:
            ask(place.home, {"op": "status"}, 10.0)
        except Unavailable:
            return
        pause.wait(0.2)
    raise StoreBusy(f"the daemon did not end within {PATIENCE_S:g} s; its log says what it waits for")
