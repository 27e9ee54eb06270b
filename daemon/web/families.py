"""Figures -> metric families, in Prometheus' words: base units, `_total` on what only grows, one label value per known thing.

A label's values are names from config.yaml, of the code or of a broker's partitions, never something that came in with an
event: what is not known is counted under `other`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from daemon.tally import Durations

OTHER = "other"

Labelled = Mapping[tuple[str, ...], float | None]
"""Label values -> figure; None: not known, and left out."""
Figure = TypeVar("Figure")


def gauge(name: str, doc: str, value: float) -> Metric:
    """One figure that goes up and down."""
    return GaugeMetricFamily(f"driftd_{name}", doc, value)


def gauges(name: str, doc: str, labels: Sequence[str], values: Labelled) -> Metric:
    """One such figure for each of some things."""
    family = GaugeMetricFamily(f"driftd_{name}", doc, labels=labels)
    for told, value in values.items():
        if value is not None:
            family.add_metric(told, value)
    return family


def counters(name: str, doc: str, labels: Sequence[str], values: Labelled) -> Metric:
    """Figures that only grow; `name` without `_total`."""
    family = CounterMetricFamily(f"driftd_{name}", doc, labels=labels)
    for told, value in values.items():
        if value is not None:
            family.add_metric(told, value)
    return family


def histograms(name: str, doc: str, labels: Sequence[str], values: Mapping[tuple[str, ...], Durations]) -> Metric:
    """How long things took, in seconds."""
    family = HistogramMetricFamily(f"driftd_{name}", doc, labels=labels)
    for told, durations in values.items():
        bounds = [*map(str, durations.bounds), "+Inf"]
        family.add_metric(told, list(zip(bounds, accumulate(durations.counts), strict=True)), durations.seconds)
    return family


def by(figures: Mapping[str, Figure]) -> dict[tuple[str, ...], Figure]:
    """Figures by the value of the one label."""
    return {(name,): figure for name, figure in figures.items()}


def known(counts: Mapping[str, float], names: Iterable[str]) -> dict[tuple[str, ...], float]:
    """Counts by these names, zeros too: a counter that is there before the first of its kind tells that one as well."""
    found: dict[str, float] = dict.fromkeys(names, 0)
    for name, count in counts.items():
        key = name if name in found else OTHER
        found[key] = found.get(key, 0) + count
    return by(found)
