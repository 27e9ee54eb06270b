"""Histograms as plain counts: putting neighbouring bins together, and reading a quantile off."""

from __future__ import annotations

from collections.abc import Sequence


def coarsen(counts: Sequence[int], most: int) -> tuple[int, ...]:
    """Group number of each bin: neighbours are put together until there are at most `most` groups of like size."""
    rows = sum(counts)
    groups, group, filled, seen = [], 0, 0, 0
    for count in counts:
        if filled and group < most - 1 and (seen + count / 2) * most > (group + 1) * rows:
            group, filled = group + 1, 0
        groups.append(group)
        filled, seen = filled + count, seen + count
    return tuple(groups)


def grouped(counts: Sequence[int], groups: Sequence[int]) -> tuple[int, ...]:
    """Counts per group."""
    sums = [0] * (max(groups, default=-1) + 1)
    for count, group in zip(counts, groups, strict=True):
        sums[group] += count
    return tuple(sums)


def quantile_bin(counts: Sequence[int], share: float) -> int:
    """The first bin up to which at least `share` of the counts lie. ValueError without counts."""
    total, seen = sum(counts), 0
    if total == 0:
        raise ValueError("an empty histogram has no quantiles")
    for number, count in enumerate(counts):
        seen += count
        if seen >= share * total:
            return number
    return len(counts) - 1


def added(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    """Both histograms together; an empty one changes nothing. ValueError when the bins differ."""
    if not left or not right:
        return tuple(left or right)
    return tuple(a + b for a, b in zip(left, right, strict=True))
