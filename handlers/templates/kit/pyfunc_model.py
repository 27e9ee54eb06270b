"""The logged model: features in, the stream's own prediction and score columns out.

MLflow copies this file beside the fitted pipeline and runs it wherever the model is loaded, so it imports nothing of the
kit or of driftd.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import joblib
import mlflow
import numpy as np
import pandas as pd


def tidy(frame: pd.DataFrame, features: dict[str, str]) -> pd.DataFrame:
    """The model's input, one type per kind: numbers as float64 (missing: NaN), categories as text (missing: empty)."""
    columns: dict[str, Any] = {}
    for name, kind in features.items():
        values = frame[name] if name in frame else pd.Series([None] * len(frame), index=frame.index, dtype=object)
        if kind == "number":
            columns[name] = pd.to_numeric(values, errors="coerce").astype("float64")
        else:
            columns[name] = values.map(_category).astype(object)
    return pd.DataFrame(columns, index=frame.index)


def answers(pipeline: Any, inputs: pd.DataFrame, spec: dict[str, Any]) -> pd.DataFrame:
    """Predictions (and scores) of tidy inputs under the stream's names: the class and its probability (binary: of the
    positive class), or the number.
    """
    if spec["task"] == "regression":
        return pd.DataFrame({spec["prediction"]: pipeline.predict(inputs).astype("float64")}, index=inputs.index)
    return shares(pipeline.predict_proba(inputs), inputs.index, spec)


def shares(probabilities: Any, index: pd.Index[Any], spec: dict[str, Any]) -> pd.DataFrame:
    """The same from a matrix of class probabilities, in the order of `spec["classes"]`."""
    best = np.argmax(probabilities, axis=1)
    positive = probabilities[:, -1] if spec["task"] == "binary" else probabilities[np.arange(len(best)), best]
    classes = np.array(spec["classes"], dtype=object)
    answered = pd.DataFrame({spec["prediction"]: pd.Series(classes[best], index=index).infer_objects()}, index=index)
    if spec["score"]:
        answered[spec["score"]] = positive.astype("float64")
    return answered


def _category(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


class TabularModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc] # MLflow ships no types
    """Loads the pipeline once, then answers requests of any number of rows."""

    def load_context(self, context: Any) -> None:
        """Read the pipeline and the names of its columns from the model's artifacts."""
        self.spec = json.loads(Path(context.artifacts["spec"]).read_text())
        self.pipeline = joblib.load(context.artifacts["pipeline"])

    # No type hints here: MLflow takes them for a schema of its own.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Answer one row per input row, in order."""
        del context, params
        frame = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame(model_input)
        return answers(self.pipeline, tidy(frame, self.spec["features"]), self.spec)


mlflow.models.set_model(TabularModel())
