"""What the running daemon tells probes and Prometheus, beside what it tells its operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.control import ask
from daemon.web.metrics import KEPT, PASSED
from tests.e2e.home import Home, free_port, home
from tests.faults.stage import Stage
from tests.web.conftest import sample, samples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_prometheus_is_told_what_the_operator_is_told(played: Stage) -> None:
    """Of a daemon that has measured a stream, run jobs and been told all sorts of things, every figure is the same."""
    here = played.here
    played.senders.land_rest()
    here.start()
    with played.traffic():
        here.wait("the stream to be opened", played.progress)
        played.senders.allow()
        here.wait("some acks", lambda: played.senders.acks > 20)
        assert played.probe("/readyz").status_code == 200
    played.quiet()

    before = here.json("status")
    scraped = samples(played.probe("/metrics").text)
    after = here.json("status")
    daemon = after["daemon"]
    for name, told in {
        "ready": daemon["ready"], "leader_epoch": daemon["epoch"], "rules": daemon["rules"]["count"],
        "paused": daemon["paused"], "queue_batches": 0,
    }.items():  # fmt: skip
        assert scraped[sample(name)] == told, name
    assert before["daemon"]["seq"] <= scraped[sample("event_seq")] <= daemon["seq"]  # the schedule goes on
    assert before["daemon"]["audit"]["seq"] <= scraped[sample("audit_seq")] <= daemon["audit"]["seq"]
    for source in daemon["sources"]:
        assert scraped[sample("source_stalled", source=source)] == 0
        assert sample("source_alive_timestamp_seconds", source=source) in scraped
    for stream, figures in daemon["streams"].items():
        for figure, value in figures.items():
            if figure in KEPT:
                assert scraped[sample(f"stream_{KEPT[figure][0]}", stream=stream)] == value
            elif figure in PASSED:
                assert scraped[sample(f"stream_{PASSED[figure][0]}_total", stream=stream)] == value
    for state, count in played.store.rows("SELECT state, count(*) FROM runs GROUP BY state"):
        assert scraped[sample("runs", state=state)] == count
    told = sum(value for (name, _), value in scraped.items() if name == "driftd_events_total")
    assert told == scraped[sample("event_seq")]  # it is this process's first life
    assert scraped[sample("stream_state_bytes", stream="loan")] > 1000
    assert scraped[sample("worker_resident_memory_bytes", worker="0")] > 10_000_000
    assert scraped["process_resident_memory_bytes", frozenset()] > 10_000_000
    assert scraped[sample("handler_start_seconds_count")] > 0
    played.settled()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Home, Home]]:
    """Two homes on one machine that are to tell how they are on the same port."""
    port = free_port()
    with ExitStack() as stack:
        homes = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            made = stack.enter_context(home(tmp_path / name))
            made.configure({"web": {"port": port}, "channels": {"ops": {"kind": "log"}}})
            made.rules("rules:\n  - name: hear\n    on: data.landed\n    do:\n      - notify: {to: ops}\n")
            homes.append(made)
        yield homes[0], homes[1]


def _web(of: Home) -> dict[str, Any]:
    status: dict[str, Any] = ask(of.state, {"op": "status"}, 10)["status"]
    assert status["ready"], status["reasons"]
    web: dict[str, Any] = status["web"]
    return web


def test_two_daemons_on_one_port_both_work(two: tuple[Home, Home]) -> None:
    """The second says that it is taken, is ready all the same, and has it when the first one ends."""
    first, second = two
    first.start()
    address = first.wait("the address", lambda: _web(first)["address"])
    second.start()
    problem = second.wait("the problem", lambda: _web(second)["problem"])
    assert problem == f"cannot listen on {address.removeprefix('http://')}: Address already in use"
    assert _web(second)["address"] is None
    assert problem in second.driftd("status").stdout
    assert len(second.said("web.not_listening")) == 1
    assert first.end("daemon") == 0
    assert second.wait("the address", lambda: _web(second)["address"]) == address
    assert httpx.get(f"{address}/readyz", trust_env=False).json() == {"ready": True, "reasons": []}
    assert second.end("daemon") == 0
