"""The parts of config.yaml that are about KServe's payload logger: what is refused, with its place and what to do."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from daemon.monitors.plan import StreamPlan, stream_plans
from tests.rules.test_config import loaded, said

GOOD = """\
home: state
webhook:
  streams:
    churn: {token: {env: TOKEN}}
    other: {open: true}
streams:
  churn:
    predictions: streams/churn
    format: kserve
    kserve: {inputs: [age, plan], within: 30s}
    fields:
      id: id
      time: time
      version: ce.endpoint
      prediction: prediction
      score: prediction.1
      features: {age: number, plan: category}
  other:
    predictions: streams/other
    format: kserve
    fields: {id: id, version: model_version, features: {age: number}}
models:
  churn: {task: binary, registered: churn, stream: churn}
"""


def test_a_stream_that_is_posted_to(tmp_path: Path) -> None:
    """The token comes from where it is said to be and is nowhere shown; the plan of the stream survives the pipe."""
    config = loaded(tmp_path, GOOD, {"TOKEN": "hush"})
    hook = config.webhook.streams["churn"]
    assert hook.token is not None
    assert hook.token.value.get_secret_value() == "hush"
    assert (hook.keep, hook.spool_mb) == (timedelta(hours=1), 1024)
    assert "hush" not in repr(config)

    (plan,) = stream_plans(config, ())
    assert (plan.format, plan.inputs, plan.component, plan.within_us) == (
        "kserve",
        ("age", "plan"),
        "predictor",
        3 * 10**7,
    )
    assert list(StreamPlan.from_json(plan.to_json()).inputs) == ["age", "plan"]


def test_a_token_that_is_not_there_is_said(tmp_path: Path) -> None:
    """An empty token would open the stream to all."""
    assert said(tmp_path, GOOD) == ["4:20: environment variable TOKEN is not set"]


def test_contradictions_are_told_with_their_place(tmp_path: Path) -> None:
    """Between a hook and its stream, and between what events have and what fields are called."""
    text = """\
home: state
webhook:
  streams:
    churn: {}
    chrn: {open: true}
    plain: {open: true}
    secret: {open: true, token: {env: TOKEN}}
streams:
  churn:
    predictions: a
    format: kserve
    kserve: {inputs: [age, plan, age]}
    fields:
      {id: id, version: endpoint, prediction: yhat, score: proba, features: {agee: number, time: number, ce.x: category}}
  plain: {predictions: b, kserve: {within: 10s}, fields: {id: id}}
  secret:
    predictions: c
    format: kserve
    complete: marker
    privacy: {age: drop}
    fields: {id: id, features: {age: number}}
"""
    lines = said(tmp_path, text, {"TOKEN": "hush"})
    for expected in (
        "webhook stream churn needs either a token or open: true",
        "webhook stream chrn: there is no stream chrn; did you mean churn?",
        "webhook stream plain: stream plain must be of kind files and of format kserve",
        "webhook stream secret needs either a token or open: true",
        "webhook stream secret: stream secret waits for markers",
        "webhook stream secret: stream secret has privacy, but posts lie on the disk as they come",
        "stream churn names a column twice in kserve.inputs",
        "stream churn has fields.version 'endpoint'; events say it as ce.ATTRIBUTE",
        "stream churn has fields.prediction 'yhat'; what a response says is called prediction",
        "stream churn has fields.score 'proba'",
        "stream churn has a feature 'agee' that kserve.inputs does not name; did you mean age?",
        "stream churn has a feature 'time'; events of the payload logger have something else under this name",
        "stream churn has a feature 'ce.x'; events",
        "stream plain has a part kserve but is not of format kserve",
    ):
        assert any(expected in line for line in lines), (expected, lines)


def test_times_and_sizes_have_bounds(tmp_path: Path) -> None:
    """Halves wait for an hour at most; an event has a length that the stream can take."""
    text = GOOD.replace("within: 30s", "within: 2h").replace("{open: true}", "{open: true, max_bytes: 9000000}")
    assert len(said(tmp_path, text, {"TOKEN": "x"})) == 2
