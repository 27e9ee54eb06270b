"""Frames between the daemon and a worker: a JSON head and some blobs, length-prefixed, over a pipe.

    4 bytes  length of the head
    head     JSON object; `blobs` holds the sizes of what follows
    blobs    one after the other

Lengths are big-endian. A frame that is too large or cut off raises BadInput or EOFError: the worker is then restarted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import orjson

from daemon.core.errors import BadInput

HEAD_BYTES = 64 << 20
BLOB_BYTES = 1 << 30
"""Largest head, and largest sum of blobs, of one frame: bounds what a broken peer can make us allocate."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message."""

    kind: str
    body: dict[str, Any]
    blobs: tuple[bytes, ...] = ()


def write_frame(pipe: IO[bytes], frame: Frame) -> None:
    """Write one frame and flush it. Raises BrokenPipeError when nobody reads any more."""
    head = orjson.dumps({"kind": frame.kind, "blobs": [len(blob) for blob in frame.blobs], "body": frame.body})
    if len(head) > HEAD_BYTES or sum(map(len, frame.blobs)) > BLOB_BYTES:
        raise BadInput(f"a {frame.kind} frame of {len(head)} bytes and {len(frame.blobs)} blobs is too large to send")
    pipe.write(len(head).to_bytes(4, "big"))
    pipe.write(head)
    for blob in frame.blobs:
        pipe.write(blob)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> Frame:
    """Read one frame. EOFError when the pipe ended, in between or in the middle; BadInput when it is no frame."""
    size = int.from_bytes(_exactly(pipe, 4), "big")
    if size > HEAD_BYTES:
        raise BadInput(f"a frame's head of {size} bytes is over the limit of {HEAD_BYTES}")
    try:
        head = orjson.loads(_exactly(pipe, size))
        kind, body, sizes = str(head["kind"]), dict(head["body"]), [int(length) for length in head["blobs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"not a frame: {error}") from error
    if sum(sizes) > BLOB_BYTES or min(sizes, default=0) < 0:
        raise BadInput(f"a {kind} frame's blobs of {sum(sizes)} bytes are over the limit of {BLOB_BYTES}")
    return Frame(kind, body, _blobs(pipe, sizes))


def _blobs(pipe: IO[bytes], sizes: Sequence[int]) -> tuple[bytes, ...]:
    return tuple(_exactly(pipe, size) for size in sizes)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    parts: list[bytes] = []
    missing = size
    while missing:
        part = pipe.read(missing)
        if not part:
            raise EOFError(f"the pipe ended {missing} bytes short of {size}")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
