"""Which format a partition's values are of."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.monitors.decoding import Format, JsonFormat
from daemon.monitors.payloads.format import KServeFormat
from daemon.monitors.plan import StreamPlan
from daemon.monitors.slices import Head
from daemon.monitors.statekeys import halves_key


def format_of(plan: StreamPlan, head: Head, stored: Mapping[str, bytes]) -> Format:
    """The format of this partition, with what it remembers. Labels are JSON, whatever the predictions are."""
    if head.topic == plan.labels:
        return JsonFormat(plan.label_columns, plan.numbers)
    if plan.format == "kserve":
        return KServeFormat(plan, stored.get(halves_key(head), b""))
    return JsonFormat(plan.columns, plan.numbers)
