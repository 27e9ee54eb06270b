"""The two protocols of a platform: Jobs (programs that run to an end) and Serving (versions and their traffic).

Everything is named by the caller before it is made, so a repeated call adopts what the first one made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from daemon.core.errors import Refused


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A program to run once. `id` is its name for good: the same id again is the same job."""

    id: str
    argv: tuple[str, ...]
    """The program and its arguments; never a shell line."""
    payload: Mapping[str, Any]
    """Written to `call.json` in the job's folder; its path is in the environment as DRIFTD_CALL."""
    env: Mapping[str, str]
    """Added to a small clean environment (PATH, HOME, LANG, TMPDIR)."""
    memory_mb: int
    seconds: float
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """The object of a cluster that does the work, instead of `argv`; empty for a program."""
    origin: Mapping[str, str] = field(default_factory=dict)
    """What led to it: `call`, `run`, `rule`, `event`, `model`; known to whoever finds the job."""


class JobState(Enum):
    """Where a job stands."""

    UNKNOWN = "unknown"
    """No job of this id was ever submitted."""
    RUNNING = "running"
    DONE = "done"
    """Exit status 0; `outputs` holds what it wrote to `outputs.json`."""
    AGAIN = "again"
    """Exit status 75 (EX_TEMPFAIL): it could not work yet, e.g. too few rows; a new job may."""
    FAILED = "failed"
    """Any other exit, a limit, or a shim that died; `why` says which."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What is known of a job."""

    state: JobState
    why: str
    outputs: Mapping[str, Any]
    folder: str
    """Where its call, logs and results lie; in a cluster the object: `Job churn/driftd-…`."""
    tail: str = ""
    """The end of what it wrote, where that lies in no folder."""


class Jobs(Protocol):
    """Programs that run to an end and outlive the daemon."""

    def submit(self, spec: JobSpec) -> JobStatus:
        """Start the job, or adopt the one of this id that was started before, whatever became of it."""
        ...

    def status(self, job: str) -> JobStatus:
        """Where the job stands."""
        ...

    def cancel(self, job: str, why: str) -> None:
        """End the job and all it started; harmless when it has ended. Its state becomes FAILED with `why`."""
        ...


class KeptJobs(Jobs, Protocol):
    """Jobs of which something is left until it is removed."""

    def names(self) -> tuple[str, ...]:
        """The jobs that there are."""
        ...

    def remove(self, job: str) -> bool:
        """Remove what is left of a job that has ended; whether there was such a one."""
        ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What an object is after it was applied, read back."""

    object: str
    """`ConfigMap churn/thresholds`."""
    uid: str
    version: str
    """Its resourceVersion."""
    made: bool
    """There was none before."""
    changed: bool
    """It is not as it was before."""


class Objects(Protocol):
    """Objects of a cluster that an approved template describes whole."""

    def apply(self, wanted: Mapping[str, Any], origin: Mapping[str, str]) -> Applied:
        """Make the object so, by server-side apply, and read it back. The same again changes nothing.

        Refused when somebody else's: an object that is not driftd's, or a field that another manager owns.
        """
        ...


class Nodes(Protocol):
    """Nodes of a cluster, taken out of service and given back."""

    def cordon(self, node: str, origin: Mapping[str, str]) -> Applied:
        """Keep new pods away, and read it back. The same again changes nothing. Refused when there is no such node."""
        ...

    def uncordon(self, node: str, origin: Mapping[str, str]) -> Applied:
        """Take driftd's own cordon away, and read it back. Refused when it is somebody else's."""
        ...


class NoCluster:
    """The Objects and Nodes protocols where there is no cluster."""

    def apply(self, wanted: Mapping[str, Any], origin: Mapping[str, str]) -> Applied:  # noqa: ARG002 - the protocol's
        """Refused."""
        what = f"there is no cluster to apply a {wanted.get('kind')} in"
        raise Refused("platform", "apply", what, "set platform.kind to kubernetes in config.yaml")

    def cordon(self, node: str, origin: Mapping[str, str]) -> Applied:  # noqa: ARG002 - the protocol's
        """Refused."""
        raise _no_nodes(node)

    def uncordon(self, node: str, origin: Mapping[str, str]) -> Applied:  # noqa: ARG002 - the protocol's
        """Refused."""
        raise _no_nodes(node)


def _no_nodes(node: str) -> Refused:
    what = f"there is no cluster with a node {node!r}"
    return Refused("platform", "nodes", what, "set platform.kind to kubernetes in config.yaml")


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a target's requests are split, as the serving side itself says."""

    weights: Mapping[str, float]
    """Version -> share in percent; sums to 100, or is empty when nothing was ever served."""
    epoch: int
    """Goes up with every change; the precondition of the next one."""
    ready: Mapping[str, bool]
    """Deployed version -> whether it answers."""
    by: str
    """The call that made the last change."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Deployed version -> why it does not answer; a version that is just loading is not in it."""
    wanted: Mapping[str, float] | None = None
    """The split that `by` asked for, while it is still being made; None when the last one is done."""

    @property
    def goal(self) -> Mapping[str, float]:
        """The split that the last change asked for."""
        return self.weights if self.wanted is None else self.wanted


@dataclass(frozen=True, slots=True)
class Served:
    """Requests seen in the prediction log since a moment, by version: the second read-back."""

    requests: Mapping[str, int]
    since: str
    """ISO time."""


class Serving(Protocol):
    """Model versions behind one target, and how its requests are split between them."""

    def deploy(self, target: str, version: str, model_uri: str) -> None:
        """Make `version` load beside the others, with no traffic; harmless when it is there. Returns at once."""
        ...

    def traffic(self, target: str) -> Traffic:
        """The split now. Raises Unavailable when the serving side does not answer."""
        ...

    def shift(self, target: str, weights: Mapping[str, float], epoch: int, by: str) -> Traffic:
        """Split requests so, if the epoch still stands at `epoch` (Conflict otherwise). The same `by` and weights again
        is the same change and answers with what it made. Refused when a version with weight is not ready. Unavailable
        when it takes its time: the same call again goes on with it.
        """
        ...

    def retire(self, target: str, version: str) -> None:
        """Unload a version that has no traffic; harmless when it is gone."""
        ...

    def settle(self, target: str) -> str:
        """Tidy what finished changes of the split left over, with no effect on it; empty when nothing is left, else what
        is still to be done, or why it cannot be. To be asked again then.
        """
        ...

    def served(self, target: str, since: str) -> Served:
        """Requests answered since an ISO time, by version, counted from the prediction log (not from counters)."""
        ...
