"""A program's side of a job: what it was asked, and how it answers.

The platform writes `call.json` into the job's folder and gives its path as DRIFTD_CALL. The program answers with
`outputs.json` beside it and its exit status: 0 done, 75 not yet (too few rows, a service that is away), else failed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

NOT_YET = 75
"""EX_TEMPFAIL of sysexits.h."""


@dataclass(frozen=True)
class JobCall:
    """What the program was asked; the handler's `parts/jobs.py` writes it."""

    folder: Path
    """The job's own folder: results and scratch files go here."""
    call: str
    """Name of the call: what is made carries it, so that making it twice finds the first one."""
    run: str
    chain: tuple[str, ...]
    model: dict[str, Any]
    """`name`, and the model's entry in config.yaml."""
    registry: dict[str, str]
    """`uri`, `artifacts`."""
    stream: dict[str, Any]
    """`name`, absolute `predictions` and `labels` folders, `pattern`, `fields`, `privacy`; empty without a stream."""
    holdout: dict[str, Any]
    """`share` of the rows that no training may use, and the `salt` of the hash that chooses them."""
    parameters: dict[str, Any]
    champion: str
    """The champion's version; empty when there is none."""
    version: str
    """The version in question (evaluate); empty when there is none."""
    table: str
    """A file of labelled rows to use in place of the stream; never set by a rule."""

    def parameter(self, name: str, default: Any = None) -> Any:
        """A parameter's value, `default` when it was not given."""
        value = self.parameters.get(name)
        return default if value is None else value


def read_call() -> JobCall:
    """The call of this job: a file that DRIFTD_CALL names, or, in a cluster, DRIFTD_CALL_JSON itself."""
    if "DRIFTD_CALL" in os.environ:
        path = Path(os.environ["DRIFTD_CALL"])
        folder, raw = path.parent, json.loads(path.read_bytes())
    else:
        folder, raw = Path(tempfile.mkdtemp(prefix="driftd-")), json.loads(os.environ["DRIFTD_CALL_JSON"])
    return JobCall(
        folder=folder,
        call=raw["call"],
        run=raw.get("run", ""),
        chain=tuple(raw.get("chain", ())),
        model=raw["model"],
        registry=raw["registry"],
        stream=raw.get("stream") or {},
        holdout=raw["holdout"],
        parameters=raw.get("parameters", {}),
        champion=raw.get("champion", ""),
        version=raw.get("version", ""),
        table=raw.get("table", ""),
    )


def log(event: str, **facts: Any) -> None:
    """One line of the job's log: JSON with the time, an event name and its facts."""
    line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
    print(json.dumps(line, default=str), flush=True)


def finish(call: JobCall, outputs: dict[str, Any]) -> None:
    """Leave the outputs, whole or not at all; the program then ends with status 0.

    In a cluster DRIFTD_OUTPUTS is the container's termination log, which holds 4096 bytes: more is cut, and then unreadable.
    """
    told = json.dumps(outputs, default=str)
    given = os.environ.get("DRIFTD_OUTPUTS")
    if given and "DRIFTD_CALL" not in os.environ:
        Path(given).write_text(told)  # a mount of its own: it cannot be renamed in
    part = call.folder / "outputs.json.part"
    part.write_text(told)
    part.replace(call.folder / "outputs.json")
    log("finished", **outputs)


def not_yet(call: JobCall, why: str, **facts: Any) -> NoReturn:
    """End with status 75: the handler asks again later, until its deadline."""
    finish(call, {"why": why, **facts})
    sys.exit(NOT_YET)


def fail(why: str) -> NoReturn:
    """End with status 1; the reason is the log's last line."""
    print(why, file=sys.stderr, flush=True)
    sys.exit(1)
