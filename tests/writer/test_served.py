"""The second read-back where KServe serves: requests by version, from the blocks that monitors measured."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.config import Config
from daemon.core.errors import Refused, Unavailable
from daemon.core.events import Event
from daemon.monitors import traffic
from daemon.served import NAMELESS, MeasuredTraffic
from tests.builders import at


def measured(number: int, start: float, **requests: int) -> Event:
    """A block of requests by version, from so many seconds after the tests begin; `v1=5` are 5 of version 1."""
    arms = {name.removeprefix("v"): {"requests": count} for name, count in requests.items()}
    data = {
        "model": "churn", "stream": "s", "start": at(start).isoformat(), "end": at(start + 1).isoformat(), "arms": arms,
    }  # fmt: skip
    return Event(f"b{number}", "monitor:s", "traffic.measured", "churn", at(start), data)


def config(**fields: Any) -> Config:
    """One model, served as `churn-prod`, whose stream has these fields."""
    return Config.model_validate(
        {
            "home": "/nowhere",
            "streams": {"s": {"predictions": "p", "fields": {"id": "id", **fields}}},
            "models": {"churn": {"task": "binary", "registered": "churn", "stream": "s", "serving": "churn-prod"}},
        }
    )


def test_requests_since_a_moment_are_counted_by_version(world: Any) -> None:
    """Whole blocks since then; one that began before it is left out, for some of its requests may be older."""
    world.open()
    world.submit(
        measured(1, 0, v1=100), measured(2, 9, v1=50, v2=5), measured(3, 10, v1=7), measured(4, 20, v1=3, v2=1)
    )

    count = MeasuredTraffic(config(version="ce.endpoint"), world.store)

    assert count("churn-prod", at(10)) == {"1": 10, "2": 1}
    assert count("churn-prod", at(30)) == {}


def test_rows_of_no_known_version_prove_nothing(world: Any) -> None:
    """An InferenceService that people made may not say its version: its rows are neither the champion's nor astray."""
    world.open()
    world.submit(measured(1, 10, unknown=70, others=5, v2=1))

    assert MeasuredTraffic(config(version="ce.endpoint"), world.store)("churn-prod", at(10)) == {"2": 1}
    assert {traffic.UNKNOWN, traffic.OTHERS} == NAMELESS


def test_a_log_that_does_not_tell_versions_apart_says_so(world: Any) -> None:
    """No evidence is made up: everything would count as the champion's."""
    world.open()
    world.submit(measured(1, 0, v1=100))

    with pytest.raises(Unavailable, match="nothing tells versions apart"):
        MeasuredTraffic(config(), world.store)("churn-prod", at(0))
    with pytest.raises(Refused, match="no model"):
        MeasuredTraffic(config(), world.store)("churn", at(0))
