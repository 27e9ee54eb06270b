"""How jobs stand by what controllers and kubelets write: the shapes are those that the real ones were seen to write."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.clients.kubernetes_objects import Kind
from daemon.platforms.base import JobState
from daemon.platforms.kubernetes_jobs import _with_deadline
from daemon.platforms.kubernetes_objects import differences
from daemon.platforms.kubernetes_states import (
    EXPERIMENT,
    JOB,
    PYTORCH_JOB,
    TRAIN_JOB,
    WORKFLOW,
    fate_of,
    outputs_in,
    pod_fate,
)
from daemon.platforms.marks import is_for, is_managed, marked

BEST = {
    "bestTrialName": "t-1",
    "parameterAssignments": [{"name": "lr", "value": "0.03"}],
    "observation": {"metrics": [{"name": "loss", "latest": "0.1", "min": "0.1", "max": "0.9"}]},
}


def conditions(**values: str) -> dict[str, Any]:
    """A status with these conditions: type=status."""
    return {
        "conditions": [{"type": kind, "status": value, "reason": f"Because{kind}"} for kind, value in values.items()]
    }


@pytest.mark.parametrize(
    ("kind", "status", "state"),
    [
        (JOB, {}, JobState.RUNNING),
        (JOB, conditions(SuccessCriteriaMet="True"), JobState.RUNNING),
        (JOB, conditions(FailureTarget="True"), JobState.RUNNING),
        (JOB, conditions(SuccessCriteriaMet="True", Complete="True"), JobState.DONE),
        (JOB, conditions(FailureTarget="True", Failed="True"), JobState.FAILED),
        (PYTORCH_JOB, conditions(Created="True", Running="True"), JobState.RUNNING),
        (PYTORCH_JOB, conditions(Created="True", Running="False", Succeeded="True"), JobState.DONE),
        (PYTORCH_JOB, conditions(Created="True", Running="False", Failed="True"), JobState.FAILED),
        (PYTORCH_JOB, conditions(Succeeded="False", Failed="False", Restarting="True"), JobState.RUNNING),
        (TRAIN_JOB, {}, JobState.RUNNING),
        (TRAIN_JOB, conditions(Complete="True"), JobState.DONE),
        (TRAIN_JOB, conditions(Failed="True"), JobState.FAILED),
        (WORKFLOW, {}, JobState.RUNNING),
        (WORKFLOW, {"phase": "Running", "progress": "1/2"}, JobState.RUNNING),
        (WORKFLOW, {"phase": "Succeeded"}, JobState.DONE),
        (WORKFLOW, {"phase": "Error", "message": "no such template"}, JobState.FAILED),
        (EXPERIMENT, conditions(Created="True", Running="True"), JobState.RUNNING),
        (EXPERIMENT, conditions(Succeeded="True"), JobState.FAILED),
        (EXPERIMENT, {**conditions(Succeeded="True"), "currentOptimalTrial": BEST}, JobState.DONE),
        (EXPERIMENT, {**conditions(Failed="True"), "currentOptimalTrial": BEST}, JobState.FAILED),
    ],
)
def test_a_job_has_ended_when_its_controller_says_so(kind: Kind, status: dict[str, Any], state: JobState) -> None:
    """Not before: what is nearly over still has pods, and a condition counts when its status is True."""
    assert fate_of(kind, {"status": status}).state is state


@given(kind=st.sampled_from([JOB, PYTORCH_JOB, TRAIN_JOB, EXPERIMENT]), data=st.data())
def test_no_unknown_condition_ends_a_job(kind: Kind, data: st.DataObject) -> None:
    """Controllers come up with new ones."""
    names = st.sampled_from(
        ["Created", "Running", "Restarting", "Suspended", "SuccessCriteriaMet", "FailureTarget", "New"]
    )
    status = conditions(**data.draw(st.dictionaries(names, st.sampled_from(["True", "False", "Unknown"]))))

    assert fate_of(kind, {"status": status}).state is JobState.RUNNING


def test_a_sweep_gives_its_best_trial() -> None:
    """Parameters by name, as the text that Katib writes."""
    fate = fate_of(EXPERIMENT, {"status": {**conditions(Succeeded="True"), "currentOptimalTrial": BEST, "trials": 4}})

    assert fate.outputs["parameters"] == {"lr": "0.03"}
    assert (fate.outputs["trial"], fate.outputs["trials"]) == ("t-1", 4)


def test_a_workflow_gives_its_output_parameters() -> None:
    """Those of its nodes and its own, as JSON where they are."""
    nodes = {"a": {"outputs": {"parameters": [{"name": "rows", "value": "120"}, {"name": "note", "value": "fine"}]}}}
    fate = fate_of(WORKFLOW, {"status": {"phase": "Succeeded", "nodes": nodes}})

    assert fate.outputs == {"rows": 120, "note": "fine"}


def pod(**status: Any) -> dict[str, Any]:
    """A pod with this status."""
    return {"metadata": {"name": "p"}, "status": status}


def ended(code: int, reason: str, message: str = "", key: str = "state") -> dict[str, Any]:
    """A container that ended."""
    return {"name": "main", key: {"terminated": {"exitCode": code, "reason": reason, "message": message}}}


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({"phase": "Failed", "containerStatuses": [ended(137, "OOMKilled")]}, "main ended with OOMKilled"),
        ({"phase": "Running", "containerStatuses": [ended(137, "OOMKilled", key="lastState")]}, "OOMKilled"),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "node was low on memory"},
            "Evicted: node was low on memory",
        ),
        ({"phase": "Failed", "containerStatuses": [ended(1, "Error")]}, "ended with Error (exit status 1)"),
        (
            {
                "phase": "Failed",
                "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}],
                "containerStatuses": [ended(143, "Error")],
            },
            "PreemptionByScheduler; container main",
        ),
    ],
)
def test_a_pod_says_why_it_failed(status: dict[str, Any], why: str) -> None:
    """Out of memory, evicted, preempted, or the program's own exit status."""
    assert why in pod_fate(pod(**status)).why


