"""A closed window and its reference -> the data of drift.measured, quality.measured and performance.measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from daemon.core import performance as labelled
from daemon.core.canonical import content_id
from daemon.core.drift import MIN_VALUES, Drift, Score, chi_square, measure, psi
from daemon.core.errors import BadInput
from daemon.core.events import Event
from daemon.core.monitors import Monitor
from daemon.core.panes import Pane, merge_all
from daemon.core.performance import Alarm, Cusum, Losses, accumulate, performance
from daemon.core.quality import check
from daemon.core.reference import Reference, trailing
from daemon.monitors.held import Held
from daemon.monitors.values import instant

HISTOGRAM = {"psi": psi, "chi_square": chi_square}

SampleScores = Callable[[Mapping[str, str], Held, Pane, float], tuple[dict[str, Score], dict[str, str]]]
"""Runs methods on the sample: (column -> method, the reference, the window, floor) -> scores, and why others have none."""


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of a window."""

    first: int
    last: int
    start: int
    """Event times, µs since 1970."""
    end: int
    rows: int
    closed_by: str
    late: int
    """Rows that came after their window was closed, since the window before."""

    def fields(self) -> dict[str, Any]:
        """As `window` of a measured event has it."""
        return {
            "start": instant(self.start).isoformat(), "end": instant(self.end).isoformat(), "rows": self.rows,
            "first": self.first, "last": self.last, "closed_by": self.closed_by, "late": self.late,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subject:
    """What was measured."""

    stream: str
    monitor: Monitor
    segment: str
    held: Held

    def event(self, kind: str, span: Span, reference: Reference, data: Mapping[str, Any]) -> Event:
        """The event of a window; its id names stream, monitor, segment and rows, so a repeat is recognised."""
        name, model = self.monitor.name, self.monitor.model
        common: dict[str, Any] = {
            "model": model, "monitor": name, "stream": self.stream, "segment": self.segment, "window": span.fields(),
        }  # fmt: skip
        unset = {name: why for name, why in (data.get("unset") or {}).items() if why}
        if self.held.why:
            unset["reference"] = f"reference is missing: {self.held.why}"
        else:
            common |= {"reference": reference.digest, "reference_rows": reference.rows}
        identity = content_id(kind, self.stream, name, self.segment, span.first, span.last)
        return Event(identity, f"monitor:{name}", kind, model, instant(span.end), {**common, **data, "unset": unset})


def window_events(
    subject: Subject, span: Span, pane: Pane, before: tuple[Pane, ...], samples: SampleScores
) -> tuple[Event, ...]:
    """drift.measured and quality.measured of a closed window; `before`: the windows that a trailing reference has."""
    held = subject.held
    if held.why:
        missing = f"reference is missing: {held.why}"
        drift: dict[str, Any] = {"unset": dict.fromkeys(("columns", "drifted_columns", "prediction_drifted"), missing)}
        reference = held.reference
    elif subject.monitor.reference == "trailing" and len(before) < subject.monitor.trailing:
        why = f"the trailing reference has {len(before)} of its {subject.monitor.trailing} windows"
        drift = {"unset": dict.fromkeys(("columns", "drifted_columns", "prediction_drifted"), why)}
        reference = held.reference
    else:
        reference = reference_of(subject, before)
        drift = _drift(subject, reference, pane, samples).fields()
    return (
        subject.event("drift.measured", span, reference, drift),
        subject.event("quality.measured", span, held.reference, _quality(held, pane)),
    )


def performance_event(
    subject: Subject, span: Span, losses: Losses, eligible: int, cusum: Cusum, version: str
) -> tuple[Event, Cusum]:
    """performance.measured of a window whose labels have come, and the e-CUSUM after it."""
    reference = subject.held.reference
    cusum, alarm = accumulate(cusum, reference, losses, span.start)
    data = {"version": version, **labelled.fields(performance(reference, losses), alarm, eligible), **_onset(alarm)}
    return subject.event("performance.measured", span, reference, data), cusum


def drift_of(subject: Subject, pane: Pane, before: tuple[Pane, ...], samples: SampleScores) -> Drift:
    """The verdict on a window; BadInput when there is nothing to hold it against."""
    return _drift(subject, reference_of(subject, before), pane, samples)


def reference_of(subject: Subject, before: tuple[Pane, ...]) -> Reference:
    """What a window is held against. BadInput when a trailing reference has no windows yet."""
    if subject.monitor.reference == "fixed":
        return subject.held.reference
    if not before:
        raise BadInput("the trailing reference has no windows yet")
    return _trailing(subject.held.reference, before)


def _onset(alarm: Alarm | None) -> dict[str, Any]:
    return {} if alarm is None or alarm.onset is None else {"onset": instant(alarm.onset).isoformat()}


def _trailing(reference: Reference, before: tuple[Pane, ...]) -> Reference:
    merged = merge_all(before)
    counts = {name: counts.bins for name, counts in merged.features.items()}
    return trailing(reference, counts, merged.outputs.bins if merged.outputs else ())


def _drift(subject: Subject, reference: Reference, pane: Pane, samples: SampleScores) -> Drift:
    monitor, held = subject.monitor, subject.held
    scores: dict[str, Score] = {}
    unset: dict[str, str] = {}
    sampled: dict[str, str] = {}
    for name, bins in reference.features.items():
        method = monitor.methods.get(bins.kind, "psi")
        counts = pane.features[name]
        if bins.values < MIN_VALUES or counts.values < MIN_VALUES:
            who, rows = ("reference", bins.values) if bins.values < MIN_VALUES else ("window", counts.values)
            unset[name] = f"the {who} has {rows} values, {MIN_VALUES} are needed"
        elif method in HISTOGRAM:
            scores[name] = replace(HISTOGRAM[method](bins.counts, counts.bins), floor=monitor.floor)
        else:
            sampled[name] = method
    if sampled and monitor.reference == "trailing":
        unset |= dict.fromkeys(sampled, "methods on the sample need a fixed reference")
    elif sampled:
        found, why = samples(sampled, held, pane, monitor.floor)
        scores |= found
        unset |= why
    ordered = {name: scores[name] for name in reference.features if name in scores}
    unset |= dict.fromkeys(held.absent, "the reference has no such column")
    return measure(reference, pane, (ordered, unset), monitor.alpha)


def _quality(held: Held, pane: Pane) -> dict[str, Any]:
    if not held.why:
        found = check(held.reference, pane)
        return found.fields()
    # Without a reference only gaps and wrong types can be counted, and only a missing column is surely wrong.
    columns: dict[str, Any] = {}
    for name, counts in pane.features.items():
        failures = ["absent"] if counts.absent == pane.rows else []
        columns[name] = {
            "missing_rate": counts.missing / pane.rows, "invalid_rate": counts.invalid / pane.rows, "failures": failures,
        }  # fmt: skip
    failures = [f"{name}: {fault}" for name, column in columns.items() for fault in column["failures"]]
    data: dict[str, Any] = {"columns": columns, "failures": failures}
    if failures:
        return {**data, "passed": False}
    return {**data, "unset": {"passed": f"reference is missing: {held.why}"}}
