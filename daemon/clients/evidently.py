"""Evidently: its statistical tests on raw values, called directly, and its HTML report as evidence.

Directly, because a report computes every column's drift three times, draws every figure whether or not anybody looks, and
is lost whole when one column cannot be tested; the scores are bit-identical to those of its ValueDrift on the same rows.

For worker processes only: Evidently and pandas take hundreds of megabytes, so the first call loads them, not the import.
Not for threads: warnings and numpy's global random state are process-wide, and are put back as they were.
"""

# ruff: noqa: PD011 -- `.values` is our Column's, not pandas'

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from daemon.core.columns import Column, FeatureKind, Records
from daemon.core.drift import MIN_VALUES, Score, psi
from daemon.core.errors import BadInput
from daemon.core.methods import METHODS, Method, Null, fit_null, sample_score
from daemon.core.reference import Reference
from daemon.core.samples import Sample

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 400
"""Windows drawn from the reference for a null distribution."""
SEED = 20_180_101
"""The same draws in every process."""
NULLS = 512
"""Null distributions that are kept."""
REPORT_ROWS = 10_000
"""Most rows of the reference in a report: more only make it slow."""
SHOWN = "driftd"
"""Evidently's name for our own score in its report."""

_FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What Evidently and scipy raise on values they cannot test (facts of 0.7.23); all of it is about one column's values."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A score that was decided on, as the report must show it."""

    score: float
    threshold: float
    drifted: bool


_shown: ContextVar[Mapping[str, Shown]] = ContextVar("shown")
"""The scores of the report that is being made."""


def score(method: str, reference: NDArray[Any], current: NDArray[Any], kind: FeatureKind) -> float:
    """Evidently's score of a method of core/methods.METHODS on two columns of values.

    number: float64; category: object array of str. NaN, infinities and None are left out first, as ValueDrift does.
    BadInput, with the reason, when the method cannot test these values.
    """
    import pandas as pd  # noqa: PLC0415 -- worker processes only

    # As object, or pandas turns every value into its own strings first: the same scores, three times the time.
    pair = [pd.Series(values[_usable(values, kind)], dtype=values.dtype) for values in (reference, current)]
    if any(series.empty for series in pair):
        raise BadInput(f"{method} needs values on both sides")
    test, column_type = _test(method, kind)
    with _undisturbed():
        try:
            found = float(test(*pair, column_type, None).drift_score)
        except _FAULTS as error:
            raise BadInput(f"{method} cannot test these values: {error}") from error
    if not np.isfinite(found):
        raise BadInput(f"{method} gave no finite number")
    return found