@pytest.mark.parametrize(
    ("status", "stuck"),
    [
        (
            {
                "containerStatuses": [
                    {"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no x"}}}
                ]
            },
            "ImagePullBackOff: no x",
        ),
        (
            {
                "conditions": [
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
                ]
            },
            "Unschedulable: no GPU",
        ),
        ({"containerStatuses": [{"name": "main", "state": {"waiting": {"reason": "ContainerCreating"}}}]}, ""),
        ({}, ""),
    ],
)
def test_a_pod_says_why_it_does_not_start(status: dict[str, Any], stuck: str) -> None:
    """What only time mends is no reason."""
    fate = pod_fate(pod(phase="Pending", **status))

    assert stuck in fate.stuck
    assert bool(fate.stuck) == bool(stuck)
    assert not fate.started


def test_outputs_are_a_json_object_or_nothing() -> None:
    """A message that was cut at 4096 bytes is no JSON any more, and is not guessed at."""
    assert outputs_in('{"rows": 3}\n') == {"rows": 3}
    assert outputs_in('{"rows": 3') == {}
    assert outputs_in("[1]") == {}
    assert outputs_in("Traceback: …") == {}


def test_marks_lead_back_and_keep_what_the_template_says() -> None:
    """Labels for what fits into one, annotations for all, and what the template wrote is still there."""
    manifest = {"kind": "Job", "metadata": {"labels": {"team": "churn"}, "annotations": {"note": "x"}}}
    found = marked(manifest, "driftd-c-0", {"call": "c-0", "rule": "churn retrain", "run": "r", "model": ""})
    metadata = found["metadata"]

    assert metadata["name"] == "driftd-c-0"
    assert metadata["labels"] == {
        "team": "churn", "driftd.io/call": "c-0", "driftd.io/run": "r", "app.kubernetes.io/managed-by": "driftd",
    }  # fmt: skip
    assert metadata["annotations"] == {
        "note": "x", "driftd.io/call": "c-0", "driftd.io/run": "r", "driftd.io/rule": "churn retrain",
    }  # fmt: skip
    assert (is_managed(found), is_for(found, "c-0"), is_for(found, "c-1")) == (True, True, False)


@pytest.mark.parametrize(
    ("kind", "spec", "deadline"),
    [
        (JOB, {}, {"activeDeadlineSeconds": 60}),
        (JOB, {"activeDeadlineSeconds": 10}, {"activeDeadlineSeconds": 10}),
        (JOB, {"activeDeadlineSeconds": 999}, {"activeDeadlineSeconds": 60}),
        (
            PYTORCH_JOB,
            {"runPolicy": {"backoffLimit": 2}},
            {"runPolicy": {"backoffLimit": 2, "activeDeadlineSeconds": 60}},
        ),
        (TRAIN_JOB, {}, {}),
    ],
)
def test_a_job_has_its_kind_s_own_deadline(kind: Kind, spec: dict[str, Any], deadline: dict[str, Any]) -> None:
    """So that it ends when driftd is down; a shorter one in the manifest stands."""
    assert _with_deadline({"spec": spec}, kind, 60.9)["spec"] == deadline


def test_what_the_server_completes_is_no_difference() -> None:
    """What was wanted has to be there; more may be."""
    wanted = {"spec": {"replicas": 2, "containers": [{"name": "a", "image": "x"}]}}
    read = {"spec": {"replicas": 2, "containers": [{"name": "a", "image": "x", "pullPolicy": "Always"}], "more": 1}}

    assert differences(wanted, read) == set()
    assert differences(wanted, {"spec": {**read["spec"], "replicas": 3}}) == {".spec.replicas"}
    assert differences(wanted, {"spec": {"replicas": 2, "containers": []}}) == {".spec.containers"}
