"""The gateway as a process: it outlives the daemon, comes back as it was, ends in order, and says what is in its way."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.core.errors import Unavailable
from daemon.gateway.split import Split
from daemon.gateway.state import Deployment, TargetState, load, save
from daemon.platforms import local_serving
from daemon.platforms.local_serving import LocalServing
from daemon.platforms.shim import start_of

from .conftest import Gateway, Models, config_of, eventually, free_port, read_log

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_DAEMON = """
import pickle, sys, threading
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from daemon.platforms.local_serving import LocalServing

serving = LocalServing(pickle.loads(Path(sys.argv[2]).read_bytes()))
while True:
    serving.ensure()
    print("ensured", flush=True)
    threading.Event().wait(0.2)
"""


def daemon(tmp_path: Path, home_config: Any) -> subprocess.Popen[str]:
    """A process that looks after the gateway as the daemon does, and has seen it answer."""
    saved = tmp_path / "config.pickle"
    saved.write_bytes(pickle.dumps(home_config))
    root = str(Path(__file__).parents[2])
    started = subprocess.Popen(
        [sys.executable, "-c", _DAEMON, root, str(saved)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ensured\n"
    return started


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, and wait until it is gone."""
    process.kill()
    process.wait(10)
    assert process.stdout is not None
    process.stdout.close()


def pid_of(gateway: Gateway) -> int:
    """The gateway's process."""
    return int(json.loads((gateway.home / "gateway" / "gateway.json").read_text())["pid"])


def descendants(pid: int) -> set[int]:
    """All processes below one."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found |= {child} | descendants(child)
    return found


def test_no_request_fails_while_the_daemon_is_killed_and_restarted(tmp_path: Path, models: Models) -> None:
    """The daemon that started the gateway is killed three times while a client asks: every answer is 200."""
    config = config_of(tmp_path, models.registry, None, "t")
    parent = daemon(tmp_path, config)
    gateway = Gateway(tmp_path, LocalServing(config))
    statuses: list[int] = []
    enough = threading.Event()

    def client() -> None:
        while not enough.is_set():
            statuses.append(gateway.post("t", [{"id": f"p{len(statuses)}", "x": 1}]).status_code)

    try:
        gateway.deployed("t", **{"1": models.one, "2": models.two})
        gateway.split("t", **{"1": 70, "2": 30})
        asking = threading.Thread(target=client)
        asking.start()
        for _ in range(3):
            seen = len(statuses)
            assert eventually(lambda: len(statuses) > seen + 20)  # noqa: B023
            kill(parent)
            seen = len(statuses)
            assert eventually(lambda: len(statuses) > seen + 20)  # noqa: B023
            parent = daemon(tmp_path, config)
        enough.set()
        asking.join(30)
        assert set(statuses) == {200}
        assert gateway.serving.traffic("t").epoch == 1
        logged = eventually(lambda: read_log(tmp_path / "logs" / "t"), lambda found: len(found) >= len(statuses))
        assert len({record["id"] for record in logged}) == len(statuses)
    finally:
        enough.set()
        kill(parent)
        gateway.client.close()
        gateway.serving.stop()


def test_a_killed_gateway_comes_back_as_it_was(own_gateway: Gateway, models: Models) -> None:
    """After SIGKILL: weights, epoch, author and versions stand, its processes are gone, its open log counts, units stay."""
    own_gateway.deployed("t", **{"1": models.one, "2": models.two})
    own_gateway.split("t", "start", **{"1": 100})
    own_gateway.split("t", "canary", **{"1": 60, "2": 40})
    before = own_gateway.serving.traffic("t")
    routed = {
        f"u{n}": own_gateway.post("t", [{"x": 1}], x_driftd_unit=f"u{n}").headers["x-driftd-version"] for n in range(20)
    }
    pid = pid_of(own_gateway)
    family = descendants(pid)
    assert len(family) >= 3
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not start_of(pid))
    own_gateway.serving.ensure()

    after = own_gateway.serving.traffic("t")
    assert (after.weights, after.epoch, after.by) == (before.weights, before.epoch, before.by)
    # The versions load again; requests of this time wait for them instead of failing (each for its timeout at most).
    eventually(lambda: own_gateway.serving.traffic("t").ready, lambda ready: all(ready.values()), 100)
    again = {unit: own_gateway.post("t", [{"x": 1}], x_driftd_unit=unit).headers["x-driftd-version"] for unit in routed}
    assert again == routed
    assert eventually(lambda: {old for old in family if start_of(old)}, lambda left: not left) == set()
    logged = own_gateway.logged("t", 40)
    assert len(logged) == 40
    assert list((own_gateway.home / "logs" / "t").glob("*.part")) == []


def test_term_lets_a_request_finish_and_closes_the_log(own_gateway: Gateway, models: Models) -> None:
    """On TERM what is being answered is answered, the log file is closed, and nothing of the gateway is left."""
    own_gateway.deployed("t", **{"1": models.one})
    own_gateway.split("t", **{"1": 100})
    assert own_gateway.post("t", [{"x": 0, "do": ""}]).status_code == 200
    pid = pid_of(own_gateway)
    family = {pid, *descendants(pid)}
    statuses: list[int] = []
    asking = threading.Thread(
        target=lambda: statuses.append(own_gateway.post("t", [{"id": "last", "x": 1, "do": "one:slow"}]).status_code)
    )
    asking.start()
    time.sleep(0.4)  # it is with the model now, which takes a second
    own_gateway.serving.stop()
    asking.join(30)

    assert statuses == [200]
    folder = own_gateway.home / "logs" / "t"
    assert [record["id"] for record in read_log(folder)][-1] == "last"
    assert list(folder.glob("*.part")) == []
    assert eventually(lambda: {old for old in family if start_of(old)}, lambda left: not left) == set()
    with pytest.raises(Unavailable):
        own_gateway.serving.traffic("t")


def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    """When another program has the port, `ensure` says which address and what to do, whether it speaks HTTP or not."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "daemon.gateway", "--home", str(tmp_path), "--port", str(port)],
            capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    assert done.returncode == 4
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "set platform.gateway.port" in done.stderr


