"""What an observer inside another system's ranks wrote (see `peer/observe.py`), as steps of all ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tgsbench.external.adapter import StepReport, log_text
from tgsbench.external.process import PEER
from tgsbench.schema.preset import Preset
from tgsbench.systems.log_lines import typed_lines
from tgsbench.systems.registry import engine_of
from tgsbench.systems.spec import External
from tgsbench.units import GIB

ASK = "TGSBENCH_OBSERVE"
"""Environment variable that asks for an observer where a system can do without."""


FOLDER = "external"
"""Of a run folder: a system's configuration, and what its observer writes."""


class ObservedStep(Struct, frozen=True, kw_only=True):
    """One optimizer step as all ranks together did it."""

    tokens: int
    """That reached the embeddings."""
    labels: int
    """That reached torch's cross entropy and were not ignored; 0 where another kernel has the loss."""
    step_s: float
    """Of the slowest rank, from one optimizer step to the next."""
    num_all_to_alls: int
    all_to_all_bytes: int
    mem_gib: list[float]
    """By rank, at the end of the step."""
    reserved_gib: list[float]
    """By rank: what CUDA's allocator held at most so far; 0 on CPUs."""


class _Row(Struct):
    step: int
    begin_s: float
    end_s: float
    tokens: int
    labels: int
    num_all_to_alls: int
    all_to_all_bytes: int
    mem_bytes: int
    reserved_bytes: int = 0


def is_wanted(preset: Preset, env: Mapping[str, str] = os.environ) -> bool:
    """Does an observer run in the ranks of this preset's system?"""
    launch = engine_of(preset.engine).launch
    assert isinstance(launch, External), preset.engine.name
    return launch.observed == "always" or (launch.observed == "asked" and env.get(ASK) == "1")


def program(folder: Path, of_system: Sequence[str]) -> list[str]:
    """What torchrun starts so that `of_system` runs under an observer that writes into `folder`."""
    return [str(PEER / "observe.py"), str(folder), *of_system]


def read(folder: Path, num_ranks: int, ended: bool) -> list[ObservedStep]:
    """The steps that every rank has done; the last one only once the ranks have `ended`.

    An optimizer may step in parts: what a rank wrote of a step is whole when it has begun the next.
    """
    return steps([log_text(folder / f"observed.{rank}.jsonl") for rank in range(num_ranks)], ended)


def steps(logs: Sequence[str], ended: bool) -> list[ObservedStep]:
    """The same from the text of each rank's file."""
    ranks = [_last_of_each(log) for log in logs]
    whole = min(map(len, ranks), default=0)
    if not ended:
        whole = min(whole, *(len(rows) - 1 for rows in ranks)) if ranks else 0
    return [_joined(ranks, index) for index in range(max(0, whole))]


def _last_of_each(log: str) -> list[_Row]:
    return list({row.step: row for row in typed_lines(log, _Row)}.values())


def _joined(ranks: Sequence[Sequence[_Row]], index: int) -> ObservedStep:
    rows = [rows[index] for rows in ranks]
    begins = [rows[index - 1].end_s if index else rows[0].begin_s for rows in ranks]
    return ObservedStep(
        tokens=sum(row.tokens for row in rows),
        labels=sum(row.labels for row in rows),
        step_s=max(row.end_s - begin_s for row, begin_s in zip(rows, begins, strict=True)),
        num_all_to_alls=sum(row.num_all_to_alls for row in rows),
        all_to_all_bytes=sum(row.all_to_all_bytes for row in rows),
        mem_gib=[row.mem_bytes / GIB for row in rows],
        reserved_gib=[row.reserved_bytes / GIB for row in rows],
    )


def windows_ns(folder: Path, rank: int) -> list[tuple[int, int]]:
    """Begin and end of each step of a rank by the machine's monotonic clock, nanoseconds.

    A step begins where the one before ended; the first one with its first token.
    """
    rows = _last_of_each(log_text(folder / f"observed.{rank}.jsonl"))
    begins = [row.begin_s for row in rows[:1]] + [row.end_s for row in rows[:-1]]
    return [(int(begin * 1e9), int(row.end_s * 1e9)) for begin, row in zip(begins, rows, strict=True)]


def alone(seen: Sequence[ObservedStep]) -> list[StepReport]:
    """Steps as the observer alone tells them, where nothing is computed that a log could tell."""
    return [_told(own, StepReport(tokens=0.0, step_s=0.0)) for own in seen]


def told_by(seen: Sequence[ObservedStep], logged: Sequence[StepReport]) -> list[StepReport]:
    """Steps that observer and log both have: clock and counts of the one, losses of the other."""
    return [_told(own, report) for own, report in zip(seen, logged, strict=False)]


def _told(seen: ObservedStep, report: StepReport) -> StepReport:
    return msgspec.structs.replace(
        report,
        tokens=seen.tokens,
        step_s=seen.step_s,
        mem_gib=max(seen.mem_gib),
        mem_by_rank_gib=seen.mem_gib,
        reserved_by_rank_gib=seen.reserved_gib,
        num_all_to_alls=seen.num_all_to_alls,
    )


def figures(seen: Sequence[ObservedStep]) -> dict[str, float]:
    """The last step's counts, to stand beside the system's own figures."""
    if not seen:
        return {}
    last = seen[-1]
    return {
        "all-to-alls of a step, all ranks": float(last.num_all_to_alls),
        "all-to-all MiB of a step, all ranks": last.all_to_all_bytes / 2**20,
        "tokens of a step at the embedding, all ranks": float(last.tokens),
        "labels of a step at the loss, all ranks": float(last.labels),
    }
