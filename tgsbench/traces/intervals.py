"""Sets of instants as sorted, disjoint, half-open intervals [n, 2] of whole nanoseconds: exact arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Intervals = npt.NDArray[np.int64]

EMPTY: Intervals = np.empty((0, 2), np.int64)


def union(start: npt.NDArray[Any], end: npt.NDArray[Any]) -> Intervals:
    """The instants covered by any of the intervals [start, end); empty ones cover nothing."""
    keep = end > start
    if not keep.all():
        start, end = start[keep], end[keep]
    if not len(start):
        return EMPTY
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")
        start, end = start[order], end[order]
    reach = np.maximum.accumulate(end)
    opens = np.empty(len(start), bool)
    opens[0] = True
    np.greater(start[1:], reach[:-1], out=opens[1:])
    first = np.flatnonzero(opens)
    last = np.append(first[1:], len(start)) - 1
    return np.column_stack((start[first], reach[last])).astype(np.int64, copy=False)


def length(a: Intervals) -> int:
    """Nanoseconds covered."""
    return int((a[:, 1] - a[:, 0]).sum())


def intersect(a: Intervals, b: Intervals) -> Intervals:
    """The instants in both."""
    if not len(a) or not len(b):
        return EMPTY
    # Interval i of a meets those of b that begin before its end and end after its start: a run.
    first = np.searchsorted(b[:, 1], a[:, 0], "right")
    last = np.searchsorted(b[:, 0], a[:, 1], "left")
    counts = np.maximum(last - first, 0)
    left = np.repeat(np.arange(len(a)), counts)
    right = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    start = np.maximum(a[left, 0], b[right, 0])
    end = np.minimum(a[left, 1], b[right, 1])
    return np.column_stack((start, end))


def subtract(a: Intervals, b: Intervals) -> Intervals:
    """The instants in a that are not in b."""
    if not len(a) or not len(b):
        return a
    return intersect(a, complement(b, int(a[0, 0]), int(a[-1, 1])))


def complement(a: Intervals, start: int, end: int) -> Intervals:
    """The instants of [start, end) that are not in a."""
    edges = np.concatenate(([start], np.clip(a, start, end).ravel(), [end])).reshape(-1, 2)
    return edges[edges[:, 1] > edges[:, 0]]


def merge(parts: list[Intervals]) -> Intervals:
    """The instants in any of the sets."""
    if not parts:
        return EMPTY
    joined = np.concatenate(parts)
    return union(joined[:, 0], joined[:, 1])


def covered(a: Intervals, start: npt.NDArray[Any], end: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """For each interval [start, end): how many of its nanoseconds lie in a."""
    if not len(a):
        return np.zeros(len(start), np.int64)
    ends = np.cumsum(a[:, 1] - a[:, 0])

    def before(instant: npt.NDArray[Any]) -> npt.NDArray[Any]:
        index = np.searchsorted(a[:, 0], instant, "right") - 1
        inside = np.minimum(instant, a[index, 1]) - a[index, 0]
        whole = ends[index] - (a[index, 1] - a[index, 0])
        return np.where(index >= 0, whole + inside, 0)

    found: npt.NDArray[np.int64] = np.maximum(before(end) - before(start), 0)
    return found
