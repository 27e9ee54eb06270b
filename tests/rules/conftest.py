"""A small world for rule files: a configuration, the real verbs, two approved templates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.config import Config, load_config
from daemon.rulefiles import Checked, RuleFolder
from daemon.verbs import load_verbs

CONFIG = """\
home: state
models:
  churn: {task: binary, registered: churn, stream: churn, owner: churn-ml}
  price: {task: regression, registered: price, stream: price}
  lonely: {task: binary, registered: lonely}
streams:
  churn:
    predictions: churn/predictions
    labels: churn/labels
    privacy: {email: drop}
    fields:
      {id: id, version: v, prediction: p, score: s, label: y, error: e, latency_ms: ms,
       features: {age: number, city: category, email: category}}
  price: {predictions: price, fields: {id: id, version: v, features: {area: number}}}
sources:
  landing: {path: landing}
schedules:
  nightly: {cron: "0 3 * * *"}
channels:
  oncall: {kind: log}
"""

TEMPLATES = {
    "churn-train": """\
doc: Trains.
verb: retrain
argv: ["{python}", train.py]
parameters:
  rows_since: {type: time, doc: first row}
  trees: {type: int, default: 100, doc: how many}
  name: {type: string, required: true, doc: what to call it}
""",
    "sweep": "doc: Sweeps.\nverb: command\nargv: [sweep]\n",
    "evaluate": "doc: Evaluates.\nverb: evaluate\nargv: [evaluate]\n",
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A configuration whose rules folder is empty."""
    (tmp_path / "rules").mkdir()
    templates = tmp_path / "handlers" / "templates"
    templates.mkdir(parents=True)
    for name, text in TEMPLATES.items():
        (templates / f"{name}.yaml").write_text(text)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return load_config(tmp_path / "config.yaml", {})


@pytest.fixture
def folder(config: Config) -> RuleFolder:
    """The rules folder of that configuration."""
    return RuleFolder(config, {name: loaded.verb for name, loaded in load_verbs().items()})


@pytest.fixture
def checked(config: Config, folder: RuleFolder) -> Callable[..., Checked]:
    """Writes rule files (name -> text; one text is a.yaml) and checks them all."""

    def check(text: str = "", **files: str) -> Checked:
        for name, content in {"a": text, **files}.items():
            (config.rules / f"{name}.yaml").write_text(content)
        return folder.check()

    return check
