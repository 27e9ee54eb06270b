"""What all tests share: where the data sets lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# A machine at work on other things is slow: no example fails because of the time that it took.
settings.register_profile("driftd", deadline=None)
settings.load_profile("driftd")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data sets that `make data` fills."""
    folder = ROOT / ".cache" / "data"
    if not (folder / "synthetic_car_loan_reference.csv").is_file():
        pytest.fail("the data sets are missing: run `make data`")
    return folder
