"""The real writer over a real store, for sources to bring their events to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.desk import Clock, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A daemon's store and writer in a folder of their own."""
    home = tmp_path / "home"
    home.mkdir()
    opened = Desk(home)
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()
