"""What an operator says on the command line, and what came of it."""

from __future__ import annotations

import os
import pwd

import pytest

from daemon.commands.exits import Exit
from daemon.commands.operate import _source
from daemon.core.calls import Done, Failed
from tests.cli.conftest import Household, drift, nightly, registered

ME = pwd.getpwuid(os.getuid()).pw_name


def waiting(household: Household) -> str:
    """A run that waits for a person; its id."""
    household.submit(nightly())
    run = household.json("runs")[0]
    assert run["state"] == "waiting"
    return str(run["id"])


def test_pause_and_resume_say_what_is_so_now(household: Household) -> None:
    """The answer comes from the store, after the word is durable."""
    paused = household.json("pause", "--reason", "fair", "--by", "ann")
    status = household.json("status")
    resumed = household.json("resume")

    assert {"event": 2, "by": f"ann ({ME})", "paused": True} == paused
    assert status["store"]["paused"] is True
    assert resumed == {"event": 3, "by": ME, "paused": False}


def test_a_paused_rule_starts_nothing_and_says_so(household: Household) -> None:
    """While paused a firing becomes a decision `paused`."""
    household.driftd("pause")
    household.submit(nightly())

    assert [decision["verdict"] for decision in household.json("decisions")] == ["paused"]


def test_approve_takes_the_beginning_of_an_id_and_tells_the_move(household: Household) -> None:
    """The run goes on, and who approved it is in its moves."""
    run = waiting(household)

    came = household.json("approve", run[:6], "-m", "looks good")

    assert {"event": 3, "by": ME, "run": run, "before": "waiting", "state": "running",
            "why": f"approved by {ME}: looks good", "changed": True} == came  # fmt: skip
    household.answer("notify", Done())
    assert household.json("runs")[0]["state"] == "succeeded"


def test_reject_ends_a_run_that_touched_nothing(household: Household) -> None:
    """A person's no is an end of its own."""
    assert household.json("reject", waiting(household))["state"] == "rejected"


def test_cancel_ends_a_run_that_is_at_work(household: Household) -> None:
    """`driftd runs cancel` works in any state but a rollback's."""
    household.submit(drift(99), drift(199))

    assert household.json("runs", "cancel", household.run_id(), "-m", "wrong day")["state"] == "cancelled"


@pytest.mark.parametrize("verb", [("approve",), ("reject",), ("runs", "cancel")])
def test_a_word_for_a_run_that_has_ended_is_refused_and_not_stored(household: Household, verb: tuple[str, ...]) -> None:
    """Nothing is said to the daemon that could change nothing."""
    run = waiting(household)
    household.driftd("reject", run)
    before = household.json("events")[0]["seq"]

    result = household.driftd(*verb, run)

    assert result.exit_code == Exit.REFUSED
    assert "has ended: rejected" in result.stderr
    assert before == household.json("events")[0]["seq"]


def test_a_rollback_is_not_stopped(household: Household) -> None:
    """A run that is rolling back takes neither a no nor a cancellation."""
    household.submit(registered("7"))
    household.answer("canary", Failed("worse"))

    result = household.driftd("runs", "cancel", household.run_id())

    assert result.exit_code == Exit.REFUSED
    assert "a rollback is not stopped" in result.stderr


def test_approving_what_waits_for_nobody_is_refused(household: Household) -> None:
    """A run at work needs no approval."""
    household.submit(drift(99), drift(199))

    assert household.driftd("approve", household.run_id()).exit_code == Exit.REFUSED


def test_a_run_that_is_not_there_has_its_own_code(household: Household) -> None:
    """No such run."""
    result = household.driftd("approve", "ffff")

    assert result.exit_code == Exit.NOT_FOUND
    assert result.stderr == "driftd: there is no run ffff\n"


def test_an_id_that_begins_more_than_one_run_is_not_guessed(household: Household) -> None:
    """The empty beginning of all ids names no run."""
    household.submit(nightly(), nightly(1))

    assert household.driftd("approve", "").exit_code == Exit.NOT_FOUND


@pytest.mark.parametrize("command", [("pause",), ("resume",), ("stop",), ("reload",), ("status",)])
def test_without_a_daemon_every_word_ends_with_3(household: Household, command: tuple[str, ...]) -> None:
    """Nobody hears it, and the command says so."""
    household.stop_daemon()

    result = household.driftd(*command)

    assert result.exit_code == Exit.NOT_RUNNING
    assert "no daemon runs in" in result.stderr


def test_status_tells_of_the_store_also_without_a_daemon(household: Household) -> None:
    """What is stored can be seen whether it runs or not."""
    run = waiting(household)
    running = household.json("status")
    household.stop_daemon()
    alone = household.json("status", exit_code=Exit.NOT_RUNNING)

    assert (running["running"], alone["running"]) == (True, False)
    assert running["daemon"] == {"ready": True, "epoch": 1}
    assert running["store"] == alone["store"]
    assert alone["store"]["waiting_for_approval"] == [run]
    assert {"events": 2, "paused": False, "problems": 0, "barred_versions": 0, "stuck_runs": []}.items() <= alone[
        "store"
    ].items()


def test_reload_says_what_is_in_force(household: Household) -> None:
    """The number of rules and their revision."""
    assert household.json("reload")["rules"] == 3
    assert household.reloads == ["once"]


def test_reload_of_rules_with_mistakes_tells_them(household: Household) -> None:
    """The mistakes come back as file:line:column, and exit code 1."""
    (household.folder / "rules" / "churn.yaml").write_text("rules:\n  - nme: x\n")

    result = household.driftd("reload")

    assert result.exit_code == Exit.FOUND
    assert "rules/churn.yaml:2:" in result.stderr


def test_stop_asks_the_daemon_to_stop(household: Household) -> None:
    """It is told to, and says so."""
    assert household.json("stop") == {"stopping": True, "gateway": False}
    assert household.stopped.wait(10)


def test_what_lies_unread_is_told() -> None:
    """A source with a lag says how much and since when; one without, or that does not count, says nothing of it."""
    health = {"alive_at": "A", "event_at": None, "problem": "", "lag": 7, "unread_at": "U"}
    assert _source(health) == "alive A, last event never, 7 unread since U"
    assert _source({**health, "lag": 0, "unread_at": None}) == "alive A, last event never"
    assert _source({**health, "problem": "no broker"}) == "no broker"
