"""Logs are events with keys: one JSON line each, to standard error."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TextIO, cast

import structlog


class StandardError:
    """Standard error as a file for log lines: what finds no room there (a full disk) costs the line, never the writer of it.

    Nothing is kept back: Python's own would try a line that failed again with every later one, and at the very end.
    """

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError):
            rest = memoryview(text.encode("utf-8", "backslashreplace"))
            while rest:
                rest = rest[os.write(sys.stderr.fileno(), rest) :]
        return len(text)

    def flush(self) -> None:
        """There is nothing to flush."""


def start_logging(level: str = "info") -> None:
    """Set up structlog, and send what libraries log the same way. The audit chain, not the log, is the record."""
    number = logging.getLevelNamesMapping()[level.upper()]
    stderr = cast("TextIO", StandardError())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processor=structlog.processors.JSONRenderer(),
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    # Of a broker that is away kafka-python tells every attempt, with tracebacks; our own errors, problems and health do.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)  # its event loop has broken
