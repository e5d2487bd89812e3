"""One event of a trace: the few fields that are wanted; the parser skips the rest."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Raw, Struct, field

Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Args(Struct, gc=False, frozen=True):
    """The arguments wanted of an event."""

    correlation: Int64 = 0
    external: Int64 = field(name="External id", default=0)
    sequence: Int64 = field(name="Sequence number", default=-1)
    collective: str | None = field(name="Collective name", default=None)
    group_size: Int64 | None = field(name="Group size", default=None)
    group_name: str | None = field(name="Process Group Name", default=None)
    group_description: str | None = field(name="Process Group Description", default=None)
    group_ranks: str | None = field(name="Process Group Ranks", default=None)
    in_elements: Int64 | None = field(name="In msg nelems", default=None)
    out_elements: Int64 | None = field(name="Out msg nelems", default=None)
    dtype: str | None = None
    device: Int64 | str | None = None
    dims: Raw = field(name="Input Dims", default=Raw())
    """JSON; valid until the next chunk is read, as `types`."""
    types: Raw = field(name="Input type", default=Raw())
    concrete: Raw = field(name="Concrete Inputs", default=Raw())


NO_ARGS: Final = Args()


class Span(Struct, gc=False, tag_field="ph", tag="X"):
    """An event with a duration; `ts` and `dur` in microseconds."""

    cat: str = ""
    name: str = ""
    tid: Int64 | str = 0
    ts: float = 0.0
    dur: float = 0.0
    args: Args = NO_ARGS


def _passed_over(tag: str) -> type[Struct]:
    return msgspec.defstruct(f"Phase{ord(tag)}", [], tag_field="ph", tag=tag, gc=False)


Event: Any = Span
"""What decodes to any event: a `Span`, or a struct without fields."""
for _tag in "BEiICbneSTpFstfPNODVvRcM()":  # all phases of the trace event format that hold nothing wanted
    Event |= _passed_over(_tag)
