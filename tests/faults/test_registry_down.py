"""The registry is a server that goes away while a run needs it and while it is watched, and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from daemon.control import ask
from daemon.core.runs import Run, State
from tests.crash.scene import LOAN
from tests.crash.served import saved_models
from tests.crash.trials import Ground
from tests.e2e.home import Home, free_port, home
from tests.faults.registry import register, server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

RULES = f"""
model: {LOAN}
rules:
  - name: promote-what-is-registered
    on: model.registered
    mode: approve
    when_busy: queue
    do:
      - promote: {{}}
"""


@pytest.fixture
def here(tmp_path: Path, registry: Path) -> Iterator[Home]:
    """A home with a model, whose registry is a server that nobody has started."""
    shutil.copy(registry, tmp_path / "mlflow.db")
    with home(tmp_path) as made:
        uri = f"http://127.0.0.1:{free_port()}"
        made.configure({
            "registry": {"uri": uri, "artifacts": "", "poll": "1s", "timeout": "20s"},
            "models": {LOAN: {"task": "binary", "registered": LOAN}},
        })  # fmt: skip
        made.rules(RULES)
        yield made


def test_a_run_goes_on_when_the_registry_is_back_and_nothing_is_missed(here: Home, ground: Ground) -> None:
    """The server is killed before a run promotes: the run waits and is promoted once, later; a version that was registered
    meanwhile is found, once; the alias has moved once.
    """
    database = f"sqlite:///{here.folder}/mlflow.db"
    model = (saved_models(ground.folder) / "good").as_uri()
    port = int(here.config.registry.uri.rpartition(":")[2])
    with server(here.folder, port) as process:
        here.start()
        here.wait("the registry to be reached", lambda: reached(here), 120)
        second = register(database, LOAN, model)
        run: Run = here.wait("the run of the second version", lambda: waiting(here, second))
        os.killpg(process.pid, signal.SIGKILL)
        assert here.driftd("approve", run.id).returncode == 0
        here.wait("the run to be refused", lambda: [one for one in here.said("handler.answered") if refused(one)])
        here.wait("the source to say so", lambda: "does not answer" in source(here)["problem"])
        third = register(database, LOAN, model)
    assert not here.runs()[0].ended
    with server(here.folder, port):
        here.wait("the promotion", lambda: here.runs()[0].state is State.PROMOTED, 150)
        here.wait("the run of the third version", lambda: waiting(here, third))
        moved = [one.recorded.event.data for one in here.wait("the alias", lambda: here.events("model.alias_changed"))]
        assert [(one["alias"], one["previous"], one["version"]) for one in moved] == [("champion", "1", second)]
        assert here.end("daemon") == 0
    found = [one.recorded.event.data["version"] for one in here.events("model.registered")]
    assert found == [third, second]
    assert [one.given["version"] for one in here.runs()] == [second, third]
    with closing(sqlite3.connect(here.folder / "mlflow.db")) as opened:
        assert opened.execute("SELECT alias, version FROM registered_model_aliases").fetchall() == [("champion", 2)]
    writes = [told for told in here.json("audit", "show", "--run", run.id) if "set_alias" in str(told["body"])]
    assert len(writes) == 1


def source(here: Home) -> dict[str, str]:
    """How the source that polls the registry is doing."""
    status = ask(here.state, {"op": "status"}, 10)["status"]
    found: dict[str, str] = status["sources"]["registry:mlflow"]
    return found


def reached(here: Home) -> bool:
    """The registry has been looked at: whatever is registered from now on is new."""
    return bool(here.read(lambda session: session.rows("cursor", "registry:mlflow")))


def waiting(here: Home, version: str) -> Run | None:
    """The run about a version, when it waits for a person's word."""
    return next((r for r in here.runs() if r.given.get("version") == version and r.state is State.WAITING), None)


def refused(answer: dict[str, str]) -> bool:
    """A handler could not work because the registry was away."""
    return answer["outcome"] == "Again" and "registry" in answer["note"]
