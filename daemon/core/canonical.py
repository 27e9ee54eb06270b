"""Canonical JSON and ids derived from content: the same thing has the same id wherever and whenever it is named."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson


def canonical(value: Any) -> bytes:
    """`value` as JSON with sorted keys and no spaces; times must be UTC. Raises TypeError when it is no JSON value.

    NaN and infinities become null. Values that read back alike give the same bytes.
    """
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)


def digest(value: bytes) -> str:
    """SHA-256 of bytes, in hex."""
    return hashlib.sha256(value).hexdigest()


def content_id(kind: str, *parts: Any) -> str:
    """A short id (32 hex digits) of a kind of thing and what it is made of, e.g. `content_id("run", rule, key, event)`."""
    return hashlib.blake2b(canonical([kind, *parts]), digest_size=16).hexdigest()


def unit_hash(salt: str, key: str) -> float:
    """A number in [0, 1) from a salt and a key: sticky splits, holdouts and samples all choose by it."""
    raw = hashlib.blake2b(key.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return int.from_bytes(raw, "big") / 2**64
