"""A model whose code has a fault: it raises on one request in twenty, and answers the others as the model inside does."""

from __future__ import annotations

import hashlib
from typing import Any

import mlflow

ONE_IN = 20


class FlakyModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc] # MLflow ships no types
    """Wraps a good model."""

    def load_context(self, context: Any) -> None:
        """Load the model inside."""
        self.inner = mlflow.pyfunc.load_model(context.artifacts["inner"])

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Answer, or raise where the fault strikes: the same request fails every time."""
        del context, params
        first = "|".join(map(str, model_input.iloc[0]))
        if int.from_bytes(hashlib.blake2b(first.encode(), digest_size=4).digest(), "big") % ONE_IN == 0:
            raise ValueError("the debt ratio of this applicant cannot be looked up")
        return self.inner.predict(model_input)


mlflow.models.set_model(FlakyModel())
