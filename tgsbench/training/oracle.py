"""An fp64 training of verify's own: loss, clipping, AdamW and schedule, apart from what is trained.

The model is `oracle_model`'s. Shared with the trained code are the seeded weights (by name) and the token
stream, and nothing else: no FSDP, no optimizer of torch. Sources: AdamW (Loshchilov 2019), clipping by global
norm as torch.nn.utils.clip_grad_norm_ states it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tgsbench.schema.preset import Preset
from tgsbench.training.observers import pack_arrays
from tgsbench.training.oracle_model import PackRow, loss_sum, seeded_weights
from tgsbench.training.routes import Routes, TieBreaker
from tgsbench.workload import PackedDataset

_EPS_ADAM = 1e-8
_EPS_CLIP = 1e-6


@dataclass
class OracleStep:
    """What one optimizer step gave."""

    loss_sum: float
    num_labels: int
    grad_norm: float
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """Whole gradients before clipping, fp64, by the names of the trained parameters."""


class Oracle:
    """Trains a shrunken model in fp64 on one process."""

    def __init__(self, preset: Preset, data: PackedDataset, routes: Routes | None) -> None:
        self.ties = TieBreaker()
        self._routes = routes
        self._preset = preset
        self._data = data
        self.start = dict(seeded_weights(preset.model, preset.training.seed))
        self.weights = {name: w.clone().requires_grad_() for name, w in self.start.items()}
        self._first = {name: torch.zeros_like(w) for name, w in self.start.items()}
        self._second = {name: torch.zeros_like(w) for name, w in self.start.items()}

    def step(self, index: int, num_steps: int) -> OracleStep:
        """Optimizer step `index` of `num_steps`: loss, gradients, clipping, AdamW."""
        size = self._preset.packs_per_step
        packs = range(index * size, (index + 1) * size)
        rows = [_row(self._preset, self._data, pack)._replace(ties=self.ties) for pack in packs]
        num_labels = sum(int((row.labels >= 0).sum()) for row in rows)
        total = 0.0
        for pack, row in zip(packs, rows, strict=True):
            if self._routes is not None:
                self.ties.begin(self._routes.of_pack(pack))
            loss = loss_sum(self._preset.model, self.weights, row)
            total += float(loss.detach())
            (loss / max(1, num_labels)).backward()
        gradients = {name: w.grad for name, w in self.weights.items() if w.grad is not None}
        norm = math.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
        self._update(index, num_steps, gradients, norm)
        return OracleStep(total, num_labels, norm, gradients)

    def _update(self, index: int, num_steps: int, gradients: dict[str, Tensor], norm: float) -> None:
        """AdamW with decoupled weight decay on clipped gradients; clears them."""
        training = self._preset.training
        scale = min(1.0, training.clip_norm / (norm + _EPS_CLIP))
        lr, count = _rate(self._preset, index, num_steps), index + 1
        with torch.no_grad():
            for name, raw in gradients.items():
                gradient, weight = raw * scale, self.weights[name]
                first, second = self._first[name], self._second[name]
                first += (1 - training.beta1) * (gradient - first)
                second += (1 - training.beta2) * (gradient * gradient - second)
                corrected = second.sqrt() / math.sqrt(1 - training.beta2**count) + _EPS_ADAM
                weight -= lr * training.weight_decay * weight
                weight -= lr * (first / (1 - training.beta1**count)) / corrected
                weight.grad = None


def _row(preset: Preset, data: PackedDataset, index: int) -> PackRow:
    """One pack, from the packed arrays alone."""
    masked = preset.workload.document_mask
    tokens, labels, num_tokens, starts = pack_arrays(data, index % data.num_packs, masked)
    place = torch.arange(len(tokens))
    borders = sorted({0, *starts, num_tokens}) if masked else [0]
    document = torch.zeros_like(place)
    for border in borders[1:]:
        document += place >= border
    begin = torch.tensor(borders)[document.clamp(max=len(borders) - 1)]
    causal = place[:, None] >= place[None, :]
    same = document[:, None] == document[None, :]
    return PackRow(torch.from_numpy(tokens), torch.from_numpy(labels), place - begin, causal & same)


def _rate(preset: Preset, index: int, num_steps: int) -> float:
    """Learning rate of a step: a linear rise over the warm-up's steps, then half a cosine down to 0."""
    rise = max(1, round(preset.training.lr_warmup_ratio * num_steps))
    if index < rise:
        return preset.training.lr * (index + 1) / rise
    gone = min(1.0, (index - rise) / max(1, num_steps - rise))
    return preset.training.lr * (1 + math.cos(gone * math.pi)) / 2
