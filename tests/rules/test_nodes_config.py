"""Sources of nodes in config.yaml and in rules: contradictions, and events that never come."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.config import load_config
from daemon.core.errors import ConfigError
from daemon.rulefiles import Checked


def test_a_source_of_nodes_needs_a_cluster(tmp_path: Path) -> None:
    """The platform's, or its own; regular expressions must be some."""
    (tmp_path / "config.yaml").write_text(
        """\
home: state
sources:
  a: {kind: nodes}
  b: {kind: nodes, cluster: {}, conditions: [{type: X, reason: "("}]}
  c: {kind: nodes, cluster: {}, resources: []}
"""
    )
    with pytest.raises(ConfigError) as told:
        load_config(tmp_path / "config.yaml", {})
    assert [one.line for one in told.value.mistakes] == [5]
    (tmp_path / "config.yaml").write_text((tmp_path / "config.yaml").read_text().replace(", resources: []", ""))
    with pytest.raises(ConfigError) as told:
        load_config(tmp_path / "config.yaml", {})
    assert [(one.line, one.message[:40]) for one in told.value.mistakes] == [
        (3, "source a watches a cluster: say `cluster"),
        (4, "'(' is no regular expression: missing ),"),
    ]


def test_paths_and_times_of_a_source_of_nodes(tmp_path: Path) -> None:
    """Its kubeconfig lies beside config.yaml; losses count after 90 seconds unless it is said otherwise."""
    (tmp_path / "config.yaml").write_text(
        "home: state\nsources: {a: {kind: nodes, cluster: {kubeconfig: other.yaml}}}\n"
    )
    source = load_config(tmp_path / "config.yaml", {}).nodes["a"]
    assert source.cluster is not None
    assert source.cluster.kubeconfig == tmp_path / "other.yaml"
    assert (source.settle, source.ready_after) == (timedelta(seconds=90), timedelta(seconds=30))


def test_events_of_nodes_that_nobody_watches(checked: Callable[..., Checked]) -> None:
    """A rule on them is warned of when config.yaml has no such source."""
    found = checked("rules:\n  - {name: r, on: node.lost, do: [notify: {to: oncall}]}\n")
    assert found.mistakes == ()
    assert ["config.yaml has no sources of kind nodes" in one.message for one in found.loaded.warnings] == [True]
