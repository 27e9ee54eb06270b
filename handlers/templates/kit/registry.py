"""What a training program does with MLflow: find what it made before, log the model with its reference, register it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from . import pyfunc_model
from .call import JobCall, log

REFERENCE = "driftd/reference.parquet"
"""Where a run keeps the rows that later windows are held against."""


@dataclass(frozen=True)
class Trained:
    """A fitted model, ready to be logged."""

    pipeline: Any
    spec: dict[str, Any]
    """What `pyfunc_model.answers` needs: task, features with kinds, classes, names of the prediction and score columns."""
    reference: pd.DataFrame
    """Features, prediction, score and label under the stream's names."""
    metrics: dict[str, float]
    params: dict[str, Any]


def connect(call: JobCall) -> mlflow.MlflowClient:
    """A client of the call's registry; MLflow's module-level functions use it too."""
    mlflow.set_tracking_uri(call.registry["uri"])
    mlflow.set_registry_uri(call.registry["uri"])
    return mlflow.MlflowClient()


def registered(client: mlflow.MlflowClient, call: JobCall) -> Any:
    """The version that this very call registered before, or None."""
    name = call.model["registered"]
    found = client.search_model_versions(f"name = '{_quoted(name)}' and tags.`driftd.call` = '{_quoted(call.call)}'")
    return found[0] if found else None


def register(client: mlflow.MlflowClient, call: JobCall, trained: Trained) -> Any:
    """Log the model and its reference in a run, and register it: its tags come with it, in one write.

    One of them says that the rows were read without the holdout, which `rows.stream_rows` saw to. When this call has registered a version already, that one is given back.
    """
    before = registered(client, call)
    if before is not None:
        log("adopted", version=before.version)
        return before
    with mlflow.start_run(experiment_id=_experiment(client, call), tags=_tags(call)) as run:
        mlflow.log_params(trained.params)
        mlflow.log_metrics(trained.metrics)
        with tempfile.TemporaryDirectory(dir=call.folder) as scratch:
            info = _log_model(Path(scratch), trained)
            reference = Path(scratch) / "reference.parquet"
            trained.reference.to_parquet(reference, index=False)
            mlflow.log_artifact(str(reference), "driftd")
            digest = hashlib.sha256(reference.read_bytes()).hexdigest()
    return client.create_model_version(
        call.model["registered"],
        source=info.model_uri,
        run_id=run.info.run_id,
        tags={
            **_tags(call),
            "driftd.reference": digest,
            "driftd.rows": str(len(trained.reference)),
            "driftd.holdout": "excluded",
        },
        model_id=info.model_id,
    )


def champion_reference(client: mlflow.MlflowClient, call: JobCall) -> str:
    """A local copy of the champion's reference; empty when there is no champion or it has none."""
    configured = call.model.get("reference", "registry")
    if configured != "registry":
        return str(configured)
    if not call.champion:
        return ""
    try:
        version = client.get_model_version(call.model["registered"], call.champion)
        return str(client.download_artifacts(version.run_id, REFERENCE, str(call.folder)))
    except (MlflowException, OSError) as missing:
        log("no champion reference", why=str(missing))
        return ""


def _log_model(scratch: Path, trained: Trained) -> Any:
    pipeline = scratch / "pipeline.joblib"
    spec = scratch / "spec.json"
    joblib.dump(trained.pipeline, pipeline)
    spec.write_text(json.dumps(trained.spec))
    versions = {
        name: importlib.metadata.version(name) for name in ("mlflow", "scikit-learn", "pandas", "numpy", "joblib")
    }
    return mlflow.pyfunc.log_model(
        name="model",
        python_model=pyfunc_model.__file__,
        artifacts={"pipeline": str(pipeline), "spec": str(spec)},
        # Given, not inferred: inferring loads the model in a second process and looks packages up.
        pip_requirements=[f"{name}=={version}" for name, version in versions.items()],
    )


def _experiment(client: mlflow.MlflowClient, call: JobCall) -> str:
    """The model's experiment, made when it is not there; a job that made it at the same moment is no trouble."""
    name = f"driftd/{call.model['name']}"
    folder = call.registry.get("artifacts") or ""
    location = Path(folder).absolute().as_uri() + f"/{call.model['name']}" if folder and "://" not in folder else None
    try:
        made = client.create_experiment(name, artifact_location=None if _remote(call) else location)
    except MlflowException:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        made = found.experiment_id
    try:
        client.create_registered_model(call.model["registered"])
    except MlflowException as exists:
        if exists.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(made)


def _remote(call: JobCall) -> bool:
    """Whether a server decides where artifacts go."""
    return call.registry["uri"].startswith(("http://", "https://"))


def _tags(call: JobCall) -> dict[str, str]:
    tags = {"driftd.call": call.call}
    return tags | {"driftd.run": call.run, "driftd.chain": json.dumps(list(call.chain))} if call.run else tags


def _quoted(value: str) -> str:
    return value.replace("'", "")
