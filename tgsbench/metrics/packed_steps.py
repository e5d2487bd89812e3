"""Steps that all ranks reported, packed: 40 bytes each, in a temporary file where there are many."""

from __future__ import annotations

import os
import tempfile
import zlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import IO, overload

import msgspec

from tgsbench.metrics.step_total import StepTotal

_BLOCK = 1024
"""Steps that are packed together."""
_IN_MEMORY = 2 << 20
"""Packed bytes of about 50,000 steps; more go to a temporary file, and memory stays the same."""
_LARGEST = 2**63 - 1
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[StepTotal])


class _Spans:
    """Which steps there are: spans of those that came in order, 16 bytes a span, and those that did not."""

    def __init__(self) -> None:
        self._begins, self._ends = array("q"), array("q")
        self._late: set[int] = set()

    def __contains__(self, step: int) -> bool:
        at = bisect_right(self._begins, step) - 1
        return (at >= 0 and step < self._ends[at]) or step in self._late

    @property
    def is_in_order(self) -> bool:
        """Has each step a higher number than the one before?"""
        return not self._late

    def add(self, step: int) -> None:
        """Take in a step that is not here yet."""
        newest = self._ends[-1] if self._ends else -1
        if step < newest:
            self._late.add(step)
        elif step == newest:
            self._ends[-1] = step + 1
        else:
            self._begins.append(step)
            self._ends.append(step + 1)


class PackedSteps:
    """Totals that nothing is added to any more; one takes 700 bytes as an object and about 40 here."""

    def __init__(self) -> None:
        self._blocks: list[bytes | int] = []
        """Packed, or the number of packed bytes that lie next in the file."""
        self._file: IO[bytes] | None = None
        self._num_held = self._num_filed = 0
        """Packed bytes in memory, and in the file."""
        self._newest: list[StepTotal] = []
        """Not yet packed."""
        self._steps = _Spans()
        self._num = 0
        self.num: Counter[str] = Counter()
        """Phase -> steps."""

    def __len__(self) -> int:
        return self._num

    def __contains__(self, step: int) -> bool:
        return step in self._steps

    def append(self, total: StepTotal) -> None:
        """Take a step in whose figures are final."""
        total.reported = 0
        self._steps.add(total.step)
        self.num[total.phase] += 1
        self._num += 1
        self._newest.append(total)
        if len(self._newest) == _BLOCK:
            self._put(zlib.compress(_encoded(self._newest), 1))
            self._newest = []

    def _put(self, block: bytes) -> None:
        """Into memory, later ones into the file; where it has no room, as on a full disk, into memory too."""
        if self._num_held + len(block) > _IN_MEMORY and self._filed(block):
            self._blocks.append(len(block))
            self._num_filed += len(block)
        else:
            self._blocks.append(block)
            self._num_held += len(block)

    def _filed(self, block: bytes) -> bool:
        try:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115 - as long as the steps
            return os.pwrite(self._file.fileno(), block, self._num_filed) == len(block)
        except OSError:
            return False

    def __iter__(self) -> Iterator[StepTotal]:
        """In the order of their numbers; the objects are made anew, and what changes them changes nothing."""
        steps = self._in_order_told()
        return steps if self._steps.is_in_order else iter(sorted(steps, key=lambda total: total.step))

    def _in_order_told(self) -> Iterator[StepTotal]:
        begin = 0
        for block in list(self._blocks):
            if isinstance(block, int):
                assert self._file is not None
                begin, block = begin + block, os.pread(self._file.fileno(), block, begin)
            yield from _DECODER.decode(zlib.decompress(block))
        yield from self._newest


def _encoded(totals: list[StepTotal]) -> bytes:
    try:
        return _ENCODER.encode(totals)
    except OverflowError:  # of a damaged file: the sum of some ranks' counts, each below 2^63
        return _ENCODER.encode([_in_64_bits(total) for total in totals])


def _in_64_bits(total: StepTotal) -> StepTotal:
    for name in total.__struct_fields__:
        value = getattr(total, name)
        if isinstance(value, int):
            setattr(total, name, max(-_LARGEST, min(_LARGEST, value)))
    return total


class StepsOfPhase(Sequence[StepTotal]):
    """Packed steps of one phase (empty: of any), in order; each look unpacks them again."""

    def __init__(self, packed: PackedSteps, phase: str) -> None:
        self._packed = packed
        self._phase = phase

    def __len__(self) -> int:
        return self._packed.num[self._phase] if self._phase else len(self._packed)

    def __iter__(self) -> Iterator[StepTotal]:
        return (total for total in self._packed if self._phase in ("", total.phase))

    @overload
    def __getitem__(self, index: int) -> StepTotal: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[StepTotal]: ...
    def __getitem__(self, index: int | slice) -> StepTotal | Sequence[StepTotal]:
        if isinstance(index, slice):
            return list(self)[index]
        at = index if index >= 0 else len(self) + index
        if not 0 <= at < len(self):
            raise IndexError(index)
        return next(islice(self, at, None))
