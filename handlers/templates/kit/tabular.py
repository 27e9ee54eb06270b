"""A learner for tables of numbers and categories: classification (two or more classes) and regression."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from .rows import label_key, text

Learner = Literal["boosting", "linear"]


def learner(task: str, features: dict[str, str], kind: Learner, seed: int) -> Pipeline:
    """An unfitted pipeline: gradient-boosted trees, or a linear model; both take gaps and categories never seen before."""
    numbers = [name for name, what in features.items() if what == "number"]
    categories = [name for name, what in features.items() if what == "category"]
    if kind == "boosting":
        encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
        shape = make_column_transformer((encode, categories), ("passthrough", numbers))
        if task == "regression":
            return make_pipeline(shape, HistGradientBoostingRegressor(early_stopping=False, random_state=seed))
        return make_pipeline(
            shape, HistGradientBoostingClassifier(max_leaf_nodes=15, early_stopping=False, random_state=seed)
        )
    shape = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", min_frequency=5), categories),
        (make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler()), numbers),
    )
    return make_pipeline(
        shape, Ridge() if task == "regression" else LogisticRegression(max_iter=500, random_state=seed)
    )


def targets(labels: pd.Series[Any], task: str) -> tuple[Any, list[Any]]:
    """Labels as the learner takes them, and the classes in their order as the stream writes them (none for regression).

    Classes that are all whole numbers are written as numbers, others as text. Of two classes the last is the positive one.
    """
    if task == "regression":
        return pd.to_numeric(labels, errors="coerce").astype("float64").to_numpy(), []
    keys = labels.map(label_key)
    whole = all(key.lstrip("-").isdigit() for key in keys.unique())
    if not whole:
        keys = labels.map(text)
    classes = sorted({int(key) for key in keys.unique()} if whole else set(keys.unique()))
    places = {str(value): place for place, value in enumerate(classes)}
    return keys.map(places).to_numpy(dtype=np.int64), classes


def unseen(pipeline: Pipeline, inputs: pd.DataFrame, target: Any, task: str) -> Any:
    """For each row what the learner says when it was not trained on it (three-fold): class probabilities, or numbers.

    A reference made of these shows the errors that new rows will show; one made of fitted values would promise too much.
    """
    method = "predict" if task == "regression" else "predict_proba"
    return cross_val_predict(pipeline, inputs, target, cv=3, method=method)
