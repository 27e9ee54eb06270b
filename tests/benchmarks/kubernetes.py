"""Runs in a cluster: how soon an event is a Job, what 1000 runs at once weigh, and what they ask of the API server.

The API server, etcd and the controller manager are real (see tests/cluster); pods end by their status, as a kubelet would
write it. The daemon's heart (writer, dispatcher, the `command` verb, the jobs of a cluster) runs in this process.

kubernetes.job_create_p99_ms      from handing an event in to the answer that its Job is made
kubernetes.over_bare_create_p99_ms   how much more that is, at the 99th percentile, than the bare POST of the same Job over a
    kept connection, taken in turns in the same run (goal: at most 20)
kubernetes.requests_per_run       of 1000 runs at once, from event to their end: all requests of driftd, watches included
kubernetes.runs_1000_mb           what the process grows by, from before the first of them to when all run
"""

from __future__ import annotations

import logging
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import orjson
import structlog
import urllib3

from daemon.clients.kubernetes import Cluster
from daemon.config import Config
from daemon.context import LiveContext, Services
from daemon.core.events import Event
from daemon.core.rules import Rule, RuleSet
from daemon.dispatcher import Dispatcher
from daemon.intake import Batch
from daemon.platformparts import KubernetesConnection
from daemon.platforms.kubernetes import ClusterJobs, KubernetesJobs
from daemon.platforms.kubernetes_states import JOB
from daemon.platforms.local import LocalJobs
from daemon.points import Point
from daemon.running import Running
from daemon.store.sqlite import SqliteStore
from daemon.templates import load_templates
from daemon.verbs import load_verbs
from daemon.writer import Writer
from tests.builders import rule, step
from tests.cluster.cluster import Cluster as Real

Figure = dict[str, Any]
TURNS, WARM, RUNS = 300, 30, 1000
PATIENCE_S = 900.0
TOGETHER = 10
"""Runs that live at once while creates are measured: then their pods end, and they with them."""
PAUSE_S = 0.05
"""Between two creates: what follows one (its pod, its Event, its first look) is not to be measured in the other."""
TEMPLATE = """doc: A job that somebody else runs.
verb: command
kubernetes:
  manifest:
    apiVersion: batch/v1
    kind: Job
    spec:
      backoffLimit: 0
      template:
        spec:
          restartPolicy: Never
          containers:
            - {name: main, image: "driftd.test/train:1", command: ["true"], env: [{name: CALL, value: {$call: json}}]}
"""


def figures(prefix: str = "") -> Iterator[Figure]:
    """The figures whose names start with `prefix`."""
    names = ("job_create_p99_ms", "over_bare_create_p99_ms", "requests_per_run", "runs_1000_mb")
    wanted = {name for name in names if f"kubernetes.{name}".startswith(prefix)}
    if not wanted:
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with (
        tempfile.TemporaryDirectory() as folder,
        Real(Path(folder) / "cluster") as real,
        Heart(Path(folder), real) as heart,
    ):
        if wanted & set(names[:2]):
            yield from _beside_a_bare_create(heart)
        if wanted & set(names[2:]):
            yield from _many(heart)


