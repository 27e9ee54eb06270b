"""What all tests share: where the data sets lie."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data sets that `make data` fills."""
    folder = ROOT / ".cache" / "data"
    if not (folder / "synthetic_car_loan_reference.csv").is_file():
        pytest.fail("the data sets are missing: run `make data`")
    return folder
