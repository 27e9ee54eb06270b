"""A small reference for the streams of these tests."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest


@pytest.fixture(scope="session")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fifth row of the reference half of the car-loan data, as a champion logs it."""
    table = pa.csv.read_csv(data / "synthetic_car_loan_reference.csv")
    path = tmp_path_factory.mktemp("reference") / "reference.parquet"
    pa.parquet.write_table(table.take(list(range(0, table.num_rows, 5))), path)
    return path
