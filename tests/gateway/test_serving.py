"""A real gateway with real MLflow models: routing, joining, logging, and one version's failures beside another's health."""

from __future__ import annotations

import concurrent.futures
import math
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from daemon.core.errors import Conflict, Refused, Unavailable
from daemon.platforms.base import Traffic
from daemon.platforms.local_serving import LocalServing

from .conftest import Gateway, Models, config_of, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_nothing_is_known_of_a_target_before_its_first_version(gateway: Gateway) -> None:
    """An unknown target has an empty split at epoch 0, serves nobody (404) and has nothing to retire."""
    assert gateway.serving.traffic("t0") == Traffic({}, 0, {}, "", {})
    assert gateway.serving.served("t0", "2026-01-01T00:00:00Z").requests == {}
    assert gateway.post("t0", [{"x": 1}]).status_code == 404
    gateway.serving.retire("t0", "1")


def test_a_version_without_weight_serves_nobody(gateway: Gateway, models: Models) -> None:
    """A deployed version gets no request until traffic is shifted to it, which is Refused while it loads."""
    gateway.serving.deploy("t1", "1", models.one)
    gateway.serving.deploy("t1", "1", models.one)
    assert gateway.post("t1", [{"x": 1}]).status_code == 503
    with pytest.raises(Refused, match="version 2 is not ready"):
        gateway.serving.shift("t1", {"2": 100}, 0, "a")
    with pytest.raises(Conflict, match="is deployed from"):
        gateway.serving.deploy("t1", "1", models.two)


def test_a_model_of_the_registry_is_served_like_mlflow_does(gateway: Gateway) -> None:
    """A `models:/` address is loaded from the configured registry and answers what MLflow's server answers."""
    gateway.deployed("t2", **{"1": "models:/linear/1"})
    gateway.split("t2", **{"1": 100})

    answer = gateway.raw("t2", orjson.dumps({"dataframe_split": {"columns": ["a", "b"], "data": [[0, 1], [3, 0]]}}))
    assert (answer.status_code, answer.json()) == (200, {"predictions": [0, 1]})
    missing = gateway.raw("t2", orjson.dumps({"dataframe_split": {"columns": ["a"], "data": [[0]]}}))
    assert (missing.status_code, "missing inputs" in missing.json()["message"]) == (400, True)
    assert gateway.raw("t2", b"{}").status_code == 400
    assert gateway.raw("t2", b"a,b\n1,2\n", content_type="text/csv").status_code == 415


def test_a_request_of_many_records_is_split_by_unit_and_joined_in_order(gateway: Gateway, models: Models) -> None:
    """Each record goes where its unit goes, the predictions come back in the order of the records, each is logged once."""
    gateway.deployed("t3", **{"1": models.one, "2": models.two})
    gateway.split("t3", **{"1": 60, "2": 40})
    rows = [{"id": f"p{number}", "customer": f"c{number % 50}", "x": number} for number in range(400)]
    began = datetime.now(UTC)
    answer = gateway.post("t3", rows)

    assert answer.status_code == 200
    assert answer.headers["x-driftd-version"] in {"1,2", "2,1"}
    predictions = answer.json()["predictions"]
    assert [str(prediction["said"]).split("/")[1] for prediction in predictions] == [
        str(number) for number in range(400)
    ]
    version_of = {f"c{number}": predictions[number]["said"].split("/")[0] for number in range(50)}
    assert {"one", "two"} == set(version_of.values())
    assert all(
        prediction["said"].startswith(version_of[row["customer"]])
        for row, prediction in zip(rows, predictions, strict=True)
    )
    logged = {record["id"]: record for record in gateway.logged("t3", 400)}
    assert len(logged) == 400
    for row, prediction in zip(rows, predictions, strict=True):
        record = logged[row["id"]]
        assert {key: record[key] for key in ("customer", "x", "said", "score")} == {
            "customer": row["customer"], "x": row["x"], "said": prediction["said"], "score": prediction["score"],
        }  # fmt: skip
        assert record["version"] == {"one": "1", "two": "2"}[version_of[row["customer"]]]
        assert (record["error"], record["latency_ms"] > 0, record["model"]) == (None, True, "t3")
        assert began <= datetime.fromisoformat(record["at"]) <= datetime.now(UTC)
    counted = gateway.serving.served("t3", began.isoformat()).requests
    assert (sum(counted.values()), set(counted)) == (400, {"1", "2"})


