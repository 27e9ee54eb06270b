"""/metrics: everything is read when it is asked for, so no figure is kept twice and none can differ from `driftd status`.

What has happened (`_total`, histograms) is counted since the process began; what a stream gave up, since the stream began.
"""

from __future__ import annotations

import operator
import platform
import resource
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from daemon.condition import Condition
from daemon.core.errors import DaemonError
from daemon.core.events import CATALOGUE
from daemon.core.problems import KINDS
from daemon.core.runs import State
from daemon.core.verdicts import Verdict
from daemon.monitors.supervisor import Supervisor
from daemon.reading import Readable
from daemon.store.rows import moment
from daemon.tally import WORK_S, Durations, Figures
from daemon.web.families import OTHER, Labelled, by, counters, gauge, gauges, histograms, known
from daemon.writer import Writer

OUTCOMES = ("done", "working", "again", "failed", "inconclusive", "ended")
"""What handlers answer; `ended`: what a call that is not needed any more had started was ended."""
KEPT = {
    "waiting": ("waiting_rows", "Predictions that wait for their label."),
    "early": ("early_labels", "Labels that wait for their prediction."),
    "slices": ("slices", "Slices of partitions that wait to be put together."),
    "held": ("held_rows", "Rows that wait for their slice to be put together."),
    "halves": ("waiting_payloads", "Requests and responses that wait for their other half."),
    "partitions": ("partitions", "Partitions that this daemon's workers read."),
    "paused": ("paused_partitions", "Of these, those that are too far ahead of the slowest and wait."),
    "open_slices": ("open_slices", "Slices that are not complete yet."),
}
"""A stream's figures that go up and down: in the status -> as a metric."""
PASSED = {
    "rows": ("rows", "Rows of topics that were read."),
    "late": ("late_rows", "Rows that came after their slice was complete."),
    "malformed": ("malformed_records", "Records that could not be read."),
    "unpaired": ("unpaired_payloads", "Requests whose response never came, and responses without their request."),
    "dropped": ("dropped_rows", "Rows that no window could take."),
    "evicted": ("evicted_rows", "Predictions that were given up before their label came."),
    "unmatched": ("unmatched_labels", "Labels whose prediction never came."),
    "repeated": ("repeated_labels", "Labels that came again."),
}
"""A stream's figures that only grow: in the status -> as a metric without `_total`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the figures are read from."""

    condition: Condition
    writer: Writer
    streams: Supervisor
    store: Readable
    path: Path
    """Of the store's file."""
    verbs: frozenset[str]
    clock: Callable[[], datetime]


class Metrics(Collector):
    """Renders figures. Safe to use from any thread."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self, accepted: str) -> tuple[bytes, str]:
        """All figures now, in the best format that an Accept header takes, and the format's name."""
        encode, kind = choose_encoder(accepted)
        return encode(self._registry), kind

    def describe(self) -> Iterator[Metric]:
        """Nothing: what there is, is known when it is asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All families."""
        seen, now = self._seen, self._seen.clock()
        status = seen.condition.status()
        yield from _daemon(status)
        yield from self._waiting(status, now)
        yield from _sources(status, now)
        yield from _streams(status)
        yield from self._counted(seen.writer.tally.figures())
        yield from self._stored()
        yield gauges(
            "worker_resident_memory_bytes", "Resident size of each process that measures streams.", ["worker"],
            by({str(number): _resident(pid) for number, pid in enumerate(seen.streams.pids)}),
        )  # fmt: skip

    def _waiting(self, status: Mapping[str, Any], now: datetime) -> Iterator[Metric]:
        seen = self._seen
        yield gauge("queue_batches", "Batches that wait to be stored.", status["queued"])
        ages: dict[tuple[str, ...], float | None] = {("store",): seen.writer.waited_s}
        try:
            with seen.store.read() as session:
                due = session.rows("next_call")[0][0]
            ages["handler",] = 0.0 if due is None else max((now - moment(due)).total_seconds(), 0.0)
        except DaemonError:
            pass  # the store cannot be read now: its figures are left out, and `driftd_ready` says why
        yield gauges(
            "unhandled_event_age_seconds",
            "Age of the oldest event that waits to be stored, or whose call waits for a free worker.", ["waits_for"], ages,
        )  # fmt: skip

    def _counted(self, figures: Figures) -> Iterator[Metric]:
        verbs = self._seen.verbs
        outcomes: dict[tuple[str, ...], float] = {(verb, outcome): 0 for verb in sorted(verbs) for outcome in OUTCOMES}
        for (verb, outcome), count in figures.outcomes.items():
            key = (verb if verb in verbs else OTHER, outcome)
            outcomes[key] = outcomes.get(key, 0) + count
        work = by({verb: figures.work.get(verb, Durations(WORK_S)) for verb in sorted(verbs)})
        yield counters("events", "Events stored, by type.", ["type"], known(figures.events, CATALOGUE))
        yield counters("undecidable_events", "Events that no rule could be asked about.", [], {(): figures.undecidable})
        yield counters(
            "decisions", "What rules made of events, by verdict.", ["verdict"],
            known(figures.decisions, (verdict.value for verdict in Verdict)),
        )  # fmt: skip
        yield counters("problems", "Problems met, by kind; `driftd problems` tells where and why.", ["kind"],
                       known(figures.problems, KINDS))  # fmt: skip
        yield counters("calls", "What handlers have answered, by verb.", ["verb", "outcome"], outcomes)
        yield histograms(
            "handler_start_seconds", "From when a call was due (the first of a run: when its event was recorded) to its start.",
            [], {(): figures.starts},
        )  # fmt: skip
        yield histograms("handler_seconds", "How long handlers took to answer, by verb.", ["verb"], work)

    def _stored(self) -> Iterator[Metric]:
        """Figures that only the store has."""
        seen = self._seen
        sizes = {"database": _size(seen.path), "log": _size(seen.path.with_name(f"{seen.path.name}-wal"))}
        yield gauges("store_size_bytes", "Size of the store's files.", ["file"], by(sizes))
        try:
            with seen.store.read() as session:
                runs: dict[str, float] = dict(session.rows("run_count"))
                states: dict[str, float | None] = dict(session.rows("state_bytes"))
        except DaemonError:
            return
        yield gauges("runs", "Runs by state.", ["state"], known(runs, (state.value for state in State)))
        yield gauges(
            "stream_state_bytes", "Panes, windows and waiting rows of a stream, as stored.", ["stream"],
            by(states),
        )  # fmt: skip


