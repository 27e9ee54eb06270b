"""Lists of what is stored: their JSON is what programs build on."""

from __future__ import annotations

from daemon.commands.exits import Exit
from daemon.core.events import Event
from daemon.core.problems import Problem
from tests.builders import T0
from tests.cli.conftest import Household, drift, nightly


def test_an_event_has_its_place_and_everything_it_came_with(household: Household) -> None:
    """The shape of `driftd events --json`."""
    household.submit(nightly())

    assert household.json("events", "--limit", "1") == [
        {
            "seq": 2, "at": "2026-01-05T12:00:00.000001+00:00", "id": "nightly-0", "source": "schedule:nightly",
            "type": "schedule.due", "subject": "nightly", "time": "2026-01-05T12:00:00+00:00",
            "data": {"due": "2026-01-05T12:00:00+00:00", "missed": 0, "schedule": "nightly"}, "chain": [],
            "undecidable": "",
        }
    ]  # fmt: skip


def test_events_are_chosen_by_type_and_subject(household: Household) -> None:
    """The newest come first, and only those asked for."""
    household.submit(drift(99), nightly(), drift(199))

    assert [event["seq"] for event in household.json("events", "--type", "drift.measured")] == [4, 2]
    assert [event["seq"] for event in household.json("events", "--subject", "nightly")] == [3]
    assert household.json("events", "--type", "nothing.happened") == []


def test_a_decision_says_what_was_decided_and_why(household: Household) -> None:
    """The shape of `driftd decisions --json`."""
    household.submit(drift(99, 0))

    (decision,) = household.json("decisions")

    assert decision.pop("revision")
    assert decision == {
        "seq": 1, "event": 2, "rule": "retrain-on-drift", "key": "inputs|churn|", "verdict": "not met",
        "admission": "", "why": "0 of the last 3 windows (asked: 2)", "run": "",
        "clauses": [["event.drifted_columns >= 1", "false", ""], ["event.estimated_loss_ratio >= 1.2", "true", ""]],
    }  # fmt: skip


def test_decisions_are_chosen_by_rule_and_verdict(household: Household) -> None:
    """Only those asked for."""
    household.submit(drift(99), drift(199), nightly())

    assert [one["rule"] for one in household.json("decisions", "--rule", "careful")] == ["careful"]
    assert [one["seq"] for one in household.json("decisions", "--verdict", "fired", "--rule", "retrain-on-drift")] == [
        2
    ]


def test_a_problem_is_counted_and_says_where_its_record_is_kept(household: Household) -> None:
    """The shape of `driftd problems --json`."""
    problem = Problem("record", "a.jsonl:7", "it has no id", "dead/a.jsonl-7")
    household.submit(problems=(problem,))
    household.submit(problems=(problem,))

    assert household.json("problems") == [
        {
            "kind": "record", "where": "a.jsonl:7", "reason": "it has no id", "dead_letter": "dead/a.jsonl-7",
            "first": "2026-01-05T12:00:00+00:00", "last": "2026-01-05T12:00:00.000001+00:00", "count": 2,
        }
    ]  # fmt: skip
    assert "[kept in dead/a.jsonl-7]" in household.driftd("problems").stdout


def test_text_from_outside_cannot_command_the_terminal(household: Household) -> None:
    """Control characters and markup in event data are shown, not obeyed."""
    household.submit(Event("x\x1b[2J", "schedule:[bold]me", "schedule.due", "nightly", T0, {"schedule": "\x1b[31mred"}))

    shown = household.driftd("events").stdout

    assert "\x1b" not in shown
    assert "schedule:[bold]me" in shown


def test_reading_needs_no_daemon(household: Household) -> None:
    """The store is read directly."""
    household.submit(nightly())
    household.stop_daemon()

    assert household.json("events")[0]["seq"] == 2


def test_where_no_daemon_ever_ran_there_is_nothing_to_read(household: Household) -> None:
    """A missing store is not found, and is not made."""
    household.stop_daemon()
    household.config.store.path.unlink()

    result = household.driftd("events")

    assert result.exit_code == Exit.NOT_FOUND
    assert "no daemon has run here yet" in result.stderr
    assert not household.config.store.path.exists()
