"""The marks of one owner's files: of those that are there, and of the contents of those that are gone.

A mark is kept as one short piece of bytes: there are as many as files lie in the folder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

from daemon.clients.gone import CONTENT, GoneContents, path_key
from daemon.clients.listing import Listing
from daemon.intake import FileMark, Forgotten, GoneFile

REMEMBER_S = 86_400.0
_STATUSES = ("taken", "duplicate", "empty", "unreadable")
_KEPT = struct.Struct("<qqqB32s")
"""Size, time, device, status, and the digest, which is all zeros for none."""
_NO_DIGEST = bytes(32)


class Marks(Mapping[str, FileMark]):
    """The last mark of every file that is there, by path, and which contents are known.

    A content is known as long as a file with it is there, and for `remember` seconds after the last one is gone; `gone` are
    those that are gone already, as `clients.gone` packs them.
    """

    def __init__(
        self, owner: str, marks: Iterable[FileMark] = (), remember: float = REMEMBER_S, gone: bytes = b""
    ) -> None:
        self.owner = owner
        self._kept: dict[str, bytes] = {}
        self._holders: dict[bytes, str] = {}
        """Content -> a file that is there and has it."""
        self._twins: dict[bytes, dict[str, None]] = {}
        """Content -> the other files that are there and have it; most contents have none."""
        self._gone = GoneContents(round(remember * 1e6), gone)
        for mark in marks:
            self.add(mark)

    def __getitem__(self, path: str) -> FileMark:
        size, mtime_ns, device, status, digest = _KEPT.unpack(self._kept[path])
        text = "" if digest == _NO_DIGEST else digest.hex()
        return FileMark(self.owner, path, size, mtime_ns, text, _STATUSES[status], device)

    def __contains__(self, path: object) -> bool:
        return path in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def gone(self) -> int:
        """How many contents are known whose files are gone."""
        return len(self._gone)

    def add(self, mark: FileMark) -> None:
        """Remember `mark` as the last one of its path."""
        self._remove(mark.path)
        digest = bytes.fromhex(mark.digest)
        status = _STATUSES.index(mark.status)
        self._kept[mark.path] = _KEPT.pack(mark.size, mark.mtime_ns, mark.device, status, digest or _NO_DIGEST)
        if digest:
            content = digest[:CONTENT]
            if self._holders.setdefault(content, mark.path) != mark.path:
                self._twins.setdefault(content, {})[mark.path] = None

    def holder(self, digest: str) -> str | None:
        """The path of a file that is there and has this content, or None."""
        return self._holders.get(bytes.fromhex(digest)[:CONTENT])

    def was_at(self, path: str, digest: str) -> bool | None:
        """Whether a content whose files are gone was last at `path`; None when it is not known."""
        found = self._gone.path_of(digest)
        return None if found is None else found == path_key(path)

    def leave(self, listing: Listing, now: int) -> list[GoneFile]:
        """Let go of the files that are missing in a listing; `now` in µs since 1970.

        A file system that is mounted anew may have another number: files that are as they were tell which one it has.
        """
        missing: list[tuple[str, int]] = []
        moved: dict[str, int] = {}
        renumbered: dict[int, int] = {}
        as_before: set[int] = set()
        for path, kept in self._kept.items():
            size, mtime_ns, device, _, _ = _KEPT.unpack(kept)
            entry = listing.entries.get(path)
            if entry is None:
                missing.append((path, device))
            elif entry.device == device:
                as_before.add(device)
            elif (entry.size, entry.mtime_ns) == (size, mtime_ns):
                moved[path] = renumbered[device] = entry.device
        for device in as_before:
            renumbered.pop(device, None)
        gone = []
        for path, before in missing:
            device = renumbered.get(before, before)
            if listing.lacks(path, device):
                gone.append(path)
            elif device != before:
                moved[path] = device
        for path, device in moved.items():
            self._kept[path] = _on(self._kept[path], device)
        return [self._leave(path, now) for path in gone]

    def forget(self, now: int) -> tuple[Forgotten, ...]:
        """Forget the contents whose files have been gone for long enough; what the store is to be told, if anything."""
        until = self._gone.forget(now)
        return () if until is None else (Forgotten(self.owner, until),)

    def _leave(self, path: str, now: int) -> GoneFile:
        digest = self._remove(path)
        if digest and digest[:CONTENT] in self._holders:
            digest = b""
        if digest:
            self._gone.add(digest.hex(), path, now)
        return GoneFile(self.owner, path, digest.hex(), now)

    def _remove(self, path: str) -> bytes:
        """Forget the mark; its digest, empty when it has none."""
        kept = self._kept.pop(path, None)
        digest = _NO_DIGEST if kept is None else _KEPT.unpack(kept)[-1]
        if digest == _NO_DIGEST:
            return b""
        content = digest[:CONTENT]
        others = self._twins.get(content, {})
        if self._holders[content] != path:
            del others[path]
        elif others:
            self._holders[content] = next(iter(others))
            del others[self._holders[content]]
        else:
            del self._holders[content]
        if not others:
            self._twins.pop(content, None)
        return digest


def _on(kept: bytes, device: int) -> bytes:
    """The same on another device."""
    size, mtime_ns, _, status, digest = _KEPT.unpack(kept)
    return _KEPT.pack(size, mtime_ns, device, status, digest)