def test_traffic_is_really_split_and_sticks_to_its_units(gateway: Gateway, models: Models) -> None:
    """Shares of single requests lie within chance of the weights; a unit stays; growth moves units one way only."""
    gateway.deployed("t4", **{"1": models.one, "2": models.two})
    units = [f"customer-{number}" for number in range(300)]

    def ask(unit: str) -> str:
        answer = gateway.post("t4", [{"x": 1}], x_driftd_unit=unit)
        assert answer.status_code == 200
        return str(answer.headers["x-driftd-version"])

    def versions() -> dict[str, str]:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            return dict(zip(units, threads.map(ask, units), strict=True))

    gateway.split("t4", "start", **{"1": 100})
    before: set[str] = set()
    for share in (10, 30):
        gateway.split("t4", f"step-{share}", **{"1": 100 - share, "2": share})
        now = versions()
        challenged = {unit for unit, version in now.items() if version == "2"}
        expected = len(units) * share / 100
        assert abs(len(challenged) - expected) <= 4.5 * math.sqrt(expected * (1 - share / 100))
        assert before <= challenged
        assert now == versions()
        before = challenged


def test_a_shift_is_compare_and_set_and_can_be_repeated(gateway: Gateway, models: Models) -> None:
    """An old epoch is a Conflict; the same change by the same call again is the same change."""
    gateway.deployed("t5", **{"1": models.one, "2": models.two})
    first = gateway.serving.shift("t5", {"1": 100, "2": 0}, 0, "call-a")
    assert (first.weights, first.epoch, first.by) == ({"1": 100}, 1, "call-a")
    assert gateway.serving.shift("t5", {"1": 100}, 0, "call-a") == first
    with pytest.raises(Conflict, match="epoch is 1, not 0"):
        gateway.serving.shift("t5", {"2": 100}, 0, "call-b")
    with pytest.raises(Refused, match="sum to 100"):
        gateway.serving.shift("t5", {"2": 50}, 1, "call-b")
    second = gateway.serving.shift("t5", {"2": 100}, 1, "call-b")
    assert (second.weights, second.epoch) == ({"2": 100}, 2)
    with pytest.raises(Refused, match="100 % of traffic"):
        gateway.serving.retire("t5", "2")
    gateway.serving.retire("t5", "1")
    assert gateway.serving.traffic("t5").ready == {"2": True}


def failing(gateway: Gateway, target: str, models: Models) -> None:
    """A target with a champion and a challenger of half the units each."""
    gateway.deployed(target, **{"1": models.one, "2": models.two})
    gateway.split(target, "start", **{"1": 100})
    gateway.split(target, "half", **{"1": 50, "2": 50})


def unit_of(gateway: Gateway, target: str, version: str) -> str:
    """A unit that goes to this version."""
    for _ in range(100):
        unit = uuid.uuid4().hex
        if gateway.post(target, [{"x": 0}], x_driftd_unit=unit).headers["x-driftd-version"] == version:
            return unit
    raise AssertionError(f"no unit goes to version {version}")


def test_a_version_that_fails_on_some_requests_is_seen_in_the_log(gateway: Gateway, models: Models) -> None:
    """What a model raises is its arm's error: logged with version and reason, answered as MLflow does, once per record."""
    failing(gateway, "t6", models)
    bad = unit_of(gateway, "t6", "2")
    before = len(gateway.logged("t6", 1))
    for number in range(40):
        answer = gateway.post("t6", [{"x": number, "do": "two:fail" if number % 20 == 7 else ""}], x_driftd_unit=bad)
        assert answer.status_code == (400 if number % 20 == 7 else 200)
    logged = [record for record in gateway.logged("t6", before + 40) if record["customer"] == bad and record["x"] > 0]
    failed = [record for record in logged if record["error"]]
    assert [record["x"] for record in failed] == [7, 27]
    assert failed[0]["error"].startswith("400: Encountered an unexpected error")
    assert "said" not in failed[0]


def test_when_one_arm_fails_the_whole_request_fails_and_the_log_keeps_them_apart(
    gateway: Gateway, models: Models
) -> None:
    """A client gets all predictions or none; the answer names the failed version's rows, the other's count as answered."""
    failing(gateway, "t7", models)
    good, bad = unit_of(gateway, "t7", "1"), unit_of(gateway, "t7", "2")
    rows = [
        {"id": "a", "customer": good, "x": 1, "do": ""}, {"id": "b", "customer": bad, "x": 2, "do": "two:fail"},
        {"id": "c", "customer": bad, "x": 3, "do": ""},
    ]  # fmt: skip
    answer = gateway.post("t7", rows)

    assert answer.status_code == 400
    assert [(part["version"], part["rows"]) for part in answer.json()["failed"]] == [("2", [1, 2])]
    logged = eventually(
        lambda: {record["id"]: record for record in gateway.logged("t7", 3)},
        lambda found: {"a", "b", "c"} <= set(found),
    )
    assert {name: bool(logged[name]["error"]) for name in "abc"} == {"a": False, "b": True, "c": True}