class Heart:
    """The daemon's heart on a cluster, and a kubelet of sorts."""

    def __init__(self, folder: Path, real: Real) -> None:
        self.real = real
        self._folder = folder
        self.made: dict[str, float] = {}
        """Event -> when its Job was there."""
        self._at_work: dict[int, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        home = self._folder / "home"
        (home / "templates").mkdir(parents=True)
        (home / "templates" / "train.yaml").write_text(TEMPLATE)
        connection = KubernetesConnection(
            kubeconfig=self.real.kubeconfig, requests_per_second=2000.0, burst=2000
        )  # the API server's own time is measured, not the wait for a turn
        self.cluster = self._closed(Cluster(connection))
        config = Config(home=home)
        self.store = self._closed(SqliteStore(home / "store.db"))
        self.jobs = KubernetesJobs(self.cluster, [JOB], timedelta(hours=1), _now, self._at)
        self.jobs.start()
        self._stack.callback(self.jobs.stop)
        verbs = load_verbs()
        shapes = {name: loaded.verb for name, loaded in verbs.items()}
        self.writer = Writer(self.store, Running(config, shapes), _now, home / "heads")
        jobs = ClusterJobs(LocalJobs(home), self.jobs)
        services = Services(
            config,
            jobs,
            None,
            None,
            self.store,
            load_templates(home / "templates"),
            _now,  # type: ignore[arg-type]
        )
        self.dispatcher = Dispatcher(self.writer, verbs, lambda call: self._context(services, call))
        self.writer.start()
        self._stack.callback(self.writer.stop)
        self.writer.load(RuleSet((_rule(),)), {})
        self.dispatcher.start()
        self._stack.callback(self.dispatcher.stop)
        for watch in self.jobs.watches:
            assert watch.wait_synced(60.0), watch.standing
        return self

    def __exit__(self, *_why: object) -> None:
        self._stack.close()

    def hand_in(self, name: str) -> float:
        """An event that starts a run; when it was handed in."""
        data = {"source": "s", "path": f"/{name}", "folder": "", "name": name, "bytes": 1, "digest": name}
        event = Event(name, "storage:s", "data.landed", "s", _now(), data)
        at = time.perf_counter()
        self.writer.submit(Batch(events=(event,)))
        return at

    def wait(self, done: Any, what: str, look: float = 0.002) -> None:
        """Until this holds."""
        end, pause = time.monotonic() + PATIENCE_S, threading.Event()
        while not done():
            if time.monotonic() > end:
                raise AssertionError(f"{what} took more than {PATIENCE_S:g} s")
            pause.wait(look)

    def states(self) -> dict[str, int]:
        """How many runs are in which state."""
        with self.store.read() as session:
            return {str(state): int(count) for state, count in session.rows("run_count")}

    def _context(self, services: Services, call: Any) -> LiveContext:
        self._at_work[threading.get_ident()] = call.trigger.id
        return LiveContext(services, call.run)

    def _at(self, point: Point) -> None:
        if point is Point.JOB_STARTED:
            self.made[self._at_work[threading.get_ident()]] = time.perf_counter()

    def _closed(self, one: Any) -> Any:
        self._stack.callback(one.close)
        return one


def _beside_a_bare_create(heart: Heart) -> Iterator[Figure]:
    """An event, then a bare POST, in turns: both meet the same API server and the same neighbours."""
    bare = Bare(heart.real)
    ours, theirs, pause = [], [], threading.Event()
    for number in range(WARM + TURNS):
        name = f"turn-{number}"
        began = heart.hand_in(name)
        heart.wait(lambda name=name: name in heart.made, "a Job")
        pause.wait(PAUSE_S)
        took = bare.create(number)
        pause.wait(PAUSE_S)
        if number % TOGETHER == TOGETHER - 1:
            _end_pods(heart, TOGETHER)
        if number >= WARM:
            ours.append(1000 * (heart.made[name] - began))
            theirs.append(1000 * took)
    reference = {
        "name": "bare POST of the same Job, p99 ms",
        "value": _at_share(theirs, 0.99),
        "median": _at_share(theirs, 0.5),
    }
    yield {
        "name": "kubernetes.job_create_p99_ms", "value": _at_share(ours, 0.99), "unit": "ms",
        "median": _at_share(ours, 0.5), "events": len(ours), "reference": reference,
    }  # fmt: skip
    over = round(_at_share(ours, 0.99) - _at_share(theirs, 0.99), 2)
    median = round(_at_share(ours, 0.5) - _at_share(theirs, 0.5), 2)
    yield {
        "name": "kubernetes.over_bare_create_p99_ms",
        "value": over,
        "unit": "ms",
        "median": median,
        "reference": reference,
    }


class Bare:
    """POSTs Jobs over one kept connection, with nothing around it."""

    def __init__(self, real: Real) -> None:
        context = ssl.create_default_context(cafile=str(real.ca))
        self._pool = urllib3.PoolManager(ssl_context=context)
        self._url = f"{real.address}/apis/batch/v1/namespaces/default/jobs?fieldManager=bare&fieldValidation=Strict"
        self._headers = {"authorization": f"Bearer {real.token}", "content-type": "application/json"}

    def create(self, number: int) -> float:
        """Make one; how many seconds that took."""
        container = {
            "name": "main", "image": "driftd.test/train:1", "command": ["true"], "env": [{"name": "CALL", "value": "x" * 400}],
        }  # fmt: skip
        job = {
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": f"bare-{number}", "labels": {"app.kubernetes.io/managed-by": "bare"}},
            "spec": {"backoffLimit": 0, "activeDeadlineSeconds": 3600,
                     "template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
        }  # fmt: skip
        body = orjson.dumps(job)
        began = time.perf_counter()
        answer = self._pool.request("POST", self._url, body=body, headers=self._headers, retries=False, timeout=30.0)
        took = time.perf_counter() - began
        assert answer.status == 201, answer.data
        return took


def _many(heart: Heart) -> Iterator[Figure]:
    """All at once; they run until the last has begun, then their pods end, and the runs with them."""
    asked, weighed, ended = heart.cluster.requests, _rss_mb(), _ended(heart)
    began = time.perf_counter()
    for number in range(RUNS):
        heart.hand_in(f"many-{number}")
    many = "many-"
    heart.wait(lambda: sum(name.startswith(many) for name in list(heart.made)) >= RUNS, f"making {RUNS} Jobs", 0.1)
    made_s = time.perf_counter() - began
    ours = heart.jobs.watches[0]
    heart.wait(lambda: len(ours.objects()) >= RUNS, "seeing them", 0.1)
    weight = _rss_mb() - weighed
    _end_pods(heart, RUNS)
    heart.wait(lambda: _ended(heart) - ended >= RUNS, "their ends", 0.1)
    ended_s = time.perf_counter() - began
    requests = (heart.cluster.requests - asked) / RUNS
    yield {
        "name": "kubernetes.requests_per_run", "value": round(requests, 3), "unit": "requests", "runs": RUNS,
        "made_s": round(made_s, 1), "ended_s": round(ended_s, 1),
    }  # fmt: skip
    yield {"name": "kubernetes.runs_1000_mb", "value": round(weight, 1), "unit": "MB"}


def _end_pods(heart: Heart, count: int) -> None:
    """The pods of all of them end well, as a kubelet would say, each with something to hand back; four at a time."""
    found: list[str] = []
    wanted = {"labelSelector": "batch.kubernetes.io/job-name", "fieldSelector": "status.phase=Pending"}

    def see() -> bool:
        with heart.real.http() as http:
            told = http.get("/api/v1/namespaces/default/pods", params=wanted)
        found[:] = [one["metadata"]["name"] for one in told.json()["items"]]
        return sum(name.startswith("driftd-") for name in found) >= count

    heart.wait(see, "making their pods", 0.1)
    now = _now().strftime("%Y-%m-%dT%H:%M:%SZ")
    end = {"exitCode": 0, "reason": "Completed", "message": '{"rows": 1}', "startedAt": now, "finishedAt": now}
    container = {
        "name": "main",
        "image": "x",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": end},
    }
    body = orjson.dumps({"status": {"phase": "Succeeded", "startTime": now, "containerStatuses": [container]}})

    def play(names: Sequence[str]) -> None:
        headers = {"content-type": "application/merge-patch+json"}
        with heart.real.http() as http:
            for name in names:
                http.patch(
                    f"/api/v1/namespaces/default/pods/{name}/status", content=body, headers=headers
                ).raise_for_status()

    players = [threading.Thread(target=play, args=(found[first::4],)) for first in range(4)]
    for player in players:
        player.start()
    for player in players:
        player.join()


def _ended(heart: Heart) -> int:
    """How many runs have ended well."""
    return heart.states().get("succeeded", 0)


def _rule() -> Rule:
    return rule("train", on="data.landed", when=(), subject="s", model="", steps=(step("command", template="train"),))


def _at_share(values: Sequence[float], share: float) -> float:
    return round(sorted(values)[int(len(values) * share)], 2)


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def _now() -> datetime:
    return datetime.now(UTC)
