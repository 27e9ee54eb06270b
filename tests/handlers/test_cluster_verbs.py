"""Verbs whose work an object of the cluster may do: what is asked of it, and what its end means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from daemon.core.calls import Again, Done, Failed, Working
from daemon.core.errors import Refused
from daemon.handling import Parameter, Template
from daemon.platforms.base import Applied, JobState
from handlers import apply, batch_inference, retrain, tune

JOB = {
    "apiVersion": "batch/v1", "kind": "Job",
    "spec": {"workers": {"$parameter": "workers"}, "args": [{"$text": "lr"}], "call": {"$call": "json"},
             "version": {"$call": "version"}, "uri": {"$call": "model_uri"}, "rule": {"$call": "rule"}},
}  # fmt: skip
PARAMETERS = {
    "workers": Parameter("workers", "int", required=False, default=1, doc=""),
    "lr": Parameter("lr", "number", required=False, default=None, doc=""),
    "early": Parameter("early", "bool", required=False, default=None, doc=""),
}
BEST = {"parameters": {"lr": "0.03", "workers": "4", "early": "true", "depth": "7"}, "trial": "t-1"}


@pytest.fixture
def approved(world: Any) -> Any:
    """The world with a template per verb, each a manifest."""
    for verb in ("retrain", "tune", "batch_inference", "apply"):
        world.templates[verb] = Template(verb, "", verb, (), PARAMETERS, 100, 60, {}, JOB)
    return world


def test_a_manifest_is_filled_with_the_call(approved: Any, call: Any) -> None:
    """Parameters by type, the whole call as JSON, and what led to it beside it."""
    asked = call("retrain", {"template": "retrain", "with": {"workers": 3, "lr": 0.5}}, rule="on-drift")
    assert isinstance(retrain.run(asked, approved), Working)
    spec = approved.jobs_made["call-retrain-0"]
    made = spec.manifest["spec"]

    assert (made["workers"], made["args"], made["rule"]) == (3, ["0.5"], "on-drift")
    assert json.loads(made["call"])["parameters"] == {"workers": 3, "lr": 0.5}
    assert spec.argv == ()
    assert spec.origin == {
        "call": "call-retrain", "run": "run1", "rule": "on-drift", "event": "e1", "model": "car-loan",
    }  # fmt: skip


def test_a_job_that_is_gone_is_not_made_again(approved: Any, call: Any) -> None:
    """Somebody removed it, or it was cleared away while driftd was down: the step fails, unless its version is there."""
    asked = call("retrain", {"template": "retrain"})
    working = retrain.run(asked, approved)
    assert isinstance(working, Working)
    later = replace(asked, state=working.state)
    del approved.jobs_made["call-retrain-0"]

    failed = retrain.run(later, approved)
    approved.register("3", **{"driftd.call": "call-retrain", "driftd.holdout": "excluded", "driftd.rows": "70"})
    done = retrain.run(later, approved)

    assert isinstance(failed, Failed)
    assert "the job is gone" in failed.why
    assert isinstance(done, Done)
    assert approved.changes == ["job call-retrain-0"]


def test_a_sweep_gives_parameters_that_the_training_takes(approved: Any, call: Any) -> None:
    """Those that its template declares, as their types; what the rule says stands before them."""
    sweep = call("tune", {"template": "tune"})
    assert isinstance(tune.run(sweep, approved), Working)
    approved.ends("call-tune-0", JobState.DONE, BEST)
    outcome = tune.run(sweep, approved)
    assert isinstance(outcome, Done)
    assert outcome.outputs == {"parameters": BEST["parameters"]}

    retrain.run(call("retrain", {"template": "retrain", "with": {"workers": 2}}, outcome.outputs), approved)
    payload = approved.jobs_made["call-retrain-0"].payload

    assert payload["parameters"] == {"workers": 2, "lr": 0.03, "early": True}


def test_a_sweep_without_a_best_trial_fails(approved: Any, call: Any) -> None:
    """However well it says that it ended."""
    sweep = call("tune", {"template": "tune"})
    tune.run(sweep, approved)
    approved.ends("call-tune-0", JobState.DONE, {"parameters": {}})

    assert isinstance(tune.run(sweep, approved), Failed)


def test_batch_inference_holds_to_its_version(approved: Any, call: Any) -> None:
    """The champion when the run has no version; and the same one when the alias moves while it cannot work yet."""
    asked = call("batch_inference", {"template": "batch_inference"})
    first = batch_inference.run(asked, approved)
    assert isinstance(first, Working)
    approved.ends("call-batch_inference-0", JobState.AGAIN, {"why": "no rows yet"})
    again = batch_inference.run(replace(asked, state=first.state), approved)
    assert isinstance(again, Again)
    approved.aliases["champion"] = "2"
    second = batch_inference.run(replace(asked, state=again.state), approved)
    assert isinstance(second, Working)
    approved.ends("call-batch_inference-1", JobState.DONE, {"rows": 10})
    done = batch_inference.run(replace(asked, state=second.state), approved)

    assert isinstance(done, Done)
    assert done.outputs == {"result": {"rows": 10, "version": "1"}}
    manifests = [approved.jobs_made[f"call-batch_inference-{trial}"].manifest["spec"] for trial in (0, 1)]
    assert [made["version"] for made in manifests] == ["1", "1"]
    assert manifests[0]["uri"] == approved.versions["1"].source


def test_batch_inference_prefers_the_run_s_own_version(approved: Any, call: Any) -> None:
    """An earlier step has made it."""
    batch_inference.run(call("batch_inference", {"template": "batch_inference"}, {"version": "2"}), approved)

    assert approved.jobs_made["call-batch_inference-0"].manifest["spec"]["version"] == "2"


class Objects:
    """A cluster that keeps what is applied, or says no."""

    def __init__(self, no: str = "") -> None:
        self.applied: list[tuple[Mapping[str, Any], Mapping[str, str]]] = []
        self.no = no

    def apply(self, wanted: Mapping[str, Any], origin: Mapping[str, str]) -> Applied:
        """See Objects."""
        if self.no:
            raise Refused("kubernetes", "apply", self.no)
        self.applied.append((wanted, origin))
        return Applied("Job n/x", "u", "7", made=True, changed=True)


def test_apply_gives_what_was_read_back(approved: Any, call: Any) -> None:
    """The manifest with its values goes to the cluster; what it is then is the step's output."""
    approved.objects = Objects()
    outcome = apply.run(call("apply", {"template": "apply", "with": {"workers": 5}}), approved)

    assert isinstance(outcome, Done)
    assert outcome.outputs["applied"] == {
        "object": "Job n/x",
        "uid": "u",
        "version": "7",
        "made": True,
        "changed": True,
    }
    [(wanted, origin)] = approved.objects.applied
    assert (wanted["spec"]["workers"], origin["call"]) == (5, "call-apply")


@pytest.mark.parametrize("template", ["retrain", "apply"], ids=["another verb's template", "an owned field"])
def test_apply_fails_with_the_reason(approved: Any, call: Any, template: str) -> None:
    """Never by doing something else."""
    approved.objects = Objects("spec.replicas is owned by kubectl")
    outcome = apply.run(call("apply", {"template": template}), approved)

    assert isinstance(outcome, Failed)
    assert ("is for retrain" if template == "retrain" else "owned by kubectl") in outcome.why