class SampleTests:
    """Runs methods on a window's sample and makes verdicts of their scores; keeps null distributions between windows."""

    def __init__(self, draws: int = DRAWS, seed: int = SEED) -> None:
        self._draws = draws
        self._seed = seed
        self._nulls: dict[tuple[str, str, str, int], Null] = {}

    def scores(
        self, methods: Mapping[str, str], reference: Reference, rows: Records, sample: Sample, floor: float
    ) -> tuple[dict[str, Score], dict[str, str]]:
        """Scores of columns by their methods, and why the others have none. One bad column costs that column only.

        `rows`: raw rows of the reference, at least five times the sample's where there are so many.
        """
        scores, unset = {}, {}
        for name, method in methods.items():
            try:
                scores[name] = replace(self._column(name, METHODS[method], reference, rows, sample), floor=floor)
            except BadInput as error:
                unset[name] = str(error)
        return scores, unset

    def _column(self, name: str, method: Method, reference: Reference, rows: Records, sample: Sample) -> Score:
        bins, before, now = reference.features[name], rows.features[name].values, sample.features[name]
        if bins.kind not in method.kinds:
            raise BadInput(f"{method.name} is not for columns of kind {bins.kind}")
        column = Column(bins.kind, now, np.zeros(len(now), dtype=np.bool_))
        values = int(column.usable.sum())
        if values < MIN_VALUES:
            raise BadInput(f"the sample has {values} values, {MIN_VALUES} are needed")
        codes = bins.codes(column)
        size = psi(bins.counts, np.bincount(codes[codes >= 0], minlength=len(bins.counts)).tolist())
        null = None if method.closed else self._null(reference.panes, name, method, before, values)
        return sample_score(method, score(method.name, before, now, bins.kind), null, size)

    def _null(self, reference: str, name: str, method: Method, values: NDArray[Any], rows: int) -> Null:
        # Windows differ by a few rows; a null for slightly fewer serves them all, on the safe side.
        step = max(rows // 20, 1)
        key = (reference, name, method.name, rows // step * step)
        if key not in self._nulls:
            if len(self._nulls) >= NULLS:
                self._nulls.pop(next(iter(self._nulls)))
            self._nulls[key] = null(method, values, key[3], draws=self._draws, seed=self._seed)
        return self._nulls[key]


def null(method: Method, reference: NDArray[Any], rows: int, draws: int = DRAWS, seed: int = SEED) -> Null:
    """What the method's statistic is when nothing changed: windows of so many rows drawn from the reference's values.

    A window is split off, the rest is its reference; when the rest would be less than half, both are drawn with
    replacement. BadInput when the method cannot test the draws.
    """
    kind: FeatureKind = "category" if reference.dtype == object else "number"
    values = reference[_usable(reference, kind)]
    random = np.random.default_rng(seed)
    statistics = np.empty(draws)
    for draw in range(draws):
        if rows * 2 <= len(values):
            order = random.permutation(len(values))
            before, now = values[order[rows:]], values[order[:rows]]
        else:
            before = values[random.integers(len(values), size=len(values))]
            now = values[random.integers(len(values), size=rows)]
        statistics[draw] = method.statistic(score(method.name, before, now, kind))
    return fit_null(statistics)


def report(reference: Records, sample: Sample, shown: Mapping[str, Shown], path: Path) -> Path:
    """Write Evidently's HTML report of a window's sample, showing the scores that were decided on; the path.

    The file is renamed in when it is whole. Columns that have no score, or no values on one side, are not in it.
    BadInput when nothing is left, or Evidently cannot make it.
    """
    evidently, metrics, data_definition = _reports()
    columns = [name for name in shown if _testable(name, reference, sample)]
    if not columns:
        raise BadInput("no column has values on both sides")
    definition = data_definition(
        numerical_columns=[name for name in columns if sample.kinds[name] == "number"],
        categorical_columns=[name for name in columns if sample.kinds[name] == "category"],
        text_columns=[], datetime_columns=[], unknown_columns=[], list_columns=[],  # given, so that nothing is guessed
    )  # fmt: skip
    every = max(1, -(-reference.rows // REPORT_ROWS))
    before = {name: reference.features[name].values[::every] for name in columns}
    now = {name: sample.in_order().features[name] for name in columns}
    wanted = [metrics.ValueDrift(column=name, method=SHOWN, threshold=shown[name].threshold) for name in columns]
    part = path.with_name(f".{path.name}.part")
    token = _shown.set(shown)
    try:
        with _undisturbed():
            pair = [
                evidently.Dataset.from_pandas(_frame(values), data_definition=definition) for values in (now, before)
            ]
            evidently.Report(wanted, include_tests=True).run(*pair).save_html(str(part))  # a Path would write nothing
    except _FAULTS as error:
        raise BadInput(f"Evidently cannot make the report: {error}") from error
    finally:
        _shown.reset(token)
    return part.replace(path)


def _usable(values: NDArray[Any], kind: FeatureKind) -> NDArray[np.bool_]:
    if kind == "number":
        return np.asarray(np.isfinite(values), dtype=np.bool_)
    return np.asarray(np.not_equal(values, None), dtype=np.bool_)  # type: ignore[call-overload]


def _testable(name: str, reference: Records, sample: Sample) -> bool:
    """Whether both sides have two values at least: Evidently loses the whole report otherwise."""
    if name not in reference.features or name not in sample.features:
        return False
    pair = (reference.features[name].values, sample.features[name])
    return all(int(_usable(values, sample.kinds[name]).sum()) >= 2 for values in pair)


def _frame(columns: Mapping[str, NDArray[Any]]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 -- worker processes only

    return pd.DataFrame({name: pd.Series(values, dtype=values.dtype) for name, values in columns.items()})


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Some tests seed numpy's global generator, and scipy warns of what a score says anyway: neither leaks from here."""
    state = np.random.get_state()  # noqa: NPY002 -- the global one is what Evidently touches
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


@lru_cache(maxsize=64)
def _test(method: str, kind: FeatureKind) -> tuple[Any, Any]:
    """Evidently's function and its name for the kind of column."""
    if method not in METHODS or kind not in METHODS[method].kinds:
        raise BadInput(f"{method} is not offered for columns of kind {kind}")
    with _undisturbed():
        _no_telemetry()
        from evidently.legacy.calculations.stattests import get_stattest  # noqa: PLC0415 -- two seconds
        from evidently.legacy.core import ColumnType  # noqa: PLC0415

    column_type = ColumnType.Numerical if kind == "number" else ColumnType.Categorical
    return get_stattest(None, None, column_type, method), column_type


@cache
def _reports() -> tuple[Any, Any, Any]:
    """Evidently's modules, with our score registered once under SHOWN."""
    with _undisturbed():
        _no_telemetry()
        import evidently  # noqa: PLC0415 -- two seconds
        from evidently import DataDefinition, metrics  # noqa: PLC0415
        from evidently.legacy.calculations.stattests import StatTest, register_stattest  # noqa: PLC0415
        from evidently.legacy.core import ColumnType  # noqa: PLC0415

    kinds = [ColumnType.Numerical, ColumnType.Categorical]
    register_stattest(StatTest(name=SHOWN, display_name="driftd's score", allowed_feature_types=kinds), _decided)
    return evidently, metrics, DataDefinition


def _decided(_reference: Any, current: Any, _kind: Any, _threshold: float) -> tuple[float, bool]:
    """Our score of the column, in the form of Evidently's tests: what was decided on, not a second opinion."""
    found = _shown.get()[current.name]
    return found.score, found.drifted


def _no_telemetry() -> None:
    """Evidently's user interface reports its use over plain HTTP; nothing here starts it, and this keeps it off anyway."""
    os.environ.update(DO_NOT_TRACK="1")