def test_a_version_that_crashes_harms_no_other_and_comes_back(gateway: Gateway, models: Models) -> None:
    """A segmentation fault in one version fails its own requests (502) until it is back; the other answers throughout."""
    failing(gateway, "t8", models)
    good, bad = unit_of(gateway, "t8", "1"), unit_of(gateway, "t8", "2")

    assert gateway.post("t8", [{"x": 1, "do": "two:crash"}], x_driftd_unit=bad).status_code == 502
    assert gateway.post("t8", [{"x": 1}], x_driftd_unit=good).status_code == 200
    back = eventually(
        lambda: gateway.post("t8", [{"x": 2}], x_driftd_unit=bad).status_code, lambda status: status == 200
    )
    assert back == 200
    logged = [record for record in gateway.logged("t8", 4) if record["error"]]
    assert {record["version"] for record in logged} == {"2"}
    assert logged[0]["error"].startswith("version 2 broke off")


def test_a_version_that_hangs_times_out_and_is_replaced(gateway: Gateway, models: Models) -> None:
    """A request that takes too long is 504; a version that answers nothing any more is killed and started again."""
    failing(gateway, "t9", models)
    good, bad = unit_of(gateway, "t9", "1"), unit_of(gateway, "t9", "2")
    with concurrent.futures.ThreadPoolExecutor(12) as threads:
        hung = [threads.submit(gateway.post, "t9", [{"x": 1, "do": "two:hang"}], x_driftd_unit=bad) for _ in range(12)]
        assert gateway.post("t9", [{"x": 1}], x_driftd_unit=good).status_code == 200
        assert {request.result().status_code for request in hung} <= {504, 502}
    back = eventually(
        lambda: gateway.post("t9", [{"x": 2}], x_driftd_unit=bad).status_code, lambda status: status == 200
    )
    assert back == 200
    assert gateway.post("t9", [{"x": 1}], x_driftd_unit=good).status_code == 200


def test_many_requests_at_once_are_all_answered_and_logged(gateway: Gateway, models: Models) -> None:
    """300 requests from 16 threads: each gets its own answer, and the log has each once."""
    failing(gateway, "t10", models)

    def ask(number: int) -> tuple[int, Any]:
        answer = gateway.post("t10", [{"id": f"p{number}", "x": number}])
        return answer.status_code, answer.json()["predictions"][0]["said"].split("/")[1]

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(300)))
    assert answers == [(200, str(number)) for number in range(300)]
    assert sorted(record["id"] for record in gateway.logged("t10", 300)) == sorted(
        f"p{number}" for number in range(300)
    )


def test_a_model_that_cannot_be_loaded_says_why(gateway: Gateway) -> None:
    """A version whose model is not there is never ready, and the reason is in what the gateway says of the traffic."""
    gateway.serving.deploy("t11", "1", "/no/such/model")
    problems = eventually(lambda: gateway.serving.traffic("t11").problems)
    assert "No such artifact" in problems["1"]
    assert gateway.serving.traffic("t11").ready == {"1": False}
    with pytest.raises(Refused, match="No such artifact"):
        gateway.serving.shift("t11", {"1": 100}, 0, "a")
    gateway.serving.retire("t11", "1")


def test_the_admin_api_needs_the_token(gateway: Gateway) -> None:
    """Without the token of the home folder nobody changes or reads traffic; the token's file is its owner's only."""
    address = f"{gateway.serving.address}/targets/t1/traffic"
    assert gateway.client.get(address).status_code == 401
    assert gateway.client.put(address, json={"weights": {"1": 100}, "epoch": 0, "by": "me"}).status_code == 401
    assert gateway.client.get(address, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert (gateway.home / "gateway" / "token").stat().st_mode & 0o777 == 0o600


def test_bad_admin_requests_are_refused(gateway: Gateway, models: Models) -> None:
    """Names that are no names and times without a zone are Refused; nobody at the address is Unavailable."""
    with pytest.raises(Refused):
        gateway.serving.deploy("t1", "-x", models.one)
    with pytest.raises(Refused, match="no time zone"):
        gateway.serving.served("t1", "2026-01-01T00:00:00")
    with pytest.raises(Unavailable):
        LocalServing(config_of(gateway.home)).traffic("t1")


def test_the_records_own_time_stands(gateway: Gateway, models: Models) -> None:
    """A record that brings its time keeps it; when it was served is logged beside it and counts for `served`."""
    gateway.deployed("t0", **{"1": models.one})
    gateway.split("t0", **{"1": 100})
    since = datetime.now(UTC) - timedelta(seconds=1)
    assert gateway.post("t0", [{"x": 1, "at": "2018-01-01T00:00:00"}], x_driftd_id="mine").status_code == 200
    (record,) = gateway.logged("t0", 1)
    assert (record["id"], record["customer"], record["at"]) == ("mine", "mine", "2018-01-01T00:00:00")
    assert gateway.serving.served("t0", since.isoformat()).requests == {"1": 1}
