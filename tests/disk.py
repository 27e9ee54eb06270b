"""A disk that fills up: a small tmpfs, mounted for one test."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = 5000
"""Most files of a small disk, so that there can be no room for a name either."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A mount, with as little in it as the test has put there."""

    folder: Path

    @property
    def _filler(self) -> Path:
        return self.folder / ".filler"

    def fill(self, *growing: Path) -> None:
        """Leave room for nothing: no byte, also not behind the end of the `growing` files, and no new file."""
        self._filler.mkdir()
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError), (self._filler / str(size)).open("wb", buffering=0) as file:
                while file.write(b"\0" * size):
                    pass
        for path in growing:
            with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
                while file.write(b"\n"):
                    pass
        self.fill_names()

    def fill_names(self, but: int = 0) -> None:
        """Leave room for so many new files, and for bytes as before."""
        self._filler.mkdir(exist_ok=True)
        names = (self._filler / f"name-{number}" for number in itertools.count())
        with contextlib.suppress(OSError):
            for name in names:
                name.touch()
        for name in itertools.islice(self._filler.glob("name-*"), but):
            name.unlink()

    def free(self) -> None:
        """Take away what `fill` put there."""
        shutil.rmtree(self._filler)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk at a folder, which is made; fails the test, and says why, where that is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m,nr_inodes={NAMES}"
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.fail(
            f"this test makes a disk full and mounts a tmpfs of {megabytes} MB for it, which needs the right to mount "
            f"(root, CAP_SYS_ADMIN): {made.stderr.strip()}"
        )
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
