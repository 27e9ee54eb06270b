"""The contents of files that are gone, by the million: what is needed to see that one comes back, in 32 bytes each.

A folder that is rotated loses files for ever, and each of them is to be known for a day. So nothing is kept of them but a
hash of the content (to find it), one of the path (the same file came back, not another with its content) and the time.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable
from functools import partial

CONTENT, PATH, TIME = 16, 8, 8
"""Bytes of each. With 100 million contents known, one more is taken for another with a probability of 1 in 10^30."""
RECORD = CONTENT + PATH + TIME
YOUNG = 128
"""Most records that are not sorted in yet; they take several times the space."""
CHUNK = 65_536
"""Most records that are sorted together."""
CHUNKS = 16
"""How many chunks the time of remembering is made of at the least: so much of it a content may be known too long."""
_KEPT = CONTENT + PATH


def content_key(digest: str) -> bytes:
    """What is kept of a SHA-256 in hex."""
    return bytes.fromhex(digest[: 2 * CONTENT])


def path_key(path: str) -> bytes:
    """What is kept of a path."""
    return hashlib.blake2b(path.encode(), digest_size=PATH).digest()


def pack(rows: Iterable[tuple[bytes, bytes, int]]) -> bytes:
    """Keys of content and path, and when the file was found to be gone (µs since 1970), as one piece; oldest first."""
    return b"".join(content + path + at.to_bytes(TIME, "big") for content, path, at in rows)


class GoneContents:
    """The contents of the files of one owner that are gone, for `remember` µs each, and a little longer."""

    def __init__(self, remember: int, packed: bytes = b"") -> None:
        self._remember = remember
        self._span = remember // CHUNKS
        self._chunks: list[tuple[int, int, bytes]] = []
        """When the oldest and the newest file went, and the records in order of their contents: oldest chunk first."""
        self._young: dict[bytes, bytes] = {}
        """Content -> path of those that are in no chunk yet."""
        self._began = self._newest = 0
        for start in range(0, len(packed), RECORD):
            record = packed[start : start + RECORD]
            self._put(record[:CONTENT], record[CONTENT:-TIME], int.from_bytes(record[-TIME:], "big"))

    def __len__(self) -> int:
        return len(self._young) + sum(len(records) for _, _, records in self._chunks) // _KEPT

    def add(self, digest: str, path: str, at: int) -> None:
        """The last file of a content is gone since `at`, µs since 1970."""
        self._put(content_key(digest), path_key(path), at)

    def path_of(self, digest: str) -> bytes | None:
        """The key of the path under which the content was last there; None when it is not known."""
        content = content_key(digest)
        if content in self._young:
            return self._young[content]
        for _, _, records in reversed(self._chunks):
            at = _KEPT * bisect_left(range(len(records) // _KEPT), content, key=partial(_content, records))
            if records[at : at + CONTENT] == content:
                return records[at + CONTENT : at + _KEPT]
        return None

    def forget(self, now: int) -> int | None:
        """Forget what was found to be gone more than `remember` ago; up to when that reaches, or None when it is nothing.

        `now` in µs since 1970. Contents are forgotten some at once, when the newest of them is old enough.
        """
        if self._young and not self._is_near(now, self._began):
            self._sort_in()
        old = [newest for _, newest, _ in self._chunks if now - newest > self._remember]
        if not old:
            return None
        # Not only the first ones: while a clock was wrong a chunk may have got a time that never comes.
        self._chunks = [chunk for chunk in self._chunks if now - chunk[1] <= self._remember]
        return max(old)

    def _put(self, content: bytes, path: bytes, at: int) -> None:
        if self._young and (len(self._young) >= YOUNG or not self._is_near(at, self._began)):
            self._sort_in()
        if not self._young:
            self._began = self._newest = at
        self._young[content] = path
        self._newest = max(self._newest, at)

    def _is_near(self, at: int, began: int) -> bool:
        """Whether both belong into one chunk; not when the clock was set back, either: the chunk's time may never come."""
        return 0 <= at - began <= self._span

    def _sort_in(self) -> None:
        """Put the young ones into the last chunk, or begin another."""
        records = [content + path for content, path in self._young.items()]
        began, newest = self._began, self._newest
        last = self._chunks[-1] if self._chunks else None
        if last is not None and self._is_near(newest, last[0]) and len(last[2]) < CHUNK * _KEPT:
            began, newest = last[0], max(newest, last[1])
            kept = (last[2][start : start + _KEPT] for start in range(0, len(last[2]), _KEPT))
            records += [record for record in kept if record[:CONTENT] not in self._young]
            self._chunks.pop()
        self._chunks.append((began, newest, b"".join(sorted(records))))
        self._young = {}


def _content(records: bytes, number: int) -> bytes:
    return records[_KEPT * number : _KEPT * number + CONTENT]