def _daemon(status: Mapping[str, Any]) -> Iterator[Metric]:
    build = {"version": status["version"], "python": platform.python_version()}
    yield InfoMetricFamily("driftd_build", "What runs.", build)
    yield gauge("ready", "Whether it is ready; GET /readyz says why not.", status["ready"])
    yield gauge(
        "store_waiting", "Whether nothing can be stored: the store is locked or its disk full.", bool(status["waiting"])
    )
    yield gauge("paused", "Whether an operator has paused all rules.", status["paused"])
    yield gauge("leader_epoch", "How often the store has had a leader.", status["epoch"])
    yield gauge("rules", "Rules in force.", status["rules"]["count"])
    yield gauge("event_seq", "Place of the newest event: how many were ever stored.", status["seq"])
    yield gauge("event_timestamp_seconds", "When the newest event was recorded.", _seconds(status["recorded_at"]) or 0)
    yield gauge("audit_seq", "Place of the newest audit record.", status["audit"]["seq"])


def _sources(status: Mapping[str, Any], now: datetime) -> Iterator[Metric]:
    def each(figure: Callable[[Mapping[str, Any]], float | None]) -> Labelled:
        return by({name: figure(health) for name, health in status["sources"].items()})

    def age(health: Mapping[str, Any]) -> float | None:
        written = _seconds(health["unread_at"])
        return _age(health["lag"], None if written is None else max(now.timestamp() - written, 0.0))

    stuck: Labelled = by({name: float(name in status["stalled"]) for name in status["sources"]})
    label = ["source"]
    yield gauges("source_stalled", "Whether the source has not reached its system for two minutes.", label, stuck)
    yield gauges("source_problem", "Whether something is wrong; `driftd status` says what.", label,
                 each(lambda health: bool(health["problem"])))  # fmt: skip
    yield gauges("source_alive_timestamp_seconds", "When the source last reached its system.", label,
                 each(lambda health: _seconds(health["alive_at"])))  # fmt: skip
    yield gauges("source_event_timestamp_seconds", "When the source last brought something.", label,
                 each(lambda health: _seconds(health["event_at"])))  # fmt: skip
    yield gauges("source_lag_records", "Records that lie there unread, where that is known.", label,
                 each(lambda health: health["lag"]))  # fmt: skip
    yield gauges("source_unread_age_seconds", "Age of the oldest of them.", label, each(age))


def _streams(status: Mapping[str, Any]) -> Iterator[Metric]:
    streams: Mapping[str, Mapping[str, Any]] = status["streams"]

    def each(figure: Callable[[Mapping[str, Any]], float | None]) -> Labelled:
        return by({name: figure(had) for name, had in streams.items()})

    stuck: Labelled = by({name: float(f"stream:{name}" in status["stalled"]) for name in streams})
    label = ["stream"]
    yield gauges("stream_stalled", "Whether something has been wrong with the stream for two minutes.", label, stuck)
    yield gauges("stream_problem", "Whether something is wrong; `driftd status` says what.", label,
                 each(lambda had: bool(had.get("problem"))))  # fmt: skip
    for figure, (name, doc) in KEPT.items():
        yield gauges(f"stream_{name}", doc, label, each(operator.methodcaller("get", figure)))
    for figure, (name, doc) in PASSED.items():
        yield counters(f"stream_{name}", doc, label, each(operator.methodcaller("get", figure)))
    yield from _partitions(streams)


def _partitions(streams: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    parts: dict[tuple[str, ...], Mapping[str, Any]] = {
        (stream, *name.rsplit("/", 1)): part
        for stream, had in streams.items()
        for name, part in had.get("partitions_by_name", {}).items()
    }
    labels = ["stream", "topic", "partition"]
    yield gauges("stream_lag_records", "Records of a partition that lie there unread, where that is known.", labels,
                 {key: part["lag"] for key, part in parts.items()})  # fmt: skip
    yield gauges("stream_unread_age_seconds", "Age of the oldest of them.", labels,
                 {key: _age(part["lag"], part["age_s"]) for key, part in parts.items()})  # fmt: skip
    yield gauges("stream_watermark_timestamp_seconds", "How far a partition is, in event time.", labels,
                 {key: _seconds(part["watermark"]) for key, part in parts.items()})  # fmt: skip


def _age(lag: int | None, age: float | None) -> float | None:
    """Of the oldest unread thing: nothing is unread, or it is known."""
    return 0.0 if lag == 0 else age


def _seconds(told: str | None) -> float | None:
    return None if told is None else datetime.fromisoformat(told).astimezone(UTC).timestamp()


def _resident(pid: int) -> float | None:
    """Resident size in bytes; None when it has ended, or this system has no /proc."""
    try:
        return float(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return None


def _size(path: Path) -> float | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
