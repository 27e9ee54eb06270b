"""A cluster to play with, until Ctrl-C: `python -m tests.cluster [PLATFORM ...]` with these platforms' definitions."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import tempfile
import threading
from pathlib import Path

from tests.cluster import definitions
from tests.cluster.admin import Admin
from tests.cluster.cluster import Cluster
from tests.cluster.places import NoCluster


def main(platforms: list[str]) -> None:
    """Starts it, tells how to reach it, and ends it when it is asked to."""
    unknown = sorted(set(platforms) - set(definitions.PLACES))
    if unknown:
        raise NoCluster(f"no definitions are known of {', '.join(unknown)}: one of {', '.join(definitions.PLACES)}")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with tempfile.TemporaryDirectory(prefix="driftd-cluster-") as folder, Cluster(Path(folder)) as cluster:
        with Admin(cluster.http()) as admin:
            for name in definitions.apply(admin, *platforms):
                print(f"serves {name}")
        print(f"A Kubernetes API server at {cluster.address}; no node runs its pods. Its administrator:")
        print(f"  export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}")
        print("Ctrl-C ends it and removes all of it.", flush=True)
        while cluster.api_server.running and not ended.wait(1.0):
            pass
        if not ended.is_set():
            raise NoCluster(f"the API server ended: {cluster.api_server.last_words()}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main(sys.argv[1:])
        except NoCluster as error:
            raise SystemExit(str(error)) from None
