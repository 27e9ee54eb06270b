"""Parts of the running daemon are killed in the middle of their work: its registry, its worker, and its gateway."""

from __future__ import annotations

import itertools
import os
import signal

import httpx
import orjson
import pytest

from daemon.core.errors import DaemonError
from daemon.platforms.base import Traffic
from daemon.platforms.local_serving import LocalServing
from daemon.platforms.shim import read_json
from tests.crash.processes import children
from tests.crash.scene import LOAN, SERVED
from tests.crash.served import saved_models
from tests.crash.trials import Ground
from tests.faults.registry import register
from tests.faults.stage import Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

REGISTRY, WORKER = "daemon.clients.registry_process", "daemon.monitors"


def replaced(played: Stage, module: str) -> None:
    """Kill the process of the daemon that runs a module, and wait until another one has taken its place."""
    daemon = played.here.pid("daemon")
    (old,) = played.here.wait(f"{module} to run", lambda: children(daemon, module))
    os.kill(old, signal.SIGKILL)
    played.here.wait(f"{module} to be replaced", lambda: [pid for pid in children(daemon, module) if pid != old])


def test_killed_workers_and_registries_are_replaced_and_nothing_is_lost_or_doubled(played: Stage) -> None:
    """While senders send: the worker is killed as it begins, and once it has stored something; the registry's process before
    and after its first answer. What is measured is what an undisturbed daemon measures, a version that is registered is one
    event.
    """
    here = played.here
    played.senders.land_rest()
    here.start()
    with played.traffic():
        replaced(played, REGISTRY)
        replaced(played, WORKER)
        here.wait("the stream to be opened", played.progress)
        replaced(played, WORKER)
        played.senders.allow()
        here.wait("the registry to be reached", lambda: reached(played))
        version = register(here.config.registry.uri, LOAN)
        replaced(played, REGISTRY)
        before = reached(played)
        here.wait("the registry to be reached again", lambda: reached(played) > before)
        here.wait("the new version", lambda: here.events("model.registered"))
    assert [one.recorded.event.data["version"] for one in here.events("model.registered")] == [version]
    played.settled()


def reached(played: Stage) -> str:
    """When the registry was last reached without complaint; empty when it was not."""
    health = played.status()["sources"]["registry:mlflow"]
    return "" if health["problem"] else health["alive_at"]


def test_a_killed_gateway_comes_back_with_its_split_and_its_log(played: Stage, ground: Ground) -> None:
    """The daemon starts it again: weights, epoch and who made them are as they were, units go where they went, and every
    request that was answered before or after is measured, once.
    """
    here, serving = played.here, LocalServing(played.scene.config)
    models = saved_models(ground.folder)
    here.start()

    def traffic() -> Traffic | None:
        try:
            return serving.traffic(SERVED)
        except DaemonError:
            return None

    here.wait("the gateway", traffic)
    for version in ("1", "2"):
        serving.deploy(SERVED, version, str(models / "good"))
    here.wait("both versions", lambda: (now := traffic()) and list(now.ready.values()) == [True, True], 150)
    before = serving.shift(SERVED, {"1": 60, "2": 40}, serving.traffic(SERVED).epoch, "somebody/1")
    numbers = itertools.count()

    def ask() -> list[str]:
        """Which version answers each unit."""
        with httpx.Client(timeout=30, trust_env=False, verify=False) as client:
            answers = [
                client.post(
                    f"{serving.address}/targets/{SERVED}/invocations",
                    content=orjson.dumps({"dataframe_records": [{"id": f"r{next(numbers)}", "a": unit}]}),
                    headers={"content-type": "application/json", "x-driftd-unit": f"u{unit}"},
                )
                for unit in range(20)
            ]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.headers["x-driftd-version"] for answer in answers]

    asked = ask()
    assert set(asked) == {"1", "2"}
    note = played.scene.home / "gateway" / "gateway.json"
    pid = read_json(note)["pid"]
    os.kill(pid, signal.SIGKILL)
    here.wait("another gateway", lambda: read_json(note)["pid"] != pid)
    here.wait("both versions again", lambda: (now := traffic()) and list(now.ready.values()) == [True, True], 150)
    after = serving.traffic(SERVED)
    assert (before.weights, before.epoch, before.by) == (after.weights, after.epoch, after.by)
    assert asked == ask()

    def measured() -> dict[str, int]:
        arms = [one.recorded.event.data["arms"] for one in here.events("traffic.measured")]
        return {v: sum(arm[v]["requests"] for arm in arms if v in arm) for v in ("1", "2")}

    here.wait("all requests to be measured", lambda: sum(measured().values()) >= 40)
    assert measured() == {version: 2 * asked.count(version) for version in ("1", "2")}
    assert here.end("daemon") == 0
