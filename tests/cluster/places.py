"""Where the test cluster finds and keeps things. The one module here that reads the environment.

DRIFTD_CLUSTER_CACHE   folder of what is built; default `.cache/cluster` of the checkout
KUBEBUILDER_ASSETS     folder of etcd, kube-apiserver and so on that are used in place of built ones, as controllers'
                       test environments do; what it lacks is built
"""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = Path(__file__).parent / "modules"
"""One Go module per folder: a go.mod and a go.sum that pin what is built or read, and a file that names it."""


class NoCluster(Exception):
    """A cluster, or a part of it, cannot be had on this machine; the message says what to do."""


def cache() -> Path:
    """The folder of what is built here."""
    return Path(os.environ.get("DRIFTD_CLUSTER_CACHE") or ROOT / ".cache" / "cluster").resolve()


def given_assets() -> Path | None:
    """The folder of binaries that the person at the machine brought along; None when there is none."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(named).resolve() if named else None


def environment(**changed: str) -> dict[str, str]:
    """This process's environment with some variables changed, for a program that is started."""
    return {**os.environ, **changed}
