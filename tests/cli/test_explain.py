"""Why a rule did what it did, or did not: the account given on the command line holds in every case."""

from __future__ import annotations

from typing import Any

from daemon.commands.exits import Exit
from daemon.config import load_config
from daemon.rulefiles import RuleFolder
from daemon.verbs import load_verbs
from tests.cli.conftest import RULES, Household, drift, nightly


def load(household: Household, text: str) -> None:
    """Put other rules in force, as an edit of the file would."""
    (household.folder / "rules" / "churn.yaml").write_text(text)
    config = load_config(household.folder / "config.yaml")
    loaded = RuleFolder(config, {name: one.verb for name, one in load_verbs().items()}).load()
    household.writer.load(loaded.rules, loaded.files)


def rule(when: str, more: str) -> str:
    """A rule file with one rule."""
    head = RULES.split("rules:", maxsplit=1)[0]
    return f"{head}rules:\n  - name: r\n    on: drift.measured\n    when: {when}\n    {more}\n    do:\n      - notify: {{to: oncall}}\n"


def test_a_firing_is_explained_clause_by_clause_with_its_values_and_memory(household: Household) -> None:
    """The shape of `driftd explain DECISION --json`."""
    household.submit(drift(99), drift(199))

    told = household.json("explain", "2")

    assert told["decision"]["verdict"] == "fired"
    assert told["event"]["seq"] == 3
    assert told["clauses"] == [
        {"text": "event.drifted_columns >= 1", "truth": "true", "reason": "", "values": {"event.drifted_columns": 1},
         "shortfall": []},
        {"text": "event.estimated_loss_ratio >= 1.2", "truth": "true", "reason": "",
         "values": {"event.estimated_loss_ratio": 1.5}, "shortfall": []},
    ]  # fmt: skip
    assert told["clear"] is None
    assert told["memory"]["note"] == ""
    assert told["memory"]["before"]["windows"] == "to row 99 held (asked: 2 of 3)"
    assert told["memory"]["after"]["cooldown"] == "6h, until 2026-01-05 18:00:00"
    assert told["memory"]["after"]["limit"] == "1 of 2 per 1d used"
    assert told["run"] == {"id": household.run_id(), "state": "running", "why": "", "held": ""}
    assert "name: retrain-on-drift" in told["rule"]["text"]


def test_a_clause_that_did_not_hold_says_what_was_missing(household: Household) -> None:
    """The value that was read stands beside the one that was asked."""
    household.submit(drift(99, 0, 1.1))

    told = household.json("explain", "1")

    assert [clause["shortfall"] for clause in told["clauses"]] == [
        ["event.drifted_columns is 0, asked >= 1"],
        ["event.estimated_loss_ratio is 1.1, asked >= 1.2"],
    ]
    assert "event.estimated_loss_ratio is 1.1, asked >= 1.2" in household.driftd("explain", "1").stdout


def test_an_unknown_clause_says_what_is_absent(household: Household) -> None:
    """Not knowing has its reason."""
    household.submit(drift(99, 1, None))

    told = household.json("explain", "1")

    assert told["decision"]["verdict"] == "unknown"
    assert (told["clauses"][1]["truth"], told["clauses"][1]["reason"]) == (
        "unknown", "event.estimated_loss_ratio is absent",
    )  # fmt: skip
    assert told["clauses"][1]["values"] == {"event.estimated_loss_ratio": None}


def test_what_blocked_a_firing_is_told(household: Household) -> None:
    """Cooldown: the rule would have fired, and says until when it may not."""
    household.submit(drift(99), drift(199))
    household.submit(drift(299, 0), drift(399, 0), drift(499), drift(599))

    told = household.json("explain", str(household.json("decisions")[0]["seq"]))

    assert told["decision"]["verdict"] == "cooldown"
    assert told["decision"]["why"].startswith("in cooldown until 2026-01-05T18:00:00")
    assert told["memory"]["before"]["fired"] == "2026-01-05 12:00:00"


def test_a_refused_firing_says_who_holds_the_target(household: Household) -> None:
    """The admission is part of the account; the memory after it is armed as before."""
    text = RULES.replace("- command: {template: count-rows}", "- retrain: {template: tabular-train}")
    load(household, text + text.split("rules:")[1].replace("retrain-on-drift", "second").split("  - name: careful")[0])
    household.submit(drift(99), drift(199))

    (refused,) = [one for one in household.json("decisions", "--verdict", "fired") if not one["run"]]
    told = household.json("explain", str(refused["seq"]))

    assert told["decision"]["admission"].startswith("busy: run ")
    assert told["run"] is None
    assert "fired" not in told["memory"]["after"]
    assert told["memory"]["note"] == ""


def test_an_event_is_explained_under_every_rule_it_concerned(household: Household) -> None:
    """`event:SEQ` gives the event and each decision."""
    household.submit(drift(99))

    told = household.json("explain", "event:2")

    assert told["event"]["type"] == "drift.measured"
    assert [one["decision"]["rule"] for one in told["decisions"]] == ["retrain-on-drift"]
    assert "concerned no rule" in household.driftd("explain", "event:1").stdout


def test_a_rule_tells_what_it_remembers_now_by_key(household: Household) -> None:
    """A rule's name gives its text, its memory and its last decision per key."""
    household.submit(drift(99))

    told = household.json("explain", "retrain-on-drift")

    assert list(told["keys"]) == ["inputs|churn|"]
    assert told["keys"]["inputs|churn|"]["memory"]["windows"] == "to row 99 held (asked: 2 of 3)"
    assert told["keys"]["inputs|churn|"]["latest"]["decision"]["seq"] == 1
    assert list(household.json("explain", "retrain-on-drift", "--key", "inputs|churn|")["keys"]) == ["inputs|churn|"]


