"""config.yaml's platform: this machine or a cluster, and what is wrong with it said at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from daemon.config import load_config
from daemon.core.errors import ConfigError
from daemon.platformparts import KubernetesPlatform, PlatformConfig


def said(path: Path, text: str) -> list[str]:
    """The mistakes of a configuration, without the file's name."""
    (path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as told:
        load_config(path / "config.yaml", {})
    return [f"{mistake.line}:{mistake.column}: {mistake.message}" for mistake in told.value.mistakes]


def test_the_platform_is_this_machine_unless_it_is_said(tmp_path: Path) -> None:
    """Nothing else is needed around driftd."""
    (tmp_path / "config.yaml").write_text("home: state\nplatform: {gateway: {port: 8900}}\n")
    platform = load_config(tmp_path / "config.yaml", {}).platform

    assert isinstance(platform, PlatformConfig)
    assert platform.gateway.port == 8900


def test_a_cluster_is_named_by_its_kubeconfig_or_is_the_one_around(tmp_path: Path) -> None:
    """The file lies beside config.yaml unless its path is absolute."""
    (tmp_path / "admin.kubeconfig").touch()
    (tmp_path / "config.yaml").write_text(
        "home: state\nplatform:\n  kind: kubernetes\n  kubeconfig: admin.kubeconfig\n  context: prod\n  namespace: ml\n"
        "  pending: 5m\n  serving: gateway\n"
    )
    platform = load_config(tmp_path / "config.yaml", {}).platform
    assert isinstance(platform, KubernetesPlatform)
    assert platform.kubeconfig == tmp_path / "admin.kubeconfig"
    assert (platform.namespace, platform.pending) == ("ml", timedelta(minutes=5))

    (tmp_path / "config.yaml").write_text("home: state\nplatform: {kind: kubernetes, serving: gateway}\n")
    within = load_config(tmp_path / "config.yaml", {}).platform
    assert isinstance(within, KubernetesPlatform)
    assert within.kubeconfig is None


def test_what_is_wrong_with_a_platform_has_its_place(tmp_path: Path) -> None:
    """An unknown kind, a key of the other kind, names that are none, a file that is not there."""
    assert said(tmp_path, "home: state\nplatform: {kind: nomad}\n") == [
        "2:11: platform: kind must be local or kubernetes"
    ]
    assert said(tmp_path, "home: state\nplatform: {kubeconfig: x}\n")[0].startswith("2:12: unknown key")
    assert said(tmp_path, "home: state\nplatform:\n  kind: kubernetes\n  namespace: My_Space\n  context: prod\n") == [
        "4:14: 'My_Space' is no namespace: lower-case letters, digits and hyphens",
        "5:12: a context is one of a kubeconfig, and there is none",
    ]
    assert said(tmp_path, "home: state\nplatform: {kind: kubernetes, kubeconfig: none}\n") == [
        f"2:42: there is no kubeconfig {tmp_path}/none",
    ]
