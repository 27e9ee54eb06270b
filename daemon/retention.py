"""What is removed when nobody needs it any more, as `retention:` in config.yaml says. The store and the audit stay whole.

| what | is removed when |
|---|---|
| `jobs/JOB`, or a job's object in a cluster | the run of its call ended so long ago: nobody asks for the job any more, so that it never starts again |
| `evidence/RUN` | the run ended so long ago |
| closed files of the gateway's prediction log | they are so old, and were measured |
| rows that were read from topics, in the folders of a stream with an `archive` | they are so old |
| `gateway/*.log` | over 10 MB: emptied, one copy is kept |
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

import orjson
import structlog

from daemon.config import Config, Model, Stream
from daemon.core.errors import DaemonError
from daemon.gateway.log import SENT, closed_before
from daemon.kafkaparts import ARCHIVED
from daemon.platforms.base import KeptJobs
from daemon.reading import Readable
from daemon.store.rows import micros

FIRST_S, AGAIN_S = 60.0, 3600.0
"""When it is looked for the first time, and how often then."""
LOG_BYTES = 10_000_000


@dataclass(frozen=True, slots=True)
class Swept:
    """What was removed."""

    jobs: int
    evidence: int
    predictions: int
    archive: int = 0
    """Files of rows that were read from topics."""


class Retention:
    """Removes what is old enough. For one thread."""

    def __init__(self, config: Config, jobs: KeptJobs, store: Readable, clock: Callable[[], datetime]) -> None:
        self._config = config
        self._jobs = jobs
        self._store = store
        self._clock = clock
        self._log = structlog.get_logger("retention")

    def run(self, stop: threading.Event) -> None:
        """Sweep every hour until `stop` is set; what cannot be removed now is looked at again."""
        wait = FIRST_S
        while not stop.wait(wait):
            wait = AGAIN_S
            try:
                swept = self.sweep()
            except (OSError, DaemonError) as error:
                self._log.warning("retention.stopped", why=str(error))
                continue
            if swept != Swept(0, 0, 0):
                self._log.info("retention.swept", **asdict(swept))

    def sweep(self) -> Swept:
        """Remove all that is old enough now. Raises OSError, and DaemonError when the store cannot be read."""
        self._trim_logs()
        keep = self._config.retention
        return Swept(
            sum(map(self._jobs.remove, list(self._old_jobs(keep.jobs)))),
            sum(map(_removed, list(self._old_evidence(keep.evidence)))),
            sum(self._old_predictions(model, keep.predictions) for model in self._config.models.items()),
            sum(map(self._old_archive, self._config.streams.values())),
        )

    def _old_jobs(self, age: timedelta | None) -> Iterator[str]:
        """Jobs whose call is settled and whose run ended: of others somebody may yet ask."""
        if age is None:
            return
        before = micros(self._clock() - age)
        with self._store.read() as session:
            for job in self._jobs.names():
                call, _, _ = job.rpartition("-")
                if any(ended is not None and ended < before for (ended,) in session.rows("call_over", call)):
                    yield job

    def _old_evidence(self, age: timedelta | None) -> Iterator[Path]:
        folder = self._config.home / "evidence"
        if age is None or not folder.is_dir():
            return
        before = micros(self._clock() - age)
        with self._store.read() as session:
            for run in sorted(folder.iterdir()):
                if any(ended is not None and ended < before for (ended,) in session.rows("run_over", run.name)):
                    yield run

    def _old_predictions(self, model: tuple[str, Model], age: timedelta | None) -> int:
        """Remove what the gateway logged for a model so long ago, and was measured, or sent to where it is."""
        name, stream = model[1].stream, self._config.streams.get(model[1].stream or "")
        if age is None or stream is None:
            return 0
        folder, removed, target = self._config.home / stream.predictions, 0, model[1].serving or model[0]
        with self._store.read() as session:
            sent = [orjson.loads(value)["file"] for (value,) in session.rows("cursor", SENT + target)]
            for path in closed_before(folder, target, self._clock() - age):
                if stream.kind == "files" and not session.rows("file", f"stream:{name}", str(path)):
                    continue
                if stream.kind == "kafka" and not any(path.name <= file for file in sent):
                    continue
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _old_archive(self, stream: Stream) -> int:
        """Remove the files of a stream's archive that nothing was added to for as long as rows are kept."""
        if stream.archive is None:
            return 0
        before, removed = (self._clock() - stream.archive).timestamp(), 0
        for folder in filter(None, (stream.predictions, stream.labels)):
            for path in sorted((self._config.home / folder).glob(f"{ARCHIVED}*.jsonl")):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()
                        removed += 1
        return removed

    def _trim_logs(self) -> None:
        """The gateway appends to its logs, so they can be emptied at any time."""
        for log in sorted((self._config.home / "gateway").glob("*.log")):
            with contextlib.suppress(FileNotFoundError):
                if log.stat().st_size > LOG_BYTES:
                    shutil.copyfile(log, log.with_suffix(".log.1"))
                    os.truncate(log, 0)


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder)
    return True
