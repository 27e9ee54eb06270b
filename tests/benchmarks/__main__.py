"""Prints one JSON line per figure: `{"name": …, "value": …, "unit": …, "reference": {"name": …, "value": …}}`."""

from __future__ import annotations

import importlib
import sys

import orjson

MODULES = {
    "intake.": "intake",
    "intake.postgres_": "postgres",
    "start.": "intake",
    "handler.": "process",
    "memory.": "process",
    "drift.": "drift",
    "canary.": "canary",
    "check.": "check",
    "gateway.": "gateway",
    "kafka.": "kafka",
    "kafka.payload_": "payloads",
    "kubernetes.": "kubernetes",
}
"""Figures by the beginning of their names -> the module that measures them."""


def main() -> None:
    """Measure those whose name starts with the argument, or all."""
    prefix = sys.argv[1] if len(sys.argv) > 1 else ""
    wanted = {module for start, module in MODULES.items() if start.startswith(prefix) or prefix.startswith(start)}
    if not wanted:
        raise SystemExit(f"no figure's name starts with {prefix!r}; they start with {', '.join(MODULES)}")
    for name in dict.fromkeys(MODULES.values()):
        if name in wanted:
            for figure in importlib.import_module(f"tests.benchmarks.{name}").figures(prefix):
                sys.stdout.buffer.write(orjson.dumps(figure) + b"\n")
                sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
