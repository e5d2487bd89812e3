"""Which packs a step must train, and whether any were trained twice in an epoch."""

from __future__ import annotations

from msgspec import Struct, field

from tgsbench.schema.events import Step
from tgsbench.schema.preset import Preset

_MAX_KNOWN = 1 << 14
_MAX_REPEATS = 256

Place = tuple[int, int]
"""Rank and step."""


def packs_of_step(preset: Preset, dp_rank: int, step: int) -> list[int]:
    """Packs that one dp group trains in an optimizer step, counted from the run's first.

    Micro-step by micro-step, the groups take their micro-batches in turn.
    """
    size, first = preset.training.micro_batch, step * preset.packs_per_step
    return [
        first + (micro * preset.dp + dp_rank) * size + row
        for micro in range(preset.accumulation)
        for row in range(size)
    ]


class PackLedger(Struct):
    """Who trained which packs when, in bounded memory: the first 16,384 steps of all sp groups together."""

    known: dict[int, Place] = field(default_factory=dict)
    """Digest of a step's packs -> who trained them first."""
    repeats: list[tuple[Place, Place]] = field(default_factory=list)
    """The same packs again: first place and later place."""

    def add(self, step: Step) -> None:
        """Take one rank's report in; ranks that are not the first of their sp group say nothing of packs."""
        if not step.pack_digest:
            return
        place = (step.rank, step.step)
        first = self.known.get(step.pack_digest)
        if first is None:
            if len(self.known) < _MAX_KNOWN:
                self.known[step.pack_digest] = place
        elif first != place and len(self.repeats) < _MAX_REPEATS:
            self.repeats.append((first, place))

    def twice(self, preset: Preset, num_packs: int) -> list[str]:
        """Packs trained again before the epoch of `num_packs` was over, each in words."""
        return [
            f"rank {rank} trained in step {step} what rank {before[0]} had in step {before[1]}"
            for before, (rank, step) in self.repeats
            if _in_epoch(preset, before, num_packs) != _in_epoch(preset, (rank, step), num_packs)
        ]


def _in_epoch(preset: Preset, place: Place, num_packs: int) -> list[int]:
    rank, step = place
    return [index % num_packs for index in packs_of_step(preset, rank // preset.parallel.sp, step)]
