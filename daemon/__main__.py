"""`python -m daemon` is `driftd`."""

from __future__ import annotations

import gc
import os

# Importing makes only what stays, and the collector would look through it again and again: a sixth of the time to start.
# Commands that go on for long (`start`, `feed`) turn it on.
gc.disable()
# pydantic would search every installed package for plugins of its own; there are none.
os.environ.update(PYDANTIC_DISABLE_PLUGINS="__all__")

from daemon.cli import app  # noqa: E402

if __name__ == "__main__":
    try:
        app(prog_name="driftd")
    finally:
        gc.freeze()  # the interpreter collects once more when it ends, for nobody's use
