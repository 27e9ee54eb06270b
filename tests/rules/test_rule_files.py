"""From text to rules: every key, and the folder that is read again when it changes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.config import Config
from daemon.core.errors import ConfigError
from daemon.core.expressions import Template
from daemon.core.monitors import Monitor, Window
from daemon.core.rules import Count, For, Limit, Mode, OnUnknown, Rule, WhenBusy
from daemon.rulefiles import Checked, RuleFolder, commit_of

WHOLE = """\
# Owner: churn-ml.
model: churn
owner: churn-people
monitors:
  - name: churn-inputs
    window: {every: 10m, min_rows: 500}
    segments: [city]
    reference: trailing
    trailing: 4
    methods: {number: ks}
    alpha: 0.01
    floor: 0.2
    coverage: 0.5
rules:
  # Before it.
  - name: churn-retrain
    on: drift.measured
    when:
      - event.drifted_columns >= 1
      - event.estimated_loss_ratio >= 1.2   # drift that hurts
    clear: event.drifted_columns == 0
    for: 2 of 3 windows
    repeat: 12h
    cooldown: 6h
    limit: 2 per 24h
    on_unknown: act
    stale_after: 1d
    mode: approve
    when_busy: queue
    include_own: true
    for_each: worst_column
    do:
      - retrain: {template: churn-train, with: {name: x, rows_since: "{{ streak.start }}"}}
        approve: true
      - evaluate:
    on_failure:
      - notify: {to: oncall}

  # Silence.
  - {name: churn-silent, absent: data.landed, subject: landing, for: 2h, do: [notify: {to: oncall}]}
  - {name: churn-often, on: data.landed, when: event.bytes > 0, count: 3 within 1h, do: [notify: {to: oncall}]}
"""


def rules(checked: Checked) -> list[Rule]:
    """The rules of a check without mistakes."""
    assert [str(mistake) for mistake in checked.mistakes] == []
    return list(checked.loaded.rules.rules)


def test_every_key_of_a_rule_becomes_part_of_it(checked: Callable[..., Checked]) -> None:
    """Nothing that a rule says is lost."""
    rule, silent, often = rules(checked(WHOLE))

    assert (rule.name, rule.model, rule.on, rule.subject) == ("churn-retrain", "churn", "drift.measured", "churn")
    assert [condition.text for condition in rule.when] == [
        "event.drifted_columns >= 1", "event.estimated_loss_ratio >= 1.2",
    ]  # fmt: skip
    assert rule.clear is not None
    assert rule.clear.text == "event.drifted_columns == 0"
    assert (rule.hold, rule.count, rule.absent) == (For(hits=2, windows=3), None, None)
    assert (rule.repeat, rule.cooldown) == (timedelta(hours=12), timedelta(hours=6))
    assert rule.limit == Limit(2, timedelta(hours=24))
    assert (rule.on_unknown, rule.stale_after) == (OnUnknown.ACT, timedelta(days=1))
    assert (rule.mode, rule.when_busy, rule.include_own) == (Mode.APPROVE, WhenBusy.QUEUE, True)
    assert rule.for_each == ("worst_column",)
    assert [(step.verb, step.approve, step.position.line) for step in rule.steps] == [
        ("retrain", True, 33), ("evaluate", False, 35),
    ]  # fmt: skip
    given = rule.steps[0].inputs["with"]
    assert given["name"] == "x"
    assert isinstance(given["rows_since"], Template)
    assert (rule.steps[1].inputs, rule.on_failure[0].inputs) == ({}, {"to": "oncall"})
    assert (rule.owner, rule.position.file, rule.position.line) == ("churn-people", "rules/a.yaml", 16)
    assert (silent.absent, silent.hold, silent.subject) == (timedelta(hours=2), None, "landing")
    assert often.count == Count(3, timedelta(hours=1))


def test_a_rule_s_text_is_as_written_and_says_its_model(checked: Callable[..., Checked]) -> None:
    """The audit shows the rule without the next one's comment; the head names what is written elsewhere."""
    rule = rules(checked(WHOLE))[0]

    assert rule.text.splitlines()[:3] == [
        "# model: churn, owner: churn-people", "name: churn-retrain", "on: drift.measured",
    ]  # fmt: skip
    assert rule.text.endswith("on_failure:\n  - notify: {to: oncall}")


def test_an_alias_changes_the_revision_of_the_rules_that_use_it(checked: Callable[..., Checked]) -> None:
    """What an alias brings in is part of the rule, so a change of it is a change of the rule."""
    text = """\
model: churn
rules:
  - {name: a, on: data.landed, do: [command: &it {template: sweep, deadline: 1h}]}
  - {name: b, on: data.landed, for_each: name, do: [command: *it]}
"""
    before = rules(checked(text))[1]
    after = rules(checked(text.replace("1h", "2h")))[1]

    assert before.revision != after.revision
    assert before.steps[0].inputs == {"template": "sweep", "deadline": "1h"}


def test_a_monitor_is_read_whole(checked: Callable[..., Checked]) -> None:
    """Every key of a monitor becomes part of it."""
    loaded = checked(WHOLE).loaded

    assert loaded.monitors == (
        Monitor(
            "churn-inputs", "churn", Window(None, timedelta(minutes=10), 500), ("city",), "trailing", 4,
            {"number": "ks"}, 0.01, 0.2, 0.5,
        ),
    )  # fmt: skip


def test_tests_and_hidden_folders_hold_no_rules(config: Config, folder: RuleFolder) -> None:
    """rules/tests/ and the versions behind a ConfigMap's links are not read; other sub-folders are."""
    for name in ("tests/t.yaml", ".hidden/h.yaml", "..2026_01/r.yaml", "team/r.yml"):
        (config.rules / name).parent.mkdir(parents=True)
        (config.rules / name).write_text("rules: []\n")

    assert list(folder.load().files) == ["rules/team/r.yml"]


