"""The parts of config.yaml that set limits: how much may happen by itself, and how long what was made is kept."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field

from daemon.parts import Duration, Part


class Budget(Part):
    """How much of a verb may happen."""

    concurrent: int | None = Field(default=None, ge=1)
    """Runs at once, over all models."""
    per_target: int | None = Field(default=None, ge=1)
    """Runs per target and day."""
    per_day: int | None = Field(default=None, ge=1)
    """Runs per day (24 h back from now), over all models."""


class Breaker(Part):
    """Stops starting runs on a target that keeps failing."""

    failures: int = Field(default=3, ge=1)
    """Consecutive failed runs of a target after which it opens."""
    reset: Duration = timedelta(hours=6)
    """After so long one run may try again."""


class RetentionConfig(Part):
    """How long driftd keeps what it has made; `null`: for ever, as all that is not named here."""

    jobs: Duration | None = timedelta(days=30)
    """Folders of jobs, counted from the end of their run."""
    evidence: Duration | None = None
    """Reports and other evidence, counted from the end of their run."""
    predictions: Duration | None = None
    """The local gateway's prediction log, once it was measured: no training reaches further back. At least a day."""
