"""The runs, and the one-page report of each."""

from __future__ import annotations

from daemon.commands.exits import Exit
from daemon.core.calls import Again, Answer, Done, Failed, Working
from tests.cli.conftest import Household, drift, nightly, registered


def rolled_back(household: Household) -> str:
    """A run whose canary failed and whose traffic went back; its id."""
    household.submit(registered("9"))
    looks = (Answer("canary", "verdict", {"error_rate": "worse", "requests": 900}),)
    household.answer("canary", Failed("twice the errors", quarantine=True, answers=looks))
    read_back = (
        Answer("serving", "shift", {"asked": {"8": 100}}),
        Answer("serving", "traffic", {"weights": {"8": 100}, "epoch": 4}),
        Answer("prediction log", "served", {"8": 61}),
    )
    household.answer("rollback", Done({"verified": "proven", "restored": "8", "why": "all is back"}, answers=read_back))
    household.answer("notify", Done(answers=(Answer("oncall", "log", {"sent": True}),)))
    return household.run_id()


def test_a_list_of_runs_says_how_each_stands(household: Household) -> None:
    """The shape of `driftd runs list --json`."""
    household.submit(drift(99), drift(199))

    (run,) = household.json("runs", "list")

    assert len(run.pop("id")) == 32
    assert run == {
        "rule": "retrain-on-drift", "model": "churn", "key": "inputs|churn|", "state": "running", "why": "",
        "created": "2026-01-05T12:00:00.000002+00:00", "ended": None, "steps": ["command", "notify"], "position": 0,
        "given": {}, "trigger": 3, "targets": [], "held": "",
    }  # fmt: skip
    assert "[command] > notify" in household.driftd("runs").stdout


def test_runs_are_chosen_by_rule_and_by_whether_they_live(household: Household) -> None:
    """The newest first, and only those asked for."""
    household.submit(nightly(), drift(99), drift(199))
    household.driftd("reject", next(run["id"] for run in household.json("runs") if run["rule"] == "careful"))

    assert [run["rule"] for run in household.json("runs", "list", "--live")] == ["retrain-on-drift"]
    assert [run["state"] for run in household.json("runs", "list", "--rule", "careful")] == ["rejected"]


def test_the_report_of_a_rollback_holds_everything_an_auditor_asks(household: Household) -> None:
    """Trigger, steps with inputs, outputs and answers, both read-backs, the quarantine, the end and its reason."""
    run = rolled_back(household)
    evidence = household.home / "evidence" / run
    evidence.mkdir(parents=True)
    (evidence / "verdict.json").write_text("{}")

    told = household.json("runs", "show", run[:7])
    steps = {step["number"]: step for step in told["steps"]}

    assert (told["run"], told["state"], told["verified"]) == (run, "rolled back", "proven")
    assert told["decision"]["event"]["data"]["version"] == "9"
    assert told["rule_text"].startswith("# model: churn, owner: churn-ml\nname: canary-registered")
    assert told["evidence"] == [{"file": str(evidence / "verdict.json"), "bytes": 2}]
    assert [(one["version"], one["reason"]) for one in told["quarantine"]] == [("9", "twice the errors")]
    assert [(number, step["kind"], step["verb"], step["status"]) for number, step in sorted(steps.items())] == [
        (0, "step", "canary", "failed"), (1, "step", "promote", "not begun"), (1000, "undo", "rollback", "done"),
        (2000, "after", "notify", "done"),
    ]  # fmt: skip
    assert (steps[0]["note"], steps[0]["inputs"]) == ("twice the errors", {"each": "10m", "steps": [5, 50]})
    assert steps[1000]["outputs"]["restored"] == "8"
    assert [(one["operation"], one["read_back"]) for one in steps[1000]["answers"]] == [
        ("shift", False), ("traffic", True), ("served", True),
    ]  # fmt: skip
    assert [move["state"] for move in told["moves"]] == ["serving", "undoing", "rolled back"]
    records = household.json("audit", "show", "--run", run)
    assert told["audit"] == sorted(record["seq"] for record in records)


def test_the_report_says_so_on_one_page_of_text(household: Household) -> None:
    """What a person reads names the proof, the reason and where to look further."""
    run = rolled_back(household)

    page = household.driftd("runs", "show", run).stdout

    assert "ROLLED BACK: " in page
    assert "rollback: proven (by what the serving side says, and by the requests in the prediction log)" in page
    assert "undo: rollback: done" in page
    assert "step 2: promote: not begun" in page
    assert "prediction log served: 8 61" in page
    assert "quarantined: churn version 9: twice the errors" in page
    assert f"driftd audit show --run {run[:8]}" in page


def test_an_unproven_rollback_never_reads_as_proven(household: Household) -> None:
    """Without the requests in the prediction log the page says unverified, and that a person should look."""
    household.submit(registered("9"))
    household.answer("canary", Failed("worse"))
    household.answer("rollback", Done({"verified": "unverified", "restored": "8"}))

    page = household.driftd("runs", "show", household.run_id()).stdout

    assert "rollback: unverified" in page
    assert "proven" not in page.replace("unproven", "")


def test_attempts_progress_and_durations_are_told(household: Household) -> None:
    """A step that was tried again and worked for a while says how often and how long."""
    household.submit(drift(99), drift(199))
    household.answer("command", Again(0.0, "the registry does not answer"))
    household.later(1)
    household.answer("command", Working(0.0, note="training", answers=(Answer("job", "started", {"pid": 1}),)))
    household.later(90)
    household.answer("command", Done({"rows": 3}))

    step = household.json("runs", "show", household.run_id())["steps"][0]

    assert (step["attempts"], round(step["seconds"])) == (1, 91)
    assert [answer["operation"] for answer in step["answers"]] == ["started"]
    assert "in 91.0 s, tried again 1 times" in household.driftd("runs", "show", household.run_id()).stdout


def test_many_answers_of_one_kind_are_cut_on_paper_and_kept_in_json(household: Household) -> None:
    """A canary that looked thirty times fills no page."""
    household.submit(registered("9"))
    for number in range(30):
        look = (Answer("canary", "verdict", {"look": number}),)
        household.answer("canary", Working(0.0, {"n": number}, answers=look))
        household.later(1)
    household.answer("canary", Done())

    told = household.json("runs", "show", household.run_id())
    page = household.driftd("runs", "show", household.run_id()).stdout

    assert len(told["steps"][0]["answers"]) == 30
    assert "30 answers of canary verdict, the last 4:" in page
    assert page.count("canary verdict: look") == 4


def test_a_waiting_run_says_what_it_waits_for(household: Household) -> None:
    """The page names the step and the two words that a person may say."""
    household.submit(nightly())

    page = household.driftd("runs", "show", household.run_id()).stdout

    assert "it waits for a person before notify: `driftd approve" in page


def test_a_run_that_is_not_there_has_its_own_code(household: Household) -> None:
    """No such run."""
    assert household.driftd("runs", "show", "abcdef").exit_code == Exit.NOT_FOUND
