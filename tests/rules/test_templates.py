"""Approved templates: read with all their mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.core.errors import ConfigError
from daemon.core.programs import Parameter, ParameterType
from daemon.templates import fits, load_templates


def test_a_template_declares_a_program_and_its_parameters(tmp_path: Path) -> None:
    """Name, verb, program, parameters and limits, the limits with defaults."""
    (tmp_path / "train.yaml").write_text(
        "doc: Trains.\nverb: retrain\nargv: ['{python}', t.py]\n"
        "parameters:\n  rows: {type: int, default: 5, doc: how many}\nmemory_mb: 100\n"
    )
    template = load_templates(tmp_path)["train"]

    assert (template.name, template.verb, template.argv) == ("train", "retrain", ("{python}", "t.py"))
    assert template.parameters == {"rows": Parameter("rows", "int", required=False, default=5, doc="how many")}
    assert (template.memory_mb, template.seconds, template.env) == (100, 3600.0, {})


def test_all_mistakes_of_all_templates_are_told(tmp_path: Path) -> None:
    """Each with its file and place."""
    (tmp_path / "a.yaml").write_text("doc: d\nverb: command\nargv: []\nparameter: {}\n")
    (tmp_path / "b.yaml").write_text(
        "doc: d\nverb: command\nargv: [x]\nparameters:\n"
        "  n: {type: int, default: many, doc: d}\n  m: {type: int, required: true, default: 1, doc: d}\n"
    )
    with pytest.raises(ConfigError) as told:
        load_templates(tmp_path)

    assert [str(mistake).removeprefix(f"{tmp_path}/") for mistake in told.value.mistakes] == [
        "a.yaml:3:7: argv: Tuple should have at least 1 item after validation, not 0",
        "a.yaml:4:1: unknown key parameter; did you mean parameters?",
        "b.yaml:5:27: the default of n is no int",
        "b.yaml:6:43: parameter m is required, so its default is never used",
    ]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", "x", 1),
        ("int", 3, 3.5),
        ("int", 0, True),
        ("number", 3, "3"),
        ("number", 0.5, False),
        ("bool", True, 1),
        ("time", "2026-01-01T00:00:00Z", "noon"),
        ("duration", "1h30m", "soon"),
        ("duration", "1h", 60),
    ],
)
def test_values_fit_the_types_of_parameters(kind: ParameterType, good: object, bad: object) -> None:
    """A value as written in YAML is of a parameter's type or it is not."""
    assert (fits(kind, good), fits(kind, bad)) == (True, False)


CLUSTER = """doc: d
verb: {verb}
kubernetes:
  manifest:
    apiVersion: {version}
    kind: {kind}
{rest}
parameters:
  workers: {{type: int, default: 1, doc: d}}
"""


def cluster_template(folder: Path, rest: str, verb: str = "retrain", of: str = "Job of batch/v1") -> list[str]:
    """The mistakes of a template whose manifest goes on like this."""
    kind, _, version = of.partition(" of ")
    text = CLUSTER.format(verb=verb, version=version, kind=kind, rest=rest)
    (folder / "t.yaml").write_text(text)
    try:
        load_templates(folder)
    except ConfigError as told:
        return [mistake.message for mistake in told.mistakes]
    return []


def test_a_template_may_be_an_object_of_a_cluster(tmp_path: Path) -> None:
    """With places for its parameters."""
    assert cluster_template(tmp_path, "    spec: {parallelism: {$parameter: workers}, id: {$call: run}}") == []
    template = load_templates(tmp_path)["t"]

    assert template.argv == ()
    assert template.manifest["spec"]["parallelism"] == {"$parameter": "workers"}


@pytest.mark.parametrize(
    ("rest", "verb", "of", "told"),
    [
        ("    spec: {a: {$parameter: wrokers}}", "retrain", "Job of batch/v1", "no parameter wrokers; did you mean workers?"),
        ("    spec: {a: {$call: rnu}}", "retrain", "Job of batch/v1", "no fact of a call rnu; did you mean run?"),
        ("    spec: {a: {$param: workers}}", "retrain", "Job of batch/v1", "there is no place $param"),
        ("    spec: {}", "retrain", "Deployment of apps/v1", "retrain is done by Job of batch/v1 or"),
        ("    spec: {}", "tune", "Job of batch/v1", "tune is done by Experiment"),
        ("    metadata: {name: x}", "retrain", "Job of batch/v1", "driftd names what it makes"),
        ("    metadata: {namespace: x}", "retrain", "Job of batch/v1", "jobs run in platform.namespace"),
        ("    data: {}", "apply", "ConfigMap of v1", "say metadata.name"),
        (
            ("    spec: {parallelTrialCount: 1, objective: {objectiveMetricName: a, type: maximize}, trialTemplate: "
            "{primaryContainerName: a, trialParameters: [], trialSpec: {}}}"),
            "tune", "Experiment of kubeflow.org/v1beta1", "needs spec.maxTrialCount",
        ),
        (
            "    spec: {pytorchReplicaSpecs: {Master: {template: {spec: {containers: [{name: main}]}}}}}",
            "retrain", "PyTorchJob of kubeflow.org/v1", "a container named pytorch",
        ),
    ],
)  # fmt: skip
def test_a_manifest_s_mistakes_are_told_at_load(tmp_path: Path, rest: str, verb: str, of: str, told: str) -> None:
    """Those that the API server would only tell when a rule fires, and those that it would not tell at all."""
    found = cluster_template(tmp_path, rest, verb, of)

    assert len(found) == 1
    assert told in found[0]


@pytest.mark.parametrize("work", ["", "argv: [x]\nkubernetes: {manifest: {apiVersion: batch/v1, kind: Job}}\n"])
def test_a_template_is_a_program_or_an_object(tmp_path: Path, work: str) -> None:
    """One of the two."""
    (tmp_path / "t.yaml").write_text(f"doc: d\nverb: retrain\n{work}")
    with pytest.raises(ConfigError, match=r"is a program .* or an object"):
        load_templates(tmp_path)
