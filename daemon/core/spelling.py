"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean x?` when one of `known` is near, else an empty text."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not near:
        # A name that shares its main word: `loss_ratio` for `estimated_loss_ratio`.
        words = {word for word in name.lower().split("_") if len(word) > 2}
        near = [known for known in names if words & set(known.lower().split("_"))][:1]
    return f"; did you mean {near[0]}?" if near else ""