def test_a_home_has_one_gateway(own_gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A second gateway on a home ends at once; one of another home at our address is not taken for ours."""
    done = subprocess.run(
        [sys.executable, "-m", "daemon.gateway", "--home", str(own_gateway.home), "--port", str(free_port())],
        capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert (done.returncode, "another gateway runs on" in done.stderr) == (3, True)
    port = own_gateway.serving._config.platform.gateway.port
    other = LocalServing(config_of(tmp_path_factory.mktemp("other"), "sqlite://", port))
    with pytest.raises(Unavailable, match=r"the gateway of .* answers at"):
        other.ensure()
    pid = pid_of(own_gateway)
    LocalServing(own_gateway.serving._config).ensure()
    assert pid_of(own_gateway) == pid


def test_a_gateway_that_says_nothing_is_replaced(own_gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is there but does not answer is first reported, then, when that lasts, killed and started again."""
    pid = pid_of(own_gateway)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(Unavailable, match=f"process {pid} runs but does not answer"):
        own_gateway.serving.ensure()
    monkeypatch.setattr(local_serving, "_HUNG_SECONDS", 0.0)
    own_gateway.serving.ensure()

    assert pid_of(own_gateway) != pid
    assert start_of(pid) == ""


def test_a_damaged_state_is_not_guessed_at(tmp_path: Path) -> None:
    """A gateway whose saved state cannot be read does not start with an empty one: it says so."""
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway" / "state.json").write_text('{"targets": {"t": 1}}')
    with pytest.raises(Unavailable, match="is damaged"):
        LocalServing(config_of(tmp_path)).ensure()


def test_a_home_that_cannot_be_written_is_told_and_heals(tmp_path: Path) -> None:
    """While the gateway's folder cannot be made, on a full disk for one, it is unavailable; later it starts."""
    serving = LocalServing(config_of(tmp_path))
    (tmp_path / "gateway").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="gateway"):
        serving.ensure()
    (tmp_path / "gateway").unlink()
    try:
        serving.ensure()
    finally:
        serving.stop()


