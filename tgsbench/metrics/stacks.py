"""Reads faulthandler's dumps of a stalled run: where each rank stands, and which one stands elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d{1,9}) in (?P<name>.*)$')
_HEAD = re.compile(r"^(Current thread|Thread) 0x[0-9a-f]+")
_MAIN = "tgsbench/training/__main__.py"
_WAITING = ("torch/distributed/", "torch/cuda/", "torch/autograd/graph.py")
"""Code in which a rank waits for the others: collectives, device synchronisation, the backward pass."""
_TOP = 8
_MAX_FRAMES = 200


class Frame(Struct, frozen=True):
    """One line of a Python stack."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} ({short(self.file)}:{self.line})"


def main_thread(text: str) -> list[Frame]:
    """Frames of the main thread, innermost first; of a text without one, those of the last thread."""
    threads: list[list[Frame]] = []
    for line in text.splitlines():
        if _HEAD.match(line):
            threads.append([])
        elif threads and len(threads[-1]) < _MAX_FRAMES and (match := _FRAME.match(line)):
            threads[-1].append(Frame(match["file"], int(match["line"]), match["name"]))
    for frames in threads:
        if any(frame.file.endswith(_MAIN) for frame in frames):
            return frames
    return threads[-1] if threads else []


def waits(frames: list[Frame]) -> bool:
    """Is this rank inside a collective or waiting for its device?"""
    return any(part in frame.file for frame in frames[:_TOP] for part in _WAITING)


def elsewhere(frames_by_rank: Mapping[int, list[Frame]]) -> list[int]:
    """Ranks that are not where the others wait; empty when all wait or none does."""
    known = {rank: frames for rank, frames in frames_by_rank.items() if frames}
    outside = [rank for rank, frames in known.items() if not waits(frames)]
    return outside if len(outside) < len(known) else []


def short(file: str) -> str:
    """A path from its package on."""
    for root in ("/site-packages/", "/dist-packages/"):
        if root in file:
            return file.rpartition(root)[2]
    _, ours, inside = file.rpartition("/tgsbench/")
    return f"tgsbench/{inside}" if ours else "/".join(file.split("/")[-3:])


def describe(frames: list[Frame], limit: int = 12) -> str:
    """Frames as text, innermost first, one a line."""
    lines = [f"  at {frame}" for frame in frames[:limit]]
    return "\n".join(lines + (["  …"] if len(frames) > limit else []))
