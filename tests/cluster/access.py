"""A service account that may do what `driftd rbac` prints, and nothing else."""

from __future__ import annotations

from pathlib import Path

import yaml
from typer.testing import CliRunner

from daemon.cli import app
from tests.cluster.admin import Admin, Json
from tests.cluster.cluster import Cluster

ACCOUNT = "driftd"

_CONFIG = """
home: home
templates: templates
platform:
  kind: kubernetes
  kubeconfig: {kubeconfig}
  namespace: {namespace}
  serving: {{route: {{gateway: models, hostname: "{{target}}.example.com"}}}}
sources:
  gpus: {{kind: nodes}}
models:
  loan: {{task: binary, registered: loan, stream: loan}}
streams:
  loan: {{predictions: loan, fields: {{id: id, time: time, version: version, error: error, features: {{age: number}}}}}}
"""
_RULES = """
model: loan
rules:
  - name: all-verbs
    on: model.registered
    do:
      - tune: {template: sweep}
      - retrain: {template: train}
      - batch_inference: {template: predict}
      - apply: {template: settings}
      - command: {template: queued}
      - command: {template: flow}
      - cordon: {node: gpu-1}
      - canary: {steps: [5, 50], each: 10m, guards: [error_rate]}
      - promote: {alias: champion}
"""
_SWEEP = {
    "maxTrialCount": 2,
    "parallelTrialCount": 1,
    "objective": {"type": "maximize", "objectiveMetricName": "accuracy"},
    "trialTemplate": {"primaryContainerName": "main", "trialParameters": [], "trialSpec": {}},
}
_MANIFESTS: dict[str, tuple[str, Json]] = {
    "train": ("retrain", {"apiVersion": "batch/v1", "kind": "Job", "spec": {}}),
    "predict": ("batch_inference", {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "spec": {}}),
    "sweep": ("tune", {"apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment", "spec": _SWEEP}),
    "settings": ("apply", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}}),
    "queued": ("command", {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "spec": {}}),
    "flow": ("command", {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": {}}),
}


def printed(folder: Path, kubeconfig: Path, namespace: str, rules: str = _RULES) -> list[Json]:
    """What `driftd rbac` prints for rules with every verb, whose models and jobs are in `namespace`."""
    (folder / "rules").mkdir(parents=True)
    (folder / "rules" / "all.yaml").write_text(rules)
    (folder / "templates").mkdir()
    for name, (verb, manifest) in _MANIFESTS.items():
        template = {"doc": name, "verb": verb, "parameters": {}, "kubernetes": {"manifest": manifest}}
        (folder / "templates" / f"{name}.yaml").write_text(yaml.safe_dump(template))
    path = folder / "config.yaml"
    path.write_text(_CONFIG.format(kubeconfig=kubeconfig, namespace=namespace))
    told = CliRunner().invoke(app, ["--config", str(path), "rbac", "--account", f"{namespace}/{ACCOUNT}"])
    assert told.exit_code == 0, told.output
    return [document for document in yaml.safe_load_all(told.output) if document]


def grant(cluster: Cluster, admin: Admin, documents: list[Json], namespace: str) -> Path:
    """Applies what was printed; a kubeconfig of the account."""
    for place in {str(one["metadata"].get("namespace", namespace)) for one in documents}:
        admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": place}})
    metadata = {"name": ACCOUNT, "namespace": namespace}
    admin.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    for document in documents:
        admin.apply(document)
    return cluster.kubeconfig_of(namespace, ACCOUNT)
