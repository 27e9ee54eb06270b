"""Events as KServe's payload logger sends them, made by hand from what its source says (pkg/logger/worker.go)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from daemon.config import Fields
from daemon.core.monitors import Monitor
from daemon.monitors.plan import StreamPlan
from daemon.sources.envelopes import line_of_request
from tests.monitors.logs import topic_plan

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
FIELDS = Fields(
    id="id", time="time", version="ce.endpoint", unit="ce.metadata.x-user", prediction="prediction.label", score="prediction.score",
    label="y", features={"age": "number", "plan": "category"},
)  # fmt: skip
Headers = dict[str, str]


def moment(second: float) -> str:
    """A ce-time so many seconds after START, as Go writes it: with nanoseconds."""
    return (START + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z"


def headers(side: str, number: str, second: float, **changed: str) -> Headers:
    """The headers of an event; those of the live logger, where --source-uri and --endpoint are empty."""
    made = {
        "content-type": "application/json", "ce-specversion": "1.0", "ce-id": number, "ce-time": moment(second),
        "ce-source": "http://localhost:9081/", "ce-type": f"org.kubeflow.serving.inference.{side}",
        "ce-inferenceservicename": "churn", "ce-namespace": "prod", "ce-component": "predictor", "ce-endpoint": "",
        "ce-metadata": '{"X-User":["u1"]}',
    }  # fmt: skip
    return made | {f"ce-{name}" if name != "content_type" else "content-type": text for name, text in changed.items()}


def line(side: str, number: str, second: float, body: Any, **changed: str) -> bytes:
    """The line of an event; `body`: bytes, or something for JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return line_of_request(headers(side, number, second, **changed).items(), raw)


def call(
    number: str, second: float, rows: Sequence[Mapping[str, Any]], took: float = 0.05, **changed: str
) -> tuple[bytes, bytes]:
    """Both events of a V1 call with rows as objects; the label is whether the age is odd, the score a hundredth of it."""
    answer = [{"label": row["age"] % 2, "score": row["age"] / 100} for row in rows]
    return (
        line("request", number, second, {"instances": list(rows)}, **changed),
        line("response", number, second + took, {"predictions": answer}, **changed),
    )


def payload_plan(home: Path, *monitors: Monitor, **changes: Any) -> StreamPlan:
    """The plan of a stream of the payload logger's events on a topic."""
    return replace(topic_plan(home, *monitors, fields=FIELDS, format="kserve"), **changes)


def values(raw: Any, *names: str) -> list[tuple[Any, ...]]:
    """The rows of some columns."""
    return list(zip(*(list(raw.columns[name]) for name in names), strict=True))
