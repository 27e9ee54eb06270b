"""`python -m daemon` is `driftd`."""

from __future__ import annotations

import gc

# Importing makes only what stays: the collector would look through it again and again, a sixth of the time to start.
gc.disable()

from daemon.cli import app  # noqa: E402

if __name__ == "__main__":
    app(prog_name="driftd")
