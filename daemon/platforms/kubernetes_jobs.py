"""Jobs in a cluster: each is one object (Job, PyTorchJob, TrainJob, Workflow, Experiment), named after its call.

**Never twice.** `submit` creates; when the name is taken, the object is adopted if it is driftd's and was made for this
call, else it is refused and left alone. A job that was made and is gone is not made again by this process; after a restart
whoever asked remembers that there was one (see handlers/parts/jobs.py).

**Status costs no requests.** One watch per kind mirrors driftd's objects, one per kind their pods; `status` reads memory.
What is asked of the server besides: the pods of a job that has ended, when the mirror has not seen their end yet, and the
Events of one that does not start.

**What comes back**, at most: a Workflow's output parameters and an Experiment's best trial from their status; of the other
kinds the JSON object that a container left as its termination message (write it to /dev/termination-log, 4096 bytes per
container and 12 KiB per pod; gone with the pod). Whatever is longer, or must not be lost, belongs into the registry.

| what happens | the job ends as |
|---|---|
| its controller says that it succeeded | DONE |
| a container ended with 75 | AGAIN |
| its controller says that it failed, by backoff, deadline or policy | FAILED, with the pod's reason: OOMKilled, Evicted, exit status |
| no container has started for `pending`: no image, no room, quota, a webhook that denies its pods, no runtime | it is deleted; FAILED, with what pods or Events say |
| somebody deletes it | FAILED, who ran may have been anybody |
| the API server refuses it: quota, webhook, RBAC, schema | `submit` raises Refused, with its words |
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

import structlog

from daemon.clients.kubernetes import Cluster
from daemon.clients.kubernetes_errors import Exists
from daemon.clients.kubernetes_mirror import Change
from daemon.clients.kubernetes_objects import Kind, Object, Ref, annotations_of, kind_of, labels_of, ref_of, uid_of
from daemon.clients.kubernetes_watch import Watch, Watched
from daemon.core.errors import ClientError, Conflict, Refused, Unavailable
from daemon.platforms import kubernetes_states as states
from daemon.platforms.base import JobSpec, JobState, JobStatus
from daemon.platforms.kubernetes_states import Fate, PodFate
from daemon.platforms.marks import CALL, OURS, Teller, Told, is_for, marked
from daemon.points import OnPoint, Point, no_point

SEEN_S = 30.0
"""A job that was made and that its watch has not shown for so long is asked for."""
REMEMBERED = 10_000
"""Jobs of which is remembered what became of them."""
_TAIL_LINES, _TAIL = 40, 2000
_DEADLINES: Mapping[Kind, tuple[str, ...]] = {
    states.JOB: ("spec", "activeDeadlineSeconds"),
    states.PYTORCH_JOB: ("spec", "runPolicy", "activeDeadlineSeconds"),
    states.WORKFLOW: ("spec", "activeDeadlineSeconds"),
}
"""Where a kind's own deadline is: it holds when driftd is down. The others have none; driftd deletes them."""
EVENT = Kind("v1", "Event")

Value = TypeVar("Value")


class _Recent(Generic[Value]):
    """The newest of what is remembered by name. Safe to use from any thread."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._kept: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Value | None:
        with self._lock:
            return self._kept.get(name)

    def put(self, name: str, value: Value) -> None:
        with self._lock:
            self._kept[name] = value
            self._kept.move_to_end(name)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def drop(self, name: str) -> None:
        with self._lock:
            self._kept.pop(name, None)


@dataclass(frozen=True, slots=True)
class _Made:
    """A job that this process made or adopted, until its watch shows it."""

    ref: Ref
    at: datetime


def object_name(job: str) -> str:
    """What the job's object is called: a DNS label that begins with a letter, as every kind takes it."""
    return f"driftd-{job}"


