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
CHUNK = 65_536
"""Most records that are sorted together."""
CHUNKS = 16
"""How many chunks the time of remembering is made of at the least: so much of it a content may be known too long."""


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
        self._chunks: list[tuple[int, bytes]] = []
        """The time of the newest, and the records by their contents: oldest chunk first."""
        self._young: dict[bytes, bytes] = {}
        """Content -> path of those that are in no chunk yet."""
        self._began = self._newest = 0
        for start in range(0, len(packed), RECORD):
            record = packed[start : start + RECORD]
            self._put(record[:CONTENT], record[CONTENT:-TIME], int.from_bytes(record[-TIME:], "big"))

    def __len__(self) -> int:
        return len(self._young) + sum(len(records) for _, records in self._chunks) // (CONTENT + PATH)

    def add(self, digest: str, path: str, at: int) -> None:
        """The last file of a content is gone since `at`, µs since 1970."""
        self._put(content_key(digest), path_key(path), at)

    def path_of(self, digest: str) -> bytes | None:
        """The key of the path under which the content was last there; None when it is not known."""
        content = content_key(digest)
        if content in self._young:
            return self._young[content]
        for _, records in reversed(self._chunks):
            count = len(records) // (CONTENT + PATH)
            at = (CONTENT + PATH) * bisect_left(range(count), content, key=partial(_content, records))
            if records[at : at + CONTENT] == content:
                return records[at + CONTENT : at + CONTENT + PATH]
        return None

    def forget(self, now: int) -> int | None:
        """Forget what was found to be gone more than `remember` ago; up to when that reaches, or None when it is nothing.

        `now` in µs since 1970. Contents are forgotten some at once, when the newest of them is old enough.
        """
        if self._young and self._is_full(now):
            self._seal()
        old = [newest for newest, _ in self._chunks if now - newest > self._remember]
        if not old:
            return None
        # Not only the first ones: while a clock was wrong a chunk may have got a time that never comes.
        self._chunks = [chunk for chunk in self._chunks if now - chunk[0] <= self._remember]
        return max(old)

    def _put(self, content: bytes, path: bytes, at: int) -> None:
        if self._young and self._is_full(at):
            self._seal()
        if not self._young:
            self._began = self._newest = at
        self._young[content] = path
        self._newest = max(self._newest, at)

    def _is_full(self, now: int) -> bool:
        # A clock that was set back ends a chunk, too: its time may never come.
        return len(self._young) >= CHUNK or not 0 <= now - self._began <= self._remember // CHUNKS

    def _seal(self) -> None:
        records = b"".join(content + path for content, path in sorted(self._young.items()))
        self._chunks.append((self._newest, records))
        self._young = {}


def _content(records: bytes, number: int) -> bytes:
    start = (CONTENT + PATH) * number
    return records[start : start + CONTENT]
