"""One look over a whole folder: which files are there, and of which others it can be said that they are not.

A file is missing only when the folder that should hold it was listed, or a folder above that does not show the way to it;
and only on the file system that the file was seen on. A folder that is missing, cannot be read or is not mounted now says
nothing about its files.
"""

# A listing goes over many thousand names, and Path objects cost several times as much as strings:
# ruff: noqa: PTH116, PTH120

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_DEVICE = 2**63 - 1
"""So that a device is an integer of a database."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as the folder lists it now."""

    path: str
    folder: str
    size: int
    mtime_ns: int
    regular: bool
    device: int
    """The file system of the folder that it lies in."""


class Listing:
    """What lies below `root` now. `counts` says which file names matter; all others only stand in the way of no file."""

    def __init__(self, root: str, counts: Callable[[str], bool]) -> None:
        self.problem = ""
        """What could not be listed, if anything."""
        self._root = root
        self._counts = counts
        self._entries: dict[str, Entry] = {}
        self._others: set[str] = set()
        self._folders: dict[str, int | None] = {}
        """The device of each folder that was listed; None: it is there, or may be, and was not."""
        self._list(root, "", frozenset())

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The files that count, by path."""
        return self._entries

    def lacks(self, path: str, device: int) -> bool:
        """Whether a file that was seen at `path` on `device` is gone."""
        if path in self._entries or path in self._others or not path.startswith(f"{self._root}/"):
            return False
        folder = os.path.dirname(path)
        while folder not in self._folders and len(folder) > len(self._root):
            if folder in self._entries or folder in self._others:  # a link that leads nowhere now
                return False
            folder = os.path.dirname(folder)
        return self._folders.get(folder) == device

    def _list(self, path: str, folder: str, above: frozenset[tuple[int, int]]) -> None:
        self._folders[path] = None
        try:
            status = os.stat(path)
            with os.scandir(path) as scan:
                items = sorted(scan, key=lambda item: item.name)
        except OSError as error:
            self.problem = (
                f"the folder {path} cannot be listed ({error.strerror}); make it, or give driftd the right to read it"
            )
            return
        here = (status.st_dev, status.st_ino)
        if here in above:  # a symlink back to a folder above
            return
        device = self._folders[path] = device_of(status)
        for item in items:
            if item.name.startswith("."):
                continue
            if not is_text(item.name):
                self.problem = f"the folder {path} holds {item.name!a}, a name that is not UTF-8; rename it"
            elif _is_folder(item):
                self._list(item.path, f"{folder}/{item.name}".lstrip("/"), above | {here})
            elif self._counts(item.name) and (entry := entry_of(item.path, folder, device)):
                self._entries[entry.path] = entry
            else:
                self._others.add(item.path)


def entry_of(path: str, folder: str, device: int) -> Entry | None:
    """The file at `path`; None when it is gone. `folder` and `device` are those of the folder that it lies in."""
    try:
        status = os.stat(path)
    except OSError:
        # A dangling symlink is there and cannot be read: that is worth a word. Anything else is gone.
        try:
            status = os.lstat(path)
        except OSError:
            return None
    regular = stat.S_ISREG(status.st_mode)
    return Entry(path, folder, status.st_size if regular else 0, status.st_mtime_ns, regular, device)


def device_of(status: os.stat_result) -> int:
    """The file system of a folder, as a number that a mark can hold; numbers change when it is mounted anew."""
    return status.st_dev & _DEVICE


def is_text(name: str) -> bool:
    """Whether the name can be stored: the system hands out bytes that are not UTF-8 as lone surrogates."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a symlink that leads to itself
        return False
