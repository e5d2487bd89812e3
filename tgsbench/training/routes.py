"""Which experts the tokens of a verified run were sent to: ranks write it down, the fp64 oracle reads it.

Two experts whose scores differ by no more than fp32's rounding may be chosen in fp32 one way and in fp64 the
other: neither is wrong, but the losses part. The oracle takes the trained choice there, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tgsbench.metrics.packs import packs_of_step
from tgsbench.metrics.verification import TIE
from tgsbench.schema.preset import Preset
from tgsbench.schema.verify import EVIDENCE
from tgsbench.training.model.experts import EXPERT_LOAD
from tgsbench.workload.zigzag import layout_of


class RouteRecorder:
    """Keeps the experts of every layer's forward on this rank, step by step, until it is told to stop."""

    def __init__(self) -> None:
        self._chosen: list[Tensor] = []
        EXPERT_LOAD.on_choice = self._look

    def store(self, folder: Path, rank: int, preset: Preset) -> None:
        """Write [steps, micro-steps, layers, rows, tokens, k] beside the evidence, and see no more."""
        EXPERT_LOAD.on_choice = None
        if not self._chosen:
            return
        tokens, used = self._chosen[0].shape
        rows = preset.training.micro_batch
        shape = (preset.measure.steps, preset.accumulation, -1, rows, tokens // rows, used)
        np.save(folder / _name(rank), torch.stack(self._chosen).view(shape).to(torch.int32).numpy())

    def _look(self, chosen: Tensor) -> None:
        """Experts [T, k] of one layer; what a checkpoint runs again in the backward is not looked at."""
        if torch._C._current_graph_task_id() == -1:
            self._chosen.append(chosen)


class Routes:
    """What the ranks of a run wrote down, put together again by pack."""

    def __init__(self, run_dir: Path, preset: Preset) -> None:
        folder = run_dir / EVIDENCE
        self._of_rank = [np.load(folder / _name(rank), mmap_mode="r") for rank in range(preset.world_size)]
        self._preset = preset

    def of_pack(self, index: int) -> Tensor:
        """Experts [layers, S, k] of pack `index`, counted from the run's first."""
        preset, sp = self._preset, self._preset.parallel.sp
        step = index // preset.packs_per_step
        group, place = next(
            (group, packs.index(index))
            for group in range(preset.dp)
            if index in (packs := packs_of_step(preset, group, step))
        )
        micro, row = divmod(place, preset.training.micro_batch)
        parts = [self._of_rank[group * sp + part][step, micro, :, row] for part in range(sp)]
        layout = layout_of(preset)
        whole = layout.join([part.swapaxes(0, 1) for part in parts])
        return torch.from_numpy(whole.swapaxes(0, 1).astype(np.int64))


def routes_of(run_dir: Path, preset: Preset) -> Routes | None:
    """What a run's ranks wrote down; None of a model without experts."""
    return None if preset.model.experts is None else Routes(run_dir, preset)


def _name(rank: int) -> str:
    return f"routes-rank{rank:05d}.npy"


@dataclass
class TieBreaker:
    """The trained choices of one pack, and how many of all packs were taken over."""

    num_decisions: int = 0
    num_taken: int = 0
    farthest: float = 0.0
    """Largest distance from a tie of a choice that is not fp64's, in standard deviations of the scores."""
    _layers: list[Tensor] = field(default_factory=list)

    def begin(self, layers: Tensor) -> None:
        """What follows are the layers of one pack, with experts [layers, S, k]."""
        self._layers = list(layers)

    def settle(self, scores: Tensor, own: Tensor, groups: int = 1, used_groups: int = 1) -> Tensor:
        """fp64's experts [S, k] of the next layer; the trained ones where the scores [S, E] leave it open."""
        if not self._layers:
            return own
        trained = self._layers.pop(0)
        differs = (trained.sort(1)[0] != own.sort(1)[0]).any(1)
        self.num_decisions += len(own)
        if not differs.any():
            return own
        gaps = from_tie(scores[differs], trained[differs], groups, used_groups) / scores.std()
        self.farthest = max(self.farthest, float(gaps.max()))
        taken = differs.clone()
        taken[differs] = gaps <= TIE
        self.num_taken += int(taken.sum())
        return torch.where(taken[:, None], trained, own)


def from_tie(scores: Tensor, chosen: Tensor, groups: int, used_groups: int) -> Tensor:
    """By how much a best score that was left out beats the worst one chosen, [T]; of groups and inside them.

    scores [T, E], chosen [T, k]. A group's score is the sum of its two best; inf for too many groups.
    """
    is_chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, chosen, True)
    if groups == 1:
        return _beaten_by(scores, is_chosen)
    grouped, is_used = scores.view(len(scores), groups, -1), is_chosen.view(len(scores), groups, -1).any(-1)
    of_group = grouped.topk(2, -1)[0].sum(-1)
    best = of_group.masked_fill(is_used, torch.inf).topk(used_groups, -1)[1]
    is_kept = torch.zeros_like(is_used).scatter(1, best, True) | is_used
    open_to = grouped.masked_fill(~is_kept[..., None], -torch.inf).view_as(scores)
    gap = torch.maximum(_beaten_by(of_group, is_kept), _beaten_by(open_to, is_chosen))
    return gap.masked_fill(is_used.sum(-1) > used_groups, torch.inf)


def _beaten_by(scores: Tensor, is_chosen: Tensor) -> Tensor:
    left = scores.masked_fill(is_chosen, -torch.inf).amax(-1)
    return left - scores.masked_fill(~is_chosen, torch.inf).amin(-1)
