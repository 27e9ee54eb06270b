"""Arrays and lists as one blob for the store: equal content, equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from daemon.core.errors import BadInput

_LENGTH = 4


def pack(parts: Mapping[str, Any]) -> bytes:
    """Numeric arrays as their bytes, everything else as JSON."""
    arrays = {name: part for name, part in parts.items() if isinstance(part, np.ndarray) and part.dtype != object}
    rest = {
        name: part.tolist() if isinstance(part, np.ndarray) else part
        for name, part in parts.items()
        if name not in arrays
    }
    layout = [(name, array.dtype.str, array.shape) for name, array in arrays.items()]
    head = orjson.dumps([layout, rest])
    return b"".join([len(head).to_bytes(_LENGTH, "big"), head, *(array.tobytes() for array in arrays.values())])


def unpack(blob: bytes) -> dict[str, Any]:
    """The parts again; arrays are writable. BadInput when the bytes are no such blob."""
    size = int.from_bytes(blob[:_LENGTH], "big")
    at = _LENGTH + size
    try:
        layout, parts = orjson.loads(blob[_LENGTH:at])
        for name, kind, shape in layout:
            dtype = np.dtype(kind)
            count = int(np.prod(shape))
            parts[name] = np.frombuffer(blob, dtype, count, at).reshape(shape).copy()
            at += count * dtype.itemsize
    except (ValueError, TypeError) as error:
        raise BadInput(f"these bytes are no packed arrays: {error}") from error
    return dict(parts)


def texts(values: list[str | None]) -> np.ndarray[Any, np.dtype[np.object_]]:
    """A list as an object array."""
    result = np.empty(len(values), dtype=object)
    result[:] = values
    return result
