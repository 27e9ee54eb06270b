"""The reference in a worker's hands: the bins that panes are kept in, and some raw rows for tests and reports on samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daemon.core.canonical import content_id
from daemon.core.columns import FeatureKind, Records
from daemon.core.errors import BadInput
from daemon.core.losses import Task
from daemon.core.reference import Bins, Reference, build_reference
from daemon.monitors.plan import Champion, StreamPlan
from daemon.monitors.records import Raw, chunks
from daemon.monitors.rows import reference_records

SAMPLE = 5000
"""Reference rows kept raw, evenly spread over the file: at least five times a window's sample."""
FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What values that nobody thought of make measuring raise. They cost their file, not the stream or the worker."""
_AT_ONCE = 1 << 30
"""A reference is read whole."""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A reference, or why there is none."""

    reference: Reference
    """Without a reference: a blank one, in which rows, gaps and wrong types are counted and nothing else."""
    sample: Records | None
    absent: tuple[str, ...]
    """Features of the stream that the reference does not have."""
    why: str
    """Why there is no reference; empty when there is one."""


def hold(plan: StreamPlan, task: Task, champion: Champion) -> Held:
    """Read the champion's reference file. A file that cannot be used gives a blank reference with the reason."""
    if not champion.path:
        return Held(blank(task, plan.kinds), None, (), champion.why)
    try:
        records = _read(Path(champion.path), plan)
        absent = tuple(sorted(set(plan.kinds) - set(records.features)))
        kinds = {name: kind for name, kind in plan.kinds.items() if name not in absent}
        reference = build_reference(task, kinds, records)
    except (BadInput, *FAULTS) as error:
        return Held(
            blank(task, plan.kinds), None, (), f"the reference of version {champion.version} is unusable: {error}"
        )
    return Held(reference, records.take(_spread(records.rows)), absent, "")


def blank(task: Task, kinds: Mapping[str, FeatureKind]) -> Reference:
    """A reference that says nothing: one bin per feature, no outputs, no losses."""
    features = {name: Bins(kind, (), (), frozenset(), (0,), 0, 0, None, None) for name, kind in kinds.items()}
    name = content_id("blank reference", task, sorted(kinds.items()))
    return Reference(
        digest=name, panes=name, task=task, rows=0, features=features, outputs=None, output="none", positive="1",
        calibration=None, estimated=None, loss=None, large_error=None,
    )  # fmt: skip


def _read(path: Path, plan: StreamPlan) -> Records:
    f = plan.fields
    outputs = [field for field in (f.prediction, f.score, f.label) if field]
    parts = [
        reference_records(raw, plan)
        for raw in chunks(path, [*plan.kinds, *outputs], 0, _AT_ONCE)
        if _is_usable(path, raw)
    ]
    if not parts:
        raise BadInput(f"{path.name} has no rows")
    return parts[0]


def _is_usable(path: Path, raw: Raw) -> bool:
    if raw.malformed:
        first = raw.malformed[0]
        raise BadInput(f"{path.name}:{first.where}: {first.reason}")
    return raw.count > 0


def _spread(rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Which rows to keep raw."""
    return np.unique(np.linspace(0, rows - 1, min(rows, SAMPLE)).astype(np.int64))
