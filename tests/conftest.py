"""What all tests share: where the data sets lie."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import Postgres

# A machine at work on other things is slow: no example fails because of the time that it took.
settings.register_profile("driftd", deadline=None)
settings.load_profile("driftd")

pytest_plugins = ["tests.cluster.fixtures"]

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of public data sets that `make data` fills."""
    folder = ROOT / ".cache" / "data"
    if not (folder / "synthetic_car_loan_reference.csv").is_file():
        pytest.fail("the data sets are missing: run `make data`")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL server for all tests of a process that ask for one; each takes databases of its own."""
    with Postgres() as server:
        yield server
