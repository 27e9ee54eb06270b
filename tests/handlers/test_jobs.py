"""Verbs that work in jobs: one job per try, whatever is repeated, and what its end means."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daemon.core.calls import Again, Done, Failed, Inconclusive, Working
from daemon.core.canonical import canonical
from daemon.core.errors import Refused
from daemon.handling import Parameter, Template
from daemon.platforms.base import JobState
from handlers import command, evaluate, retrain
from handlers.evaluate import judged
from handlers.parts.jobs import checked

GOOD = {"metric": "accuracy", "rows": 900, "difference": 0.01, "lower": 0.002, "upper": 0.02}


@pytest.fixture
def approved(world: Any) -> Any:
    """The world with a template per verb."""
    minimum = {"min_rows": Parameter("min_rows", "int", required=False, default=10, doc="")}
    for name, verb in (("train", "retrain"), ("evaluate", "evaluate"), ("count", "command")):
        world.templates[name] = Template(name, "", verb, ("python", "x.py"), minimum, 100, 60, {})
    return world


def test_a_training_job_is_started_once_and_its_version_found(approved: Any, call: Any) -> None:
    """The job is asked for the rule's parameters; when it ends, the version that carries the call's name is the output."""
    asked = call("retrain", {"template": "train", "with": {"min_rows": 50}})
    for _ in range(3):
        assert isinstance(retrain.run(asked, approved), Working)
    approved.register("3", **{"driftd.call": "call-retrain", "driftd.holdout": "excluded"})
    approved.ends("call-retrain-0", JobState.DONE, {"version": "3", "rows": 60})

    outcome = retrain.run(asked, approved)

    assert isinstance(outcome, Done)
    assert outcome.outputs == {"version": "3", "created": "1700", "digest": "digest-3", "rows": 60}
    assert approved.changes == ["job call-retrain-0"]
    payload = approved.jobs_made["call-retrain-0"].payload
    assert payload["parameters"] == {"min_rows": 50}
    assert payload["champion"] == "1"
    assert payload["holdout"] == {"share": 0.2, "salt": "holdout:car-loan"}
    assert canonical(payload)


def test_a_version_whose_job_was_lost_is_adopted(approved: Any, call: Any) -> None:
    """A job that registered its version and died before it could say so still counts."""
    asked = call("retrain", {"template": "train"})
    retrain.run(asked, approved)
    approved.register("3", **{"driftd.call": "call-retrain", "driftd.holdout": "excluded", "driftd.rows": "70"})
    approved.ends("call-retrain-0", JobState.FAILED, why="its shim died")

    outcome = retrain.run(asked, approved)

    assert isinstance(outcome, Done)
    assert outcome.outputs["rows"] == 70


@pytest.mark.parametrize("registers", [False, True], ids=["nothing registered", "holdout not excluded"])
def test_a_training_that_cannot_be_trusted_fails(approved: Any, call: Any, registers: bool) -> None:
    """A job that ends well without a version, or without saying that it left the holdout out, is a failure."""
    asked = call("retrain", {"template": "train"})
    retrain.run(asked, approved)
    if registers:
        approved.register("3", **{"driftd.call": "call-retrain"})
    approved.ends("call-retrain-0", JobState.DONE, {"version": "3"})

    assert isinstance(retrain.run(asked, approved), Failed)


def test_too_few_rows_are_waited_for(approved: Any, call: Any) -> None:
    """Exit status 75 means a new job later, until the deadline; then nobody knows."""
    asked = call("retrain", {"template": "train", "look": "30m"})

    def starve(one: Any, context: Any) -> Any:
        for job in list(approved.jobs_made):
            approved.ends(job, JobState.AGAIN, {"why": "12 labelled rows, 50 needed"})
        return retrain.run(one, context)

    outcome = approved.drive(starve, asked)

    assert isinstance(outcome, Inconclusive)
    assert "12 labelled rows" in outcome.why
    assert approved.changes == [f"job call-retrain-{number}" for number in range(4)]


def test_an_outage_never_starts_a_second_job(approved: Any, call: Any) -> None:
    """When the platform did not answer, the next attempt looks after the job that runs; even if the state was lost."""
    asked = call("retrain", {"template": "train"})
    working = retrain.run(asked, approved)
    assert isinstance(working, Working)
    approved.away = {"jobs"}
    away = retrain.run(replace(asked, state=working.state), approved)
    assert isinstance(away, Again)
    approved.away = set()

    assert isinstance(retrain.run(replace(asked, attempt=7, state=away.state), approved), Working)
    assert isinstance(retrain.run(replace(asked, attempt=8, state={}), approved), Working)
    assert approved.changes == ["job call-retrain-0"]


def test_tries_that_ended_are_not_tried_again_when_the_state_was_lost(approved: Any, call: Any) -> None:
    """A call without its state finds the newest try by the jobs that exist."""
    asked = call("retrain", {"template": "train", "look": "1s"})
    retrain.run(asked, approved)
    approved.ends("call-retrain-0", JobState.AGAIN, {"why": "too few"})
    again = retrain.run(asked, approved)
    assert isinstance(again, Again)
    retrain.run(replace(asked, state=again.state), approved)

    assert isinstance(retrain.run(replace(asked, state={}), approved), Working)
    assert approved.changes == ["job call-retrain-0", "job call-retrain-1"]


def test_a_job_that_outlasts_its_step_is_ended(approved: Any, call: Any) -> None:
    """At the deadline a running job is cancelled, and the step is inconclusive."""
    asked = call("retrain", {"template": "train"})
    retrain.run(asked, approved)
    approved.now += timedelta(hours=3)

    assert isinstance(retrain.run(asked, approved), Inconclusive)
    assert approved.changes[-1] == "cancel call-retrain-0"


def test_what_a_dropped_step_started_is_ended(approved: Any, call: Any) -> None:
    """When a run turns away from a step, its job is cancelled; when it has ended there is nothing to do."""
    asked = call("retrain", {"template": "train"})
    retrain.run(asked, approved)
    retrain.cancel(asked, approved)
    retrain.cancel(asked, approved)

    assert approved.changes == ["job call-retrain-0", "cancel call-retrain-0"]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"template": "nothing"}, "no template 'nothing'"),
        ({"template": "count"}, "is for command, not for retrain"),
        ({"template": "train", "with": {"rows": 5}}, "has no parameter rows"),
        ({"template": "train", "with": {"min_rows": "many"}}, "must be a int"),
    ],
    ids=["unknown", "of another verb", "unknown parameter", "wrong type"],
)
def test_a_template_is_used_as_it_was_approved(approved: Any, call: Any, inputs: dict[str, Any], says: str) -> None:
    """Nothing but a declared parameter of a template of this verb reaches a program."""
    outcome = retrain.run(call("retrain", inputs), approved)

    assert isinstance(outcome, Failed)
    assert says in outcome.why
    assert approved.changes == []


@pytest.mark.parametrize(
    ("kind", "value", "means"),
    [
        ("int", 5.0, 5), ("number", 5, 5.0), ("bool", False, False), ("string", "a; rm -rf", "a; rm -rf"),
        ("time", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00"), ("duration", "2m", 120.0),
        ("int", 5.5, None), ("int", True, None), ("bool", 1, None), ("string", 5, None), ("time", "soon", None),
    ],
)  # fmt: skip
def test_parameters_have_their_declared_types(kind: Any, value: Any, means: Any) -> None:
    """A value is given in its type, or refused; `means` None stands for refused."""
    template = Template(
        "t", "", "retrain", (), {"x": Parameter("x", kind, required=True, default=None, doc="")}, 1, 1, {}
    )

    if means is None:
        with pytest.raises(Refused):
            checked(template, {"x": value})
    else:
        assert checked(template, {"x": value}) == {"x": means}


def test_a_required_parameter_must_be_given() -> None:
    """A parameter without a value and without a default is refused."""
    template = Template(
        "t", "", "retrain", (), {"x": Parameter("x", "int", required=True, default=None, doc="")}, 1, 1, {}
    )

    with pytest.raises(Refused, match="needs the parameter x"):
        checked(template, {})


@pytest.mark.parametrize(
    ("outputs", "verdict", "bars"),
    [
        (GOOD, Done, False),
        ({**GOOD, "difference": -0.004, "lower": -0.0099}, Done, False),
        ({**GOOD, "lower": -0.02, "upper": 0.01}, Inconclusive, False),
        ({**GOOD, "lower": -0.05, "upper": -0.02}, Failed, True),
        ({**GOOD, "metric": "mae", "challenger_failures": 3, "champion_failures": 1}, Failed, True),
        ({"metric": "accuracy"}, Failed, False),
    ],
    ids=["better", "not worse by the margin", "cannot tell", "worse", "fails on rows", "says nothing"],
)
def test_an_evaluation_is_judged_by_its_bounds(outputs: dict[str, Any], verdict: type, bars: bool) -> None:
    """Passed, failed for quality, or inconclusive: by where the bounds of the difference lie to the margin of 0.01."""
    outcome = judged(outputs, 0.01)

    assert isinstance(outcome, verdict)
    assert getattr(outcome, "quarantine", False) is bars


def test_an_evaluation_that_fails_names_what_it_bars(approved: Any, call: Any) -> None:
    """A worse version is barred by version, creation time and digest."""
    asked = call("evaluate", {"margin": 0.01, "since": "2026-01-01T00:00:00Z"}, {"version": "2"})
    evaluate.run(asked, approved)
    approved.ends("call-evaluate-0", JobState.DONE, {**GOOD, "lower": -0.05, "upper": -0.02})

    outcome = evaluate.run(asked, approved)

    assert isinstance(outcome, Failed)
    assert outcome.barred == {"version": "2", "created": "1700", "digest": "digest-2"}
    payload = approved.jobs_made["call-evaluate-0"].payload
    assert (payload["champion"], payload["version"]) == ("1", "2")
    assert payload["parameters"]["since"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("inputs", "given", "says"),
    [
        ({}, {"version": "1"}, "is the one to compare with"),
        ({}, {}, "no earlier step gave a version"),
        ({"margin": -1}, {"version": "2"}, "margin"),
    ],
    ids=["itself", "no version", "a value that an expression got wrong"],
)
def test_an_evaluation_without_two_versions_fails(
    approved: Any, call: Any, inputs: dict[str, Any], given: dict[str, Any], says: str
) -> None:
    """What cannot be compared is a failure that says why, before any job starts."""
    outcome = evaluate.run(call("evaluate", inputs, given), approved)

    assert isinstance(outcome, Failed)
    assert says in outcome.why
    assert approved.changes == []


def test_a_command_gives_its_outputs_as_result(approved: Any, call: Any) -> None:
    """What a program writes cannot take the place of another step's outputs; it needs no model."""
    asked = call("command", {"template": "count"}, model="")
    command.run(asked, approved)
    approved.ends("call-command-0", JobState.DONE, {"version": "99"})

    assert command.run(asked, approved) == Done({"result": {"version": "99"}})


def test_a_command_that_fails_quotes_its_log(approved: Any, call: Any, tmp_path: Any) -> None:
    """A person reads the end of the program's log in the reason, not only its exit status."""
    asked = call("command", {"template": "count"})
    command.run(asked, approved)
    (tmp_path / "stderr.log").write_text("a line\nno such table: labels\n")
    approved.job_states["call-command-0"] = replace(
        approved.job_states["call-command-0"], state=JobState.FAILED, why="exit status 1", folder=str(tmp_path)
    )

    outcome = command.run(asked, approved)

    assert isinstance(outcome, Failed)
    assert "exit status 1" in outcome.why
    assert "no such table: labels" in outcome.why
