"""A chunk of a trace's events, column by column: what the tables are made of, whichever reader read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tgsbench.traces.categories import MODULE_PREFIX
from tgsbench.traces.event import Args, Span
from tgsbench.traces.row_store import Ints, array

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

RECORD: Final = "record_param_comms"
"""The operator that bears NCCL's record of a call."""


class Interner(dict[Any, int]):
    """Each new key gets the next number."""

    def __missing__(self, key: Any) -> int:
        number = self[key] = len(self)
        return number


class Shapes(NamedTuple):
    """Arguments of one call as the trace writes them, JSON."""

    dims: bytes
    types: bytes
    concrete: bytes


class CommCall(NamedTuple):
    """What NCCL's record says about one call."""

    collective: str
    group_size: int
    group_name: str
    group_description: str
    group_ranks: str
    in_elements: int | None
    out_elements: int | None
    dtype: str


@dataclass(frozen=True)
class Columns:
    """The events with a duration, in file order, without Python frames that are no modules."""

    num_events: int
    """With those that are no rows."""
    ts: Floats
    """Microseconds, as `dur`."""
    dur: Floats
    correlation: Ints
    external: Ints
    sequence: Ints
    category: Codes
    """Position in `texts`, as `name`, `tid` and `device`."""
    name: Codes
    tid: Codes
    device: Codes
    record: Codes
    """Position in `records`; 0: the event says nothing of a collective."""
    texts: Sequence[Any]
    records: Sequence[CommCall | None]
    shapes: Callable[[Ints], list[Shapes | None]]
    """Arguments of some rows where recorded; until the next chunk but one is read."""

    def __len__(self) -> int:
        return self.num_events

    def numbers(
        self, codes: Codes, interner: Interner, key: Callable[[Any], Any] = lambda text: text
    ) -> Codes:
        """Numbers by an interner of the texts that some codes stand for, new ones in order of appearance."""
        used = np.zeros(len(self.texts), bool)
        used[codes] = True
        at = np.flatnonzero(used)
        table = np.zeros(len(self.texts), np.int32)
        table[at] = [interner[key(self.texts[code])] for code in at.tolist()]
        found: Codes = table[codes]
        return found


def of_events(events: list[Any]) -> Columns:
    """Columns of decoded events."""
    spans = [event for event in events if type(event) is Span and not _is_plain_frame(event)]
    texts, records = Interner(), Interner({None: 0})
    arguments = [span.args for span in spans]

    def codes(values: list[Any]) -> Codes:
        return array([texts[value] for value in values], np.int32)

    return Columns(
        num_events=len(events),
        ts=array([span.ts for span in spans], np.float64),
        dur=array([span.dur for span in spans], np.float64),
        correlation=array([args.correlation for args in arguments], np.int64),
        external=array([args.external for args in arguments], np.int64),
        sequence=array([args.sequence for args in arguments], np.int64),
        category=codes([span.cat for span in spans]),
        name=codes([span.name for span in spans]),
        tid=codes([span.tid for span in spans]),
        device=codes([args.device for args in arguments]),
        record=array([records[_record(span)] for span in spans], np.int32),
        texts=list(texts),
        records=list(records),
        shapes=lambda rows: [_shapes(arguments[row]) for row in rows.tolist()],
    )


def _is_plain_frame(span: Span) -> bool:
    """A Python frame that is no call of a module: most events of a trace with stacks, and none is wanted."""
    return span.cat == "python_function" and not span.name.startswith(MODULE_PREFIX)


def _shapes(args: Args) -> Shapes | None:
    if not memoryview(args.dims).nbytes:
        return None
    return Shapes(bytes(args.dims), bytes(args.types), bytes(args.concrete))


def _record(span: Span) -> CommCall | None:
    args = span.args
    if args.collective is None and span.name != RECORD:
        return None
    return CommCall(
        args.collective or "",
        args.group_size or 0,
        args.group_name or "",
        args.group_description or "",
        args.group_ranks or "",
        args.in_elements,
        args.out_elements,
        args.dtype or "",
    )
