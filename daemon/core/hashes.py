"""Hashes of ids as 64-bit numbers, in bulk: one digest per id, from which every use draws numbers of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def text_hashes(ids: Sequence[str]) -> Hashes:
    """64 bits of each id's BLAKE2b digest: evenly spread, and the same wherever the id is seen."""
    blake2b = hashlib.blake2b
    raw = b"".join([blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest() for name in ids])
    return np.frombuffer(raw, dtype="<u8").astype(np.uint64)


def drawn(hashes: Hashes, use: int) -> Hashes:
    """Numbers for one use (0, 1, …) of the hashes; those of another use look independent of them.

    A step and the finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): one-to-one, so equal only for equal ids.
    """
    with np.errstate(over="ignore"):
        mixed = hashes + _STEP * np.uint64(use + 1)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _FIRST
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _SECOND
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)
