"""config.yaml: all mistakes at once, secrets by reference, paths resolved."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from daemon.config import Config, RetentionConfig, load_config
from daemon.core.errors import ConfigError


def said(path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """The mistakes of a configuration, without the file's name."""
    (path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as told:
        load_config(path / "config.yaml", environ or {})
    return [f"{mistake.line}:{mistake.column}: {mistake.message}" for mistake in told.value.mistakes]


def loaded(path: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    """A configuration without mistakes."""
    (path / "config.yaml").write_text(text)
    return load_config(path / "config.yaml", environ or {})


def test_every_mistake_of_shape_has_its_place_and_a_suggestion(tmp_path: Path) -> None:
    """Unknown keys, wrong values and missing ones are told together, each at its place."""
    text = """\
home: state
straems: {}
streams:
  a: {predictions: p, fields: {id: i, features: {x: numbr}, tim: t}, join_rate: 3, idle: soon}
models:
  m: {task: binary}
"""
    assert said(tmp_path, text) == [
        "2:1: unknown key straems; did you mean streams?",
        "4:53: streams.a.fields.features.x: Input should be 'number' or 'category'",
        "4:61: unknown key streams.a.fields.tim; did you mean time?",
        "4:81: streams.a.join_rate: Input should be less than or equal to 1",
        "4:90: streams.a.idle: 'soon' is no duration; write for example 30s, 5m, 6h, 1d or 1h30m",
        "6:6: registered is missing in models.m",
    ]


def test_parts_that_contradict_one_another(tmp_path: Path) -> None:
    """What no part alone can know: streams that do not exist, folders and names that are taken, schedules without a time."""
    text = """\
home: state
models:
  a: {task: binary, registered: x, stream: ther}
  b: {task: binary, registered: x, serving: a}
  c: {task: binary, registered: c, stream: there}
  d: {task: regression, registered: d, stream: there}
streams:
  there: {predictions: p, labels: p, privacy: {nobody: drop, i: drop}, fields: {id: i}}
schedules:
  s: {}
  t: {cron: "* *", every: 1m, timezone: Mars, start: soon}
  u: {cron: "0 24 * * mon-fry"}
channels:
  slack: {kind: slack}
"""
    assert said(tmp_path, text) == [
        "3:44: model a: there is no stream ther; did you mean there?",
        "4:33: models a and b have the same registered name x",
        "4:45: models a and b have the same serving target a",
        "6:13: models c and d share stream there, so they need the same task",
        "6:48: models c and d share stream there, whose fields.model is not set",
        "8:35: p is already the folder of the predictions of stream there",
        "8:56: stream there has no field nobody",
        "8:65: the id cannot be dropped: labels are joined by it",
        "8:80: stream there has label files but fields.label does not name their label",
        "10:6: schedule s needs either cron or every",
        "11:6: schedule t needs either cron or every",
        "11:6: schedule t has a cron of 2 fields; crontab has five: minute hour day month weekday",
        "11:6: schedule t starts at 'soon', which is no ISO 8601 time",
        "11:6: schedule t has an unknown timezone 'Mars'",
        "12:6: schedule u has a cron whose hour '24' cannot be read; it takes 0 to 23, `*`, ranges `a-b` and steps `/n`",
        (
            "12:6: schedule u has a cron whose day of week 'mon-fry' cannot be read; it takes 0 to 7 or sun to sat, `*`, "
            "ranges `a-b` and steps `/n`"
        ),
        "14:10: channel slack: kind slack needs a url",
    ]


SECRETS = """\
home: state
webhook:
  hooks:
    ci: {secret: {env: CI_SECRET}}
channels:
  slack: {kind: slack, url: {file: slack.url}}
"""


def test_secrets_come_from_the_environment_and_files_and_are_masked(tmp_path: Path) -> None:
    """The values are there for those who ask, and in no text that anything prints."""
    (tmp_path / "slack.url").write_text("http://127.0.0.1/hush\n")
    config = loaded(tmp_path, SECRETS, {"CI_SECRET": "hush-hush"})

    url = config.channels["slack"].url
    assert url is not None
    assert config.webhook.hooks["ci"].secret.value.get_secret_value() == "hush-hush"
    assert url.value.get_secret_value() == "http://127.0.0.1/hush"
    assert "hush" not in repr(config)
    assert "hush" not in config.model_dump_json()


def test_secrets_that_are_not_there_are_mistakes(tmp_path: Path) -> None:
    """An unset variable, a missing file, both at once, neither, and a value in the file itself."""
    text = (
        SECRETS
        + "  both: {kind: slack, url: {env: A, file: b}}\n"
        + "  none: {kind: slack, url: {}}\n"
        + "  open: {kind: slack, url: {value: hush}}\n"
    )
    found = said(tmp_path, text)
    assert found == [
        "4:18: environment variable CI_SECRET is not set",
        f"6:29: secret file {tmp_path / 'slack.url'} cannot be read: No such file or directory",
        "7:28: a secret needs either env or file",
        "8:28: a secret needs either env or file",
        "9:28: a secret is never written here: name an environment variable (env) or a file (file)",
    ]


def test_a_check_needs_no_secrets(tmp_path: Path) -> None:
    """Without `with_secrets` nothing is looked for."""
    (tmp_path / "config.yaml").write_text(SECRETS)

    config = load_config(tmp_path / "config.yaml", {}, with_secrets=False)
    assert config.webhook.hooks["ci"].secret.value.get_secret_value() == ""


def test_paths_come_out_absolute(tmp_path: Path) -> None:
    """`home` stands beside the file, the store and the registry's file in `home`; DRIFTD_HOME stands before it."""
    config = loaded(tmp_path, "home: state\n")
    moved = loaded(tmp_path, "home: state\n", {"DRIFTD_HOME": str(tmp_path / "other")})

    assert config.home == tmp_path / "state"
    assert config.store.path == tmp_path / "state" / "store.db"
    assert config.rules == tmp_path / "rules"
    assert config.templates == tmp_path / "handlers" / "templates"
    assert config.registry.uri == f"sqlite:///{tmp_path}/state/mlflow.db"
    assert moved.home == tmp_path / "other"
    assert moved.registry.artifacts == f"{tmp_path}/other/artifacts"
    assert moved.rules == tmp_path / "rules"


def test_the_file_is_found_by_the_environment(tmp_path: Path) -> None:
    """Without a path, DRIFTD_CONFIG says where the file is."""
    (tmp_path / "mine.yaml").write_text("home: state\n")

    assert load_config(environ={"DRIFTD_CONFIG": str(tmp_path / "mine.yaml")}).home == tmp_path / "state"


def test_a_missing_file_is_a_mistake(tmp_path: Path) -> None:
    """No traceback: the file and what is wrong with it."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml", {})


def test_what_is_kept_and_for_how_long(tmp_path: Path) -> None:
    """Jobs go after a month unless it is said otherwise; the rest stays, and prediction logs for a day at the least."""
    assert loaded(tmp_path, "home: state\n").retention == RetentionConfig(jobs=timedelta(days=30))
    told = loaded(tmp_path, "home: state\nretention: {jobs: null, evidence: 400d, predictions: 90d}\n").retention
    assert (told.jobs, told.evidence, told.predictions) == (None, timedelta(days=400), timedelta(days=90))
    assert said(tmp_path, "home: state\nretention: {predictions: 1h}\n") == [
        "2:26: prediction logs are kept for at least a day: canaries and trainings read them"
    ]


def test_where_the_daemon_tells_how_it_is(tmp_path: Path) -> None:
    """On loopback unless said otherwise; `off` switches it off, and what is misspelt is named."""
    assert (web := loaded(tmp_path, "home: state\n").web) is not None
    assert (web.host, web.port) == ("127.0.0.1", 8800)
    assert loaded(tmp_path, "home: state\nweb: off\n").web is None
    assert said(tmp_path, "home: state\nweb: {prot: 1, port: 65536}\n") == [
        "2:7: unknown key web.prot; did you mean port?",
        "2:22: web.port: Input should be less than or equal to 65535",
    ]
    assert said(tmp_path, "home: state\nweb: on\n") == [
        "2:6: web: Input should be a valid dictionary or instance of WebConfig"
    ]


def test_two_listeners_cannot_have_one_address(tmp_path: Path) -> None:
    """The later of the two is told so, also where one of them listens everywhere; ports of other hosts are no matter."""
    hooks = "hooks: {ci: {secret: {env: S}}}"
    model = "models: {m: {task: binary, registered: m}}\n"
    environ = {"S": "secret"}
    text = f"home: state\n{model}web: {{port: 8801}}\nwebhook: {{host: 0.0.0.0, port: 8801, {hooks}}}\n"
    assert said(tmp_path, text, environ) == [
        "3:13: web and platform.gateway cannot both listen on port 8801 of 127.0.0.1; give web another port",
        "3:13: web and webhook cannot both listen on port 8801 of 127.0.0.1; give web another port",
        "4:32: webhook and platform.gateway cannot both listen on port 8801 of 0.0.0.0; give webhook another port",
    ]
    loaded(tmp_path, f"home: state\nweb: {{port: 0}}\nwebhook: {{port: 0, {hooks}}}\n", environ)
    loaded(tmp_path, f"home: state\nweb: {{host: 127.0.0.2, port: 8802}}\nwebhook: {{{hooks}}}\n", environ)
    loaded(tmp_path, f"home: state\n{model}webhook: {{{hooks}}}\n", environ)
