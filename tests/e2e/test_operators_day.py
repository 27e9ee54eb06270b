"""What an operator does in a day, on one daemon: pause, approve, reject, mend a rule file, hear of silence and of calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import orjson
import pytest

from daemon.core.runs import State
from daemon.platforms.shim import start_of
from daemon.sources.signatures import SIGNATURE, TIMESTAMP, sign
from tests.e2e.home import Home, free_port, home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECRET = "an operator's secret"

RULES = """
rules:
  - name: tell-of-files
    on: data.landed
    subject: inbox
    when: event.name.endsWith(".csv")
    do:
      - notify: {to: ops}
  - name: ask-before
    on: data.landed
    subject: inbox
    mode: approve
    when: event.name.endsWith(".zip")
    when_busy: queue
    do:
      - notify: {to: ops}
  - name: hear-of-calls
    on: webhook.received
    when: event.hook == "builds" && event.type == "build.done"
    do:
      - notify: {to: ops}
  - name: hear-of-silence
    absent: data.landed
    subject: heartbeat
    for: 2s
    do:
      - notify: {to: ops}
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Home]:
    """A home without a model."""
    with home(tmp_path) as made:
        yield made


def _land(here: Home, folder: str, name: str) -> None:
    part = here.state / folder / f".{name}"
    part.write_text(name)
    part.replace(here.state / folder / name)


def _run_about(here: Home, name: str, state: State) -> str:
    """The id of the run about a file, once it is in a state."""

    def found() -> str:
        return next((run.id for run in here.runs() if run.trigger.data.get("name") == name and run.state is state), "")

    run: str = here.wait(f"the run about {name} to be {state.value}", found)
    return run


def _must(here: Home, *arguments: str) -> str:
    done = here.driftd(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _call(port: int, secret: str, name: str) -> int:
    """Send a signed CloudEvent; the answer's status."""
    told = {"specversion": "1.0", "id": name, "source": "/ci", "type": "build.done", "data": {"ok": True}}
    body, now = orjson.dumps(told), str(int(time.time()))
    headers = {
        "content-type": "application/cloudevents+json",
        TIMESTAMP: now,
        SIGNATURE: sign(secret.encode(), now, [], body),
    }
    return httpx.post(f"http://127.0.0.1:{port}/hooks/builds", content=body, headers=headers, timeout=20).status_code


def test_an_operators_day(here: Home) -> None:
    """Each word of an operator has its effect, and only that; who said what and why is kept."""
    port = free_port()
    (here.folder / "secret").write_text(SECRET)
    here.configure({
        "sources": {
            name: {"kind": "storage", "path": name, "complete": "renamed", "poll": "1s"}
            for name in ("inbox", "heartbeat")
        },
        "webhook": {"port": port, "hooks": {"builds": {"secret": {"file": "secret"}}}},
        "channels": {"ops": {"kind": "log"}},
    })  # fmt: skip
    here.rules(RULES)
    here.start()

    # A call that is signed counts; one that is not, does not.
    assert _call(port, SECRET, "1") == 202
    assert State.SUCCEEDED is here.ended("hear-of-calls").state
    assert _call(port, "another secret", "2") == 401
    assert len(here.events("webhook.received")) == 1

    # While paused, events are stored and decided, and nothing is done.
    _must(here, "pause", "--reason", "lunch")
    _land(here, "inbox", "paused.csv")
    here.wait("the decision", lambda: here.decisions("tell-of-files", "paused"))
    assert here.fired("tell-of-files") == []
    _must(here, "resume")
    _land(here, "inbox", "resumed.csv")
    _run_about(here, "resumed.csv", State.SUCCEEDED)

    # A person says yes to one and no to the other.
    _land(here, "inbox", "yes.zip")
    _must(here, "approve", _run_about(here, "yes.zip", State.WAITING), "--by", "ann")
    _run_about(here, "yes.zip", State.SUCCEEDED)
    _land(here, "inbox", "no.zip")
    _must(here, "reject", _run_about(here, "no.zip", State.WAITING), "--by", "ann", "--reason", "not today")
    _run_about(here, "no.zip", State.REJECTED)

    # A broken rule file changes nothing but is told; the mended one is in force by itself.
    loaded = len(here.events("rules.loaded"))
    here.rules(RULES.replace("event.name.endsWith", "event.nmae.endsWith"))
    here.wait(
        "the mistake to be told",
        lambda: [one for one in here.events("problem.recorded") if one.recorded.event.data["kind"] == "rule"],
    )
    _land(here, "inbox", "meanwhile.csv")
    _run_about(here, "meanwhile.csv", State.SUCCEEDED)
    assert len(here.events("rules.loaded")) == loaded
    here.rules(RULES.replace('".csv"', '".tsv"'))
    here.wait("the mended rules", lambda: len(here.events("rules.loaded")) == loaded + 1)
    _land(here, "inbox", "mended.tsv")
    _run_about(here, "mended.tsv", State.SUCCEEDED)

    # Nothing has come from the heartbeat: that is told once, after the minute that a source has to catch up.
    here.ended("hear-of-silence", 90)
    assert len(here.fired("hear-of-silence")) == 1

    # What was meant for the pause is over with it.
    assert [run for run in here.runs() if run.trigger.data.get("name") == "paused.csv"] == []
    gateway = orjson.loads((here.state / "gateway" / "gateway.json").read_bytes())
    assert start_of(gateway["pid"]) == gateway["start"]
    _must(here, "stop", "--gateway")
    assert here.end("daemon") == 0
    assert start_of(gateway["pid"]) != gateway["start"]
    _must(here, "audit", "verify")
    said = [one.recorded.event.data for one in reversed(here.events("control.changed"))]
    assert [(one["verb"], one["reason"]) for one in said] == [
        ("pause", "lunch"), ("resume", ""), ("approve", ""), ("reject", "not today"),
    ]  # fmt: skip
    assert all(one["by"].startswith("ann (") for one in said[2:])