def test_a_rule_that_waits_for_a_time_says_when_it_is_asked_again(household: Household) -> None:
    """The due time is listed; the decision of the timer is explained by the event that started it."""
    load(household, rule("event.drifted_columns >= 1", "for: 10m"))
    household.submit(drift(99))

    (due,) = household.json("explain", "r")["keys"]["inputs|churn|"]["due"]
    household.later(601)
    household.submit(nightly())  # any transaction: due times come with it
    told: dict[str, Any] = household.json("explain", str(household.json("decisions")[0]["seq"]))

    assert (due["why"], due["at"][:16]) == ("for", "2026-01-05T12:10")
    assert told["event"]["type"] == "timer.due"
    assert told["subject"]["id"] == "inputs-99"
    assert told["decision"]["verdict"] == "fired"
    assert [clause["truth"] for clause in told["clauses"]] == ["true"]
    assert told["memory"]["note"] == ""


def test_an_old_decision_is_explained_with_the_rule_of_its_time(household: Household) -> None:
    """An edit of the rule changes nothing of what it was and remembered before."""
    load(household, rule("event.drifted_columns >= 1", "for: 2 windows"))
    household.submit(drift(99))
    load(household, rule("event.drifted_columns >= 5", "for: 3 windows"))
    household.submit(drift(199, 7))

    old, new = household.json("explain", "1"), household.json("explain", "2")

    assert "for: 2 windows" in old["rule"]["text"]
    assert old["memory"]["after"]["windows"] == "to row 99 held (asked: 2 of 2)"
    assert "for: 3 windows" in new["rule"]["text"]
    assert new["memory"]["after"]["windows"] == "to row 199 held (asked: 3 of 3)"


def test_the_end_of_an_episode_is_part_of_the_account(household: Household) -> None:
    """A rule with `clear` shows how its clause came out."""
    load(household, rule("event.drifted_columns >= 2", "clear: event.drifted_columns == 0"))
    household.submit(drift(99, 3), drift(199, 1))

    told = household.json("explain", "2")

    assert (told["clear"]["text"], told["clear"]["truth"]) == ("event.drifted_columns == 0", "false")
    assert "episode" in told["memory"]["before"]


def test_a_rule_whose_text_no_longer_fits_is_explained_as_far_as_it_can_be(household: Household) -> None:
    """The stored clauses and values stay; what memory was is said to be unknown."""
    household.submit(drift(99))
    config = household.folder / "config.yaml"
    config.write_text(config.read_text().replace("oncall: {kind: log}", "other: {kind: log}"))

    told = household.json("explain", "1")

    assert told["clauses"][0]["values"] == {"event.drifted_columns": 1}
    assert "no longer fits config.yaml" in told["memory"]["note"]


def test_why_not_finds_the_nearest_miss(household: Household) -> None:
    """Of what did not fire, the decision with the most clauses true and the least missing."""
    household.submit(drift(99, 0, 0.5), drift(199, 0, 1.5), drift(299, 1, 1.1), drift(399, 1, 1.19), drift(499, 0, 1.0))

    told = household.json("explain", "--why-not", "retrain-on-drift")

    assert told["verdicts"] == {"not met": 5}
    assert told["last_fired"] is None
    assert told["nearest_miss"]["subject"]["id"] == "inputs-399"
    assert told["nearest_miss"]["clauses"][1]["shortfall"] == ["event.estimated_loss_ratio is 1.19, asked >= 1.2"]


def test_why_not_prefers_what_only_waited_over_what_did_not_hold(household: Household) -> None:
    """A condition that held but not yet long enough is nearer than one that did not hold; pause is told."""
    household.submit(drift(99, 1, 1.199), drift(199), drift(299, 0, 1.0))
    household.driftd("pause")

    told = household.json("explain", "--why-not", "retrain-on-drift")

    assert told["nearest_miss"]["decision"]["verdict"] == "held"
    assert told["paused"] is True


def test_a_rule_that_nothing_concerned_has_no_miss(household: Household) -> None:
    """A rule in force that never decided anything is known all the same."""
    told = household.json("explain", "--why-not", "careful")

    assert (told["verdicts"], told["nearest_miss"]) == ({}, None)
    assert "no event has concerned it" in household.driftd("explain", "--why-not", "careful").stdout


def test_what_is_not_there_has_its_own_code(household: Household) -> None:
    """Unknown decisions, events, rules and keys."""
    household.submit(drift(99))
    asked = (
        ("99",),
        ("event:99",),
        ("no-such-rule",),
        ("retrain-on-drift", "--key", "x"),
        ("--why-not", "no-such-rule"),
    )

    assert [household.driftd("explain", *arguments).exit_code for arguments in asked] == [Exit.NOT_FOUND] * 5


def test_a_long_history_gives_the_same_account(household: Household) -> None:
    """Memory that is had again by replay is the memory that the daemon holds, after many events of all kinds."""
    for number in range(60):
        household.submit(
            drift(100 * number + 99, (number // 3) % 2, None if number % 7 == 5 else 1.0 + 0.1 * (number % 5))
        )
        household.later(600)
        if number == 30:
            household.driftd("pause")
        if number == 35:
            household.driftd("resume")

    newest = household.json("decisions", "--rule", "retrain-on-drift", "--limit", "1")[0]
    told = household.json("explain", str(newest["seq"]))
    now = household.json("explain", "retrain-on-drift")["keys"]["inputs|churn|"]["memory"]

    assert told["memory"]["note"] == ""
    assert {"windows", "fired"} <= set(now)
    assert [told["memory"]["after"].get(name) for name in ("windows", "fired", "episode", "streak began")] == [
        now.get(name) for name in ("windows", "fired", "episode", "streak began")
    ]
