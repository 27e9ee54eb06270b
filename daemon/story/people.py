"""What people do in the story, each as a program of its own: `python -m daemon.story.people WHAT …`.

`champion`   a data scientist trains the first model on the reference half, and makes it the champion
`predict`    the serving system of the past: the champion's answers for the rows of the analysis half
`shuffled`   somebody registers a version that was trained on shuffled labels
`flaky`      somebody registers a version that fails on one request in twenty
They know driftd's configuration, as people do, and nothing of its insides.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from daemon.config import Config, load_config

MODEL = "car-loan"
SHUFFLE_SEED = 7
FAILS_ONE_IN = 20


def champion(config: Config, data: Path) -> dict[str, Any]:
    """Train on the reference half with the shipped program, and set the alias; the version."""
    outputs = _trained(config, "champion", data / "synthetic_car_loan_reference.csv")
    _client(config).set_registered_model_alias(
        config.models[MODEL].registered, config.models[MODEL].alias, outputs["version"]
    )
    return outputs


def predict(config: Config, data: Path, table: Path) -> dict[str, Any]:
    """Answer the rows of the analysis half with the champion, as a log that the serving system would have written."""
    import mlflow  # noqa: PLC0415 - seconds and hundreds of megabytes, for this program only
    import pandas as pd  # noqa: PLC0415

    entry = config.models[MODEL]
    client = _client(config)
    version = client.get_model_version_by_alias(entry.registered, entry.alias).version
    fields = config.streams[MODEL].fields
    rows = pd.read_csv(data / "synthetic_car_loan_analysis.csv")
    model = mlflow.pyfunc.load_model(f"models:/{entry.registered}/{version}")
    answers = model.predict(rows[list(fields.features)])
    for name in answers:
        rows[name] = answers[name].to_numpy()
    rows[fields.version] = str(version)
    table.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(table, index=False)
    return {"version": str(version), "rows": len(rows)}


def shuffled(config: Config, data: Path) -> dict[str, Any]:
    """A version that answers without errors and with the usual mean, and knows nothing."""
    import pandas as pd  # noqa: PLC0415

    rows = pd.read_csv(data / "synthetic_car_loan_reference.csv")
    label = config.streams[MODEL].fields.label
    rows[label] = rows[label].sample(frac=1.0, random_state=SHUFFLE_SEED).to_numpy()
    table = config.home / "story" / "shuffled.csv"
    rows.to_csv(table, index=False)
    return _trained(config, "shuffled", table)


def flaky(config: Config, data: Path) -> dict[str, Any]:
    """The champion's own model with a fault in its code: it raises on one row in twenty."""
    import mlflow  # noqa: PLC0415

    del data
    entry = config.models[MODEL]
    client = _client(config)
    good = client.get_model_version_by_alias(entry.registered, entry.alias)
    inner = mlflow.artifacts.download_artifacts(f"models:/{entry.registered}/{good.version}")
    mlflow.set_experiment(f"driftd/{MODEL}")
    with mlflow.start_run() as run:
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("flaky_model.py")),
            artifacts={"inner": inner},
            pip_requirements=["mlflow"],
        )
    made = client.create_model_version(
        entry.registered, source=info.model_uri, run_id=run.info.run_id, tags={"made_by": "another team"}
    )
    return {"version": str(made.version)}


def _trained(config: Config, name: str, table: Path) -> dict[str, Any]:
    """Run the shipped training program by hand, on a table of labelled rows."""
    stream, entry = config.streams[MODEL], config.models[MODEL]
    folder = config.home / "story" / name
    folder.mkdir(parents=True, exist_ok=True)
    call = folder / "call.json"
    call.write_text(
        json.dumps(
            {
                "call": f"by-hand-{name}",
                "run": "",
                "chain": [],
                "model": {"name": MODEL, **entry.model_dump(mode="json")},
                "registry": {"uri": config.registry.uri, "artifacts": config.registry.artifacts},
                "stream": {
                    "name": MODEL,
                    "fields": stream.fields.model_dump(mode="json"),
                    "privacy": dict(stream.privacy),
                },
                "holdout": {"share": entry.holdout, "salt": f"holdout:{MODEL}"},
                "parameters": {"mix_reference": False},
                "table": str(table),
            }
        )
    )
    program = config.templates / "train.py"
    os.environ.update(DRIFTD_CALL=str(call))
    sys.path.insert(0, str(program.parent))
    runpy.run_path(str(program), run_name="__main__")
    outputs: dict[str, Any] = json.loads((folder / "outputs.json").read_text())
    return outputs


def _client(config: Config) -> Any:
    import mlflow  # noqa: PLC0415

    mlflow.set_tracking_uri(config.registry.uri)
    mlflow.set_registry_uri(config.registry.uri)
    return mlflow.MlflowClient()


def main(arguments: list[str]) -> None:
    """Do one thing and print what came of it as the last line, in JSON."""
    what, data, *more = arguments
    config = load_config(with_secrets=False)
    if what == "predict":
        done = predict(config, Path(data), Path(more[0]))
    else:
        done = {"champion": champion, "shuffled": shuffled, "flaky": flaky}[what](config, Path(data))
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1:])