def test_a_log_that_cannot_be_written_is_told_and_heals(own_gateway: Gateway, models: Models) -> None:
    """Requests are answered while their log cannot be written; health and `served` say so until it is written."""
    own_gateway.deployed("t", **{"1": models.one})
    own_gateway.split("t", **{"1": 100})
    folder = own_gateway.home / "logs" / "t"
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")
    for number in range(3):
        assert own_gateway.post("t", [{"id": f"p{number}", "x": 1}]).status_code == 200
    health = own_gateway.client.get(f"{own_gateway.serving.address}/health").json()
    assert (health["status"], health["logs"]["t"]["waiting"]) == ("impaired", 3)
    with pytest.raises(Unavailable, match="3 records wait for room"):
        own_gateway.serving.served("t", "2026-01-01T00:00:00+00:00")
    folder.unlink()
    assert [record["id"] for record in own_gateway.logged("t", 3)] == ["p0", "p1", "p2"]
    assert own_gateway.serving.served("t", "2026-01-01T00:00:00+00:00").requests == {"1": 3}
    assert own_gateway.client.get(f"{own_gateway.serving.address}/health").json()["status"] == "ok"


def test_targets_are_read_again_when_the_file_changes(own_gateway: Gateway, models: Models) -> None:
    """Another folder or field name counts from then on without a restart; a damaged file is told and changes nothing."""
    own_gateway.deployed("t", **{"1": models.one})
    own_gateway.split("t", **{"1": 100})
    path = own_gateway.home / "gateway" / "targets.json"
    path.write_text("{")
    health = f"{own_gateway.serving.address}/health"
    problem = eventually(lambda: own_gateway.client.get(health).json()["problem"])
    assert "the last good one stays" in problem
    moved = own_gateway.home / "elsewhere"
    path.write_text(
        json.dumps({"targets": {"t": {"folder": str(moved), "fields": {"version": "meta.v"}, "drop": ["do"]}}})
    )
    assert eventually(lambda: own_gateway.client.get(health).json()["problem"], lambda text: text == "") == ""
    assert own_gateway.post("t", [{"x": 1, "do": ""}]).status_code == 200
    (record,) = eventually(lambda: read_log(moved))
    assert (record["meta"], "do" in record, record["x"]) == ({"v": "1"}, False, 1)


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    """State survives the file: a missing one is empty, a saved one comes back equal."""
    path = tmp_path / "state.json"
    assert load(path) == {}
    split = Split("t").shifted({"1": 100}, 0, "a").shifted({"1": 95, "2": 5}, 1, "b")
    state = {"t": TargetState(split, {"1": Deployment("models:/m/1", {"A": "b"}), "2": Deployment("models:/m/2")})}
    save(path, state)
    assert load(path) == state
    assert path.stat().st_mode & 0o777 == 0o600


def test_versions_come_back_when_their_parent_is_killed(own_gateway: Gateway, models: Models) -> None:
    """The process that backends are forked from takes them with it when it dies; all are loaded again by themselves."""
    own_gateway.deployed("t", **{"1": models.one, "2": models.two})
    own_gateway.split("t", **{"1": 50, "2": 50})
    (parent,) = (
        int(pid) for pid in Path(f"/proc/{pid_of(own_gateway)}/task/{pid_of(own_gateway)}/children").read_text().split()
    )
    family = {parent, *descendants(parent)}
    os.kill(parent, signal.SIGKILL)

    assert eventually(lambda: {old for old in family if start_of(old)}, lambda left: not left) == set()
    statuses = eventually(
        lambda: {own_gateway.post("t", [{"x": number}]).status_code for number in range(8)},
        lambda found: found == {200},
        100,
    )
    assert statuses == {200}
    assert own_gateway.serving.traffic("t").epoch == 1
