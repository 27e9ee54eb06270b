"""Starts the worker process, with one thread per numeric library: a thread per core, on a small and busy machine, has
cost up to a hundred times the time.
"""

import importlib
import os


def main() -> None:
    """Set the number of threads, and only then import what reads it."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.putenv(name, "1")
    importlib.import_module("daemon.monitors.worker").main()


if __name__ == "__main__":
    main()
