"""The cluster's programs, built from Go modules: `python -m tests.cluster.binaries [LEVEL]` builds all of a level.

Each module under modules/ builds into a folder of the cache whose name is the digest of what says what is built: the
module's files, the flags and the machine's kind. So another version is another folder, and a build is done once. Go's
own build cache makes the parts that two programs share be compiled once.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import golang, places
from tests.cluster.places import NoCluster

KUBERNETES = "v1.37.2"
"""The version that modules/kubernetes/go.mod pins; what the API server says of itself."""
BUILD_S = 3600
_TELL_EVERY_S = 15.0
_VERSION = "k8s.io/component-base/version"
_KUBERNETES_FLAGS = " ".join(
    f"-X {_VERSION}.{key}={value}"
    for key, value in (
        ("gitVersion", KUBERNETES),
        ("gitMajor", KUBERNETES.split(".", maxsplit=1)[0].removeprefix("v")),
        ("gitMinor", KUBERNETES.split(".")[1]),
        ("gitTreeState", "clean"),
    )
)


@dataclass(frozen=True)
class Program:
    """One program: its name, the module under modules/ that pins it, its package, and what its build costs.

    `minutes`: from an empty Go build cache on two cores, after the programs that stand before it in its level.
    """

    name: str
    module: str
    package: str
    minutes: float
    flags: str = ""

    def path(self) -> Path:
        """Where it lies once it is built."""
        return places.cache() / f"{self.module}-{_digest(self.module)}" / self.name


def _kubernetes(name: str, minutes: float) -> Program:
    return Program(name, "kubernetes", f"k8s.io/kubernetes/cmd/{name}", minutes, _KUBERNETES_FLAGS)


LEVELS: dict[str, list[Program]] = {
    "api": [
        Program("etcd", "etcd", ".", 0.5),
        _kubernetes("kube-apiserver", 5.5),
        _kubernetes("kube-controller-manager", 2.0),
    ],
    "kserve": [Program("kserve-manager", "kserve", "github.com/kserve/kserve/cmd/manager", 3.5)],
    "deploy": [Program("kustomize", "kustomize", "sigs.k8s.io/kustomize/kustomize/v5", 0.5)],
}
"""What each level is made of. api: an API server with its store, and the controllers that make pods of jobs. kserve: the
controller of InferenceServices, which runs beside them. deploy: what renders the overlays of deploy/.
"""


def find(name: str) -> Path:
    """A program that was brought along or built; NoCluster, with what to do, when it is neither."""
    given = places.given_assets()
    if given and os.access(given / name, os.X_OK):
        return given / name
    path = _program(name).path()
    if not os.access(path, os.X_OK):
        raise NoCluster(
            f"{name} of the test cluster is not built: run `make cluster-binaries` (it is not in {path.parent})"
        )
    return path


def build(level: str) -> None:
    """Builds what is missing of a level, and tells on standard output how far it is."""
    given = places.given_assets()
    there = [one for one in LEVELS[level] if given and os.access(given / one.name, os.X_OK)]
    missing = [one for one in LEVELS[level] if one not in there and not os.access(one.path(), os.X_OK)]
    if not missing:
        return
    minutes = sum(one.minutes for one in missing)
    _tell(
        f"Building {', '.join(one.name for one in missing)} for the test cluster, once: "
        f"about {minutes:.0f} minutes on two cores (less when Go has built parts of them before)"
    )
    began = time.monotonic()
    for number, one in enumerate(missing, start=1):
        left = sum(later.minutes for later in missing[number - 1 :])
        _tell(f"[{number} of {len(missing)}] {one.name}: {_took(began)} gone, about {left:.0f} min to go at worst")
        _compile(one)
    _tell(f"Built in {_took(began)}: {missing[-1].path().parent}")


def _compile(program: Program) -> None:
    """One program, under a name of this process until it is whole."""
    path = program.path()
    path.parent.mkdir(parents=True, exist_ok=True)
    total = golang.packages(program.module, program.package)
    made = path.with_name(f".{path.name}-{os.getpid()}")
    # -p 2 and a low priority: a build of minutes leaves the machine to whoever works on it.
    command = [str(golang.go()), "build", "-v", "-p", "2", "-trimpath", "-ldflags", f"-s -w {program.flags}".strip()]
    if nice := shutil.which("nice"):
        command = [nice, "-n", "5", *command]
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            [*command, "-o", str(made), program.package], cwd=places.MODULES / program.module,
            env=golang.environment(GOMAXPROCS="2"), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
        try:
            _watch(program, process, total, out.fileno())
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)
        out.seek(0)
        words = out.read()
    if process.returncode != 0:
        made.unlink(missing_ok=True)
        raise NoCluster(f"building {program.name} ended with {process.returncode}: {words.strip()[-1500:]}")
    made.rename(path)


def _watch(program: Program, process: subprocess.Popen[bytes], total: int, out: int) -> None:
    """Tells how far a build is until it ends; NoCluster when it takes too long."""
    began = time.monotonic()
    pause = threading.Event()
    told = began
    while process.poll() is None:
        pause.wait(0.2)
        if time.monotonic() > began + BUILD_S:
            raise NoCluster(f"building {program.name} took more than {BUILD_S // 60} minutes")
        if time.monotonic() > told + _TELL_EVERY_S:
            told = time.monotonic()
            compiled = os.pread(out, 1 << 20, 0).count(b"\n")  # -v writes a line per package
            _tell(f"    {program.name}: {compiled} of at most {total} packages compiled, {_took(began)}")


def _program(name: str) -> Program:
    for level in LEVELS.values():
        for one in level:
            if one.name == name:
                return one
    raise KeyError(name)


@functools.cache
def _digest(module: str) -> str:
    """Of all that says what a module builds."""
    digest = hashlib.sha256()
    for path in sorted((places.MODULES / module).iterdir()):
        digest.update(f"{path.name}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    flags = sorted({one.flags for level in LEVELS.values() for one in level if one.module == module})
    digest.update("\n".join([platform.system(), platform.machine(), *flags]).encode())
    return digest.hexdigest()[:16]


def _took(began: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes} min {seconds:02} s"


def _tell(words: str) -> None:
    print(words, flush=True)


if __name__ == "__main__":
    try:
        for named in sys.argv[1:] or ["api"]:
            if named not in LEVELS:
                raise NoCluster(f"there is no level {named!r}: one of {', '.join(LEVELS)}")
            build(named)
    except NoCluster as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