class KubernetesJobs:
    """The Jobs protocol in a cluster. Safe to use from any thread; several driftds may share a namespace."""

    def __init__(
        self,
        cluster: Cluster,
        kinds: Iterable[Kind],
        pending: timedelta,
        clock: Callable[[], datetime],
        on_point: OnPoint = no_point,
    ) -> None:
        """`kinds`: those that templates have; others are refused. `pending`: how long a job may not start."""
        self._cluster = cluster
        self._pending = pending
        self._clock = clock
        self._on_point = on_point
        self._teller = Teller(cluster, clock)
        self._log = structlog.get_logger("jobs")
        self._jobs = {
            kind: Watch(cluster, Watched(kind, labels=OURS, project=states.brief_job), self._jobs_changed)
            for kind in dict.fromkeys(kinds)
        }
        self._pods = {
            kind: _watch_of_pods(cluster, label, self._died)
            for kind, label in states.POD_LABELS.items() if kind in self._jobs
        }  # fmt: skip
        self._made: _Recent[_Made] = _Recent()
        self._endings: _Recent[JobStatus] = _Recent()
        self._gone: _Recent[Object] = _Recent()
        self._deaths: _Recent[PodFate] = _Recent()
        self._cancelled: _Recent[str] = _Recent()

    # -- life

    @property
    def watches(self) -> tuple[Watch, ...]:
        """All its watches."""
        return (*self._jobs.values(), *self._pods.values())

    def start(self) -> None:
        """Begin to follow the cluster."""
        for watch in self.watches:
            watch.start()

    def stop(self) -> None:
        """Follow it no more; jobs go on."""
        for watch in self.watches:
            watch.stop(1.0)

    # -- the protocol

    def submit(self, spec: JobSpec) -> JobStatus:
        """Make the job's object, or adopt the one that was made for this call before, whatever became of it.

        Refused when the cluster will not have it, for a kind that no template has, and when the name is somebody else's.
        """
        name = object_name(spec.id)
        known = self._endings.get(name)
        if known is not None:
            return known
        if (why := self._cancelled.get(name)) is not None:
            return self._end(name, JobStatus(JobState.FAILED, f"cancelled: {why}", {}, name))
        wanted = self._wanted(spec, name)
        ref = ref_of(wanted)
        try:
            found = self._cluster.create(wanted)
        except Exists as taken:
            found = self._adopted(ref, spec.id, taken)
        else:
            self._on_point(Point.JOB_STARTED)
            origin = ", ".join(f"{key} {value}" for key, value in spec.origin.items() if value)
            self._teller.tell(found, Told("Created", f"driftd made this for {origin}"), spec.id)
        self._made.put(name, _Made(ref, self._clock()))
        return self._judged(ref, found)

    def status(self, job: str) -> JobStatus:
        """Where the job stands, as the watches last saw it. Unavailable until they have seen all there is."""
        name = object_name(job)
        known = self._endings.get(name)
        if known is not None:
            return known
        found = self._seen(name, job)
        if found is not None:
            self._made.drop(name)
            return self._judged(ref_of(found), found)
        gone = self._gone.get(name)
        if gone is not None:
            return self._end(name, self._deleted(gone))
        made = self._made.get(name)
        if made is not None:
            return self._unseen(name, made)
        for watch in self._jobs.values():
            if watch.served and not watch.complete:
                raise Unavailable("kubernetes", "status", watch.standing.problem or "not all jobs are seen yet")
        return JobStatus(JobState.UNKNOWN, "no such job was made", {}, name)

    def cancel(self, job: str, why: str) -> None:
        """Delete the job's object, and its pods with it; harmless when it has ended. Its state becomes FAILED with `why`."""
        name = object_name(job)
        if self._endings.get(name) is not None:
            return
        found = self._seen(name, job)
        made = self._made.get(name)
        if found is None and made is not None:
            found = self._cluster.get(made.ref)
        if found is None:
            self._cancelled.put(name, why)
            return
        if self._judged(ref_of(found), found, look=False).state is JobState.RUNNING:
            self._delete(found, job, why)
            self._end(name, JobStatus(JobState.FAILED, f"cancelled: {why}", {}, str(ref_of(found))))

    def names(self) -> tuple[str, ...]:
        """The jobs that there are."""
        found = (annotations_of(one).get(CALL, "") for watch in self._jobs.values() for one in watch.objects())
        return tuple(sorted(filter(None, found)))

    def remove(self, job: str) -> bool:
        """Delete what is left of a job that has ended; whether there was such a one."""
        found = self._seen(object_name(job), job)
        if found is None or states.fate_of(kind_of(found), found).state is JobState.RUNNING:
            return False
        return self._cluster.delete(ref_of(found), uid=uid_of(found))

    # -- making

    def _wanted(self, spec: JobSpec, name: str) -> dict[str, Any]:
        kind = kind_of(spec.manifest)
        if kind not in self._jobs:
            known = ", ".join(str(one) for one in self._jobs) or "none"
            raise Refused("jobs", "submit", f"{kind} is not what driftd watches", f"templates have {known}")
        wanted = marked(spec.manifest, name, {**spec.origin, "call": spec.id})
        wanted["metadata"].setdefault("namespace", self._cluster.namespace)
        return _with_deadline(wanted, kind, spec.seconds)

    def _adopted(self, ref: Ref, job: str, taken: Exists) -> Object:
        found = self._cluster.get(ref)
        if found is None:
            raise Unavailable("jobs", "submit", f"{ref} was there and is gone") from taken
        if not is_for(found, job):
            why = f"{ref} is there already, and is not driftd's for this call: it is left alone"
            raise Refused("jobs", "submit", why, "remove it, or see who made it") from taken
        return found

    # -- looking

    def _seen(self, name: str, job: str) -> Object | None:
        for watch in self._jobs.values():
            found = watch.get(name)
            if found is not None and is_for(found, job):
                return found
        return None

    def _unseen(self, name: str, made: _Made) -> JobStatus:
        """It was made, and no watch shows it (yet)."""
        if (self._clock() - made.at).total_seconds() < SEEN_S:
            return JobStatus(JobState.RUNNING, "made, its watch has not shown it yet", {}, str(made.ref))
        found = self._cluster.get(made.ref)
        if found is None:
            why = "somebody deleted it before it was seen"
            return self._end(name, JobStatus(JobState.FAILED, why, {}, str(made.ref)))
        return self._judged(made.ref, found)

    def _judged(self, ref: Ref, found: Object, look: bool = True) -> JobStatus:
        """What the object says, and why. With `look` one that has not started in time is given up."""
        fate = states.fate_of(ref.kind, found)
        if fate.state is not JobState.RUNNING:
            return self._end(ref.name, self._ended(ref, fate))
        stuck, started = self._beginning(ref)
        if look and not (started or fate.queued) and self._age(found) > self._pending:
            return self._given_up(found, stuck)
        why = f"{fate.why}; {stuck}" if stuck else fate.why
        if found["metadata"].get("deletionTimestamp"):
            why = f"somebody is deleting it; {why}"
        return JobStatus(JobState.RUNNING, why, {}, str(ref))

    def _beginning(self, ref: Ref) -> tuple[str, bool]:
        """What keeps a job from starting, as far as its pods say, and whether it has started."""
        if ref.kind not in self._pods:  # an Experiment's trials have their own controller, and the sweep its deadline
            return "", True
        fates = [states.pod_fate(pod) for pod in self._pods[ref.kind].group(ref.name)]
        started = any(fate.started for fate in fates) or self._deaths.get(ref.name) is not None
        return next((f"pod {fate.name}: {fate.stuck}" for fate in fates if fate.stuck), ""), started

    def _age(self, found: Object) -> timedelta:
        return self._clock() - datetime.fromisoformat(str(found["metadata"]["creationTimestamp"]))

    def _given_up(self, found: Object, stuck: str) -> JobStatus:
        ref = ref_of(found)
        why = stuck or self._last_warning(found) or "no pod of it was made, and nobody says why"
        why = f"it has not started for {self._pending.total_seconds():g} s: {why}"
        self._delete(found, annotations_of(found)[CALL], why)
        return self._end(ref.name, JobStatus(JobState.FAILED, why, {}, str(ref)))

    def _last_warning(self, found: Object) -> str:
        """What controllers last warned of on the object (or on the JobSet of its name): quota, webhooks, a missing runtime."""
        try:
            listing = self._cluster.list(
                EVENT, ref_of(found).namespace, fields=f"involvedObject.name={ref_of(found).name}"
            )
        except ClientError as error:
            return f"its Events cannot be read: {error}"
        warnings = [event for event in listing.items if event.get("type") == "Warning"]
        if not warnings:
            return ""
        last = max(warnings, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
        return f"{last.get('reason')}: {last.get('message')}"

    # -- endings

    def _ended(self, ref: Ref, fate: Fate) -> JobStatus:
        if ref.kind not in self._pods or (fate.state is JobState.DONE and fate.outputs):
            return JobStatus(fate.state, fate.why, fate.outputs, str(ref))
        wanted_failure = fate.state is JobState.FAILED
        pod = self._last_word(ref, self._pods[ref.kind].group(ref.name), failed=wanted_failure)
        if pod is None:
            label = f"{states.POD_LABELS[ref.kind]}={ref.name}"
            pods = self._cluster.list(states.POD, ref.namespace, label).items
            pod = self._last_word(ref, pods, failed=wanted_failure)
        outputs = states.outputs_in(pod.message) if pod is not None else {}
        if not wanted_failure:
            return JobStatus(JobState.DONE, fate.why, outputs, str(ref))
        if pod is None:
            return JobStatus(JobState.FAILED, fate.why, {}, str(ref))
        state = JobState.AGAIN if pod.exit == states.NOT_YET else JobState.FAILED
        why = f"{fate.why}; pod {pod.name}: {pod.why}"
        return JobStatus(state, why, outputs, str(ref), self._tail(ref, pod))

    def _last_word(self, ref: Ref, pods: Sequence[Object], *, failed: bool) -> PodFate | None:
        """The pod that tells how the job ended; None when none does (yet)."""
        fates = [states.pod_fate(pod) for pod in pods]
        if not failed:
            return max((one for one in fates if one.exit == 0), key=lambda one: bool(one.message), default=None)
        known = [one for one in fates if one.why]
        return next(
            (one for one in known if one.exit == states.NOT_YET), known[-1] if known else self._deaths.get(ref.name)
        )

    def _tail(self, ref: Ref, pod: PodFate) -> str:
        """The end of the pod's log; empty when it cannot be read: its node is gone, or it is."""
        if pod.message and not states.outputs_in(pod.message):
            return pod.message[-_TAIL:]
        try:
            where = Ref(states.POD, pod.name, ref.namespace)
            return self._cluster.text(where, "log", {"tailLines": str(_TAIL_LINES)}).strip()[-_TAIL:]
        except ClientError:
            return ""

    def _deleted(self, last: Object) -> JobStatus:
        """Somebody deleted it, or its time to live was over: what it last said counts."""
        ref, fate = ref_of(last), states.fate_of(kind_of(last), last)
        if fate.state is not JobState.RUNNING:
            return self._ended(ref, fate)
        return JobStatus(JobState.FAILED, f"somebody deleted it while it ran ({fate.why})", {}, str(ref))

    def _end(self, name: str, status: JobStatus) -> JobStatus:
        self._endings.put(name, status)
        for memory in (self._made, self._gone, self._deaths):
            memory.drop(name)
        return status

    def _delete(self, found: Object, job: str, why: str) -> None:
        self._teller.tell(found, Told("Cancelled", f"driftd deletes this: {why}", warning=True), job)
        try:
            self._cluster.delete(ref_of(found), uid=uid_of(found))
        except Conflict as other:  # another object of this name: ours is gone, this one is left alone
            self._log.info("job.gone", job=job, why=str(other))

    # -- what watches tell

    def _jobs_changed(self, changes: Sequence[Change]) -> None:
        for before, now in changes:
            if now is None and before is not None:
                self._gone.put(str(before["metadata"]["name"]), before)

    def _died(self, job: str, pod: Object) -> None:
        """A pod failed: remembered, because its controller may delete it and make another of the same name."""
        fate = states.pod_fate(pod)
        if fate.why:
            self._deaths.put(job, fate)


def _watch_of_pods(cluster: Cluster, label: str, died: Callable[[str, Object], None]) -> Watch:
    """A watch of the pods that bear the label, by the job that it names; `died` hears of what became of driftd's."""

    def job_of(pod: Object) -> str:
        return labels_of(pod).get(label, "")

    def changed(changes: Sequence[Change]) -> None:
        for before, now in changes:
            pod = now or before
            if pod is not None and job_of(pod).startswith(object_name("")):
                died(job_of(pod), pod)

    return Watch(cluster, Watched(states.POD, labels=label, project=states.brief_pod, group=job_of), changed)


def _with_deadline(wanted: dict[str, Any], kind: Kind, seconds: float) -> dict[str, Any]:
    """With the kind's own deadline, unless the manifest has a shorter one: `seconds`, at least one."""
    path = _DEADLINES.get(kind)
    if path is None:
        return wanted
    result = dict(wanted)
    inner: dict[str, Any] = result
    for key in path[:-1]:
        inner[key] = dict(inner.get(key) or {})
        inner = inner[key]
    limit = max(int(seconds), 1)
    written = inner.get(path[-1])
    inner[path[-1]] = min(written, limit) if isinstance(written, int) else limit
    return result
