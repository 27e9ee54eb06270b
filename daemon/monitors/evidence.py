"""Evidently in a worker: tests on samples, and the report of a window as evidence. Loaded when first needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.core.columns import Records
from daemon.core.drift import Score
from daemon.core.errors import BadInput
from daemon.core.panes import Pane
from daemon.monitors.held import Held
from daemon.monitors.measure import drift_of
from daemon.monitors.windows import Track

if TYPE_CHECKING:
    from daemon.clients.evidently import SampleTests


class Samples:
    """Runs Evidently's tests on the sample of a window, against the raw rows that its reference keeps."""

    def __init__(self) -> None:
        self._tests: SampleTests | None = None

    def __call__(
        self, methods: Mapping[str, str], held: Held, pane: Pane, floor: float
    ) -> tuple[dict[str, Score], dict[str, str]]:
        """Scores of the columns, and why the others have none."""
        if held.sample is None:
            return {}, dict.fromkeys(methods, "the reference keeps no raw rows")
        if self._tests is None:
            from daemon.clients.evidently import SampleTests  # noqa: PLC0415 - a hundred megabytes

            self._tests = SampleTests()
        return self._tests.scores(methods, held.reference, held.sample, pane.sample, floor)

    def report(self, track: Track, last: int, path: Path) -> Path:
        """Evidently's HTML report of the window that ends at position `last`, with the scores that were decided on.

        BadInput when the window is not kept any more, has no reference, or cannot be shown.
        """
        from daemon.clients.evidently import Shown, report  # noqa: PLC0415 - hundreds of megabytes

        held, found = track.subject.held, track.pane_of(last)
        if found is None:
            raise BadInput("the window is not kept any more")
        pane, before = found
        if held.sample is None:
            raise BadInput(f"there is no reference: {held.why}")
        drift = drift_of(track.subject, pane, before, self)
        shown = {name: Shown(c.score.score, c.score.floor, c.drifted) for name, c in drift.columns.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        return report(Records(held.sample.rows, held.sample.features), pane.sample, shown, path)