def test_what_was_loaded_can_be_parsed_again(config: Config, folder: RuleFolder) -> None:
    """The texts that a load gives make the same rules without the folder."""
    (config.rules / "a.yaml").write_text(WHOLE)
    loaded = folder.load()
    (config.rules / "a.yaml").write_text("broken: [")

    again = folder.parse(loaded.files)
    assert again.rules.revision == loaded.rules.revision
    assert again.monitors == loaded.monitors


SMALL = "rules:\n  - {name: r, on: data.landed, do: [notify: {to: oncall}]}\n"


def test_a_folder_with_a_mistake_is_not_loaded_at_all(config: Config, folder: RuleFolder) -> None:
    """One mistake in one file keeps every file from being taken."""
    (config.rules / "a.yaml").write_text(SMALL)
    (config.rules / "b.yaml").write_text("ruls: []\n")

    with pytest.raises(ConfigError, match=r"rules/b\.yaml:1:1: unknown key ruls; did you mean rules\?"):
        folder.load()


def test_a_missing_folder_is_a_mistake(config: Config, folder: RuleFolder) -> None:
    """No folder is not the same as no rules."""
    config.rules.rmdir()

    with pytest.raises(ConfigError, match="is no folder"):
        folder.load()


def test_edits_are_noticed_and_nothing_else(config: Config, folder: RuleFolder) -> None:
    """A changed, a new and a removed file are changes; a touched one is not."""
    path = config.rules / "a.yaml"
    path.write_text(SMALL)
    folder.load()
    seen = [folder.changed()]
    path.touch()
    seen.append(folder.changed())
    path.write_text(SMALL.replace("name: r", "name: s"))
    seen.append(folder.changed())
    folder.load()
    seen.append(folder.changed())
    (config.rules / "b.yaml").write_text("rules: []\n")
    seen.append(folder.changed())
    folder.load()
    (config.rules / "b.yaml").unlink()
    seen.append(folder.changed())

    assert seen == [False, False, True, False, True, True]


def test_a_broken_edit_is_told_once_and_its_repair_is_noticed(config: Config, folder: RuleFolder) -> None:
    """After a load that failed only a further change is news, also the change back to what is in force."""
    path = config.rules / "a.yaml"
    path.write_text(SMALL)
    folder.load()
    path.write_text("broken: [")
    seen = [folder.changed()]
    with pytest.raises(ConfigError):
        folder.load()
    seen.append(folder.changed())
    path.write_text(SMALL)
    seen.append(folder.changed())

    assert seen == [True, False, True]
    assert [rule.name for rule in folder.load().rules.rules] == ["r"]


def test_what_did_not_come_to_count_is_read_again(config: Config, folder: RuleFolder) -> None:
    """When the store could not take a set of rules, the same files count as changed until they are loaded again."""
    (config.rules / "a.yaml").write_text(SMALL)
    folder.load()
    folder.forget()

    assert folder.changed()
    folder.load()
    assert not folder.changed()


def test_a_changed_template_is_noticed(config: Config, folder: RuleFolder) -> None:
    """Rules are checked against the approved templates, so those are watched too."""
    (config.rules / "a.yaml").write_text(SMALL)
    folder.load()
    (config.templates / "new.yaml").write_text("doc: d\nverb: command\nargv: [x]\n")

    assert folder.changed()


def test_the_swap_of_a_configmap_is_noticed(config: Config, folder: RuleFolder) -> None:
    """Kubernetes swaps the link `..data` to a new folder; the files' links and names stay as they are."""
    for version, name in (("..1", "r"), ("..2", "s")):
        (config.rules / version).mkdir()
        (config.rules / version / "a.yaml").write_text(SMALL.replace("name: r", f"name: {name}"))
    (config.rules / "..data").symlink_to("..1")
    (config.rules / "a.yaml").symlink_to("..data/a.yaml")
    before = [rule.name for rule in folder.load().rules.rules]
    (config.rules / "..next").symlink_to("..2")
    (config.rules / "..next").rename(config.rules / "..data")

    assert folder.changed()
    assert (before, [rule.name for rule in folder.load().rules.rules]) == (["r"], ["s"])


def test_the_swap_of_a_git_sync_link_is_noticed(config: Config, folder: RuleFolder) -> None:
    """git-sync makes the whole folder a link to a worktree and swaps it."""
    root = config.rules.parent
    config.rules.rmdir()
    for version, name in (("one", "r"), ("two", "s")):
        (root / version).mkdir()
        (root / version / "a.yaml").write_text(SMALL.replace("name: r", f"name: {name}"))
    config.rules.symlink_to("one")
    before = [rule.name for rule in folder.load().rules.rules]
    (root / "next").symlink_to("two")
    (root / "next").rename(config.rules)

    assert folder.changed()
    assert (before, [rule.name for rule in folder.load().rules.rules]) == (["r"], ["s"])


def test_a_clean_commit_is_named(tmp_path: Path) -> None:
    """The commit is that of the folder, and empty as soon as anything in it differs from it."""

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    rules_folder = tmp_path / "rules"
    rules_folder.mkdir()
    outside = commit_of(rules_folder)
    (rules_folder / "a.yaml").write_text(SMALL)
    git("init", "-q")
    git("add", "rules")
    git("commit", "-q", "-m", "rules")
    clean = commit_of(rules_folder)
    (tmp_path / "elsewhere").write_text("x")
    beside = commit_of(rules_folder)
    (rules_folder / "b.yaml").write_text(SMALL)

    assert (outside, clean, beside, commit_of(rules_folder)) == ("", git("rev-parse", "HEAD"), clean, "")
