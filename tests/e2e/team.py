"""What a team brings along, as a program: `python -m tests.e2e.team MODEL TRAINING ROWS TABLE`.

Trains the model on TRAINING with the shipped program, makes it the champion, and answers ROWS with it into TABLE, as the
serving system of the past would have. The last line that it prints is JSON.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from typing import Any

from daemon.config import Config, load_config


def main(model: str, training: str, rows: str, table: str) -> None:
    """Train, name, answer."""
    config = load_config(with_secrets=False)
    outputs = _trained(config, model, training)
    _answered(config, model, outputs["version"], rows).to_csv(table, index=False)
    print(json.dumps(outputs))


def _trained(config: Config, name: str, table: str) -> dict[str, Any]:
    entry = config.models[name]
    assert entry.stream is not None
    folder = config.home / "by-hand"
    folder.mkdir(parents=True)
    call = folder / "call.json"
    call.write_text(
        json.dumps({
            "call": "by-hand", "run": "", "chain": [],
            "model": {"name": name, **entry.model_dump(mode="json")},
            "registry": {"uri": config.registry.uri, "artifacts": config.registry.artifacts},
            "stream": {"name": entry.stream, "fields": config.streams[entry.stream].fields.model_dump(), "privacy": {}},
            "holdout": {"share": entry.holdout, "salt": f"holdout:{name}"},
            "parameters": {"mix_reference": False},
            "table": table,
        })
    )  # fmt: skip
    program = config.templates / "train.py"
    os.environ["DRIFTD_CALL"] = str(call)
    sys.path.insert(0, str(program.parent))
    runpy.run_path(str(program), run_name="__main__")
    outputs: dict[str, Any] = json.loads((folder / "outputs.json").read_text())
    return outputs


def _answered(config: Config, name: str, version: str, table: str) -> Any:
    import mlflow  # noqa: PLC0415 - seconds and hundreds of megabytes
    import pandas as pd  # noqa: PLC0415

    entry = config.models[name]
    assert entry.stream is not None
    fields = config.streams[entry.stream].fields
    mlflow.set_tracking_uri(config.registry.uri)
    mlflow.set_registry_uri(config.registry.uri)
    mlflow.MlflowClient().set_registered_model_alias(entry.registered, entry.alias, version)
    rows = pd.read_csv(table)
    answers = mlflow.pyfunc.load_model(f"models:/{entry.registered}/{version}").predict(rows[list(fields.features)])
    for column in answers:
        rows[column] = answers[column].to_numpy()
    rows[fields.version] = version
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
