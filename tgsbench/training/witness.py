"""What a rank does in a step of any run, seen where it happens and not told by the code that trains.

Token ids are read where they enter the model, collectives where they enter the process group, and weights
before and after the optimizer; what they are held against comes from the packed data alone. A step's clock
does not run meanwhile, but for a sum over the ids of each micro-step.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tgsbench.metrics.packs import packs_of_step
from tgsbench.schema.events import FirstStep
from tgsbench.schema.preset import Preset
from tgsbench.training.engines.base import Engine
from tgsbench.training.parallel.mesh import SequenceMesh
from tgsbench.training.parallel.traffic import TRAFFIC, Kind, Sent
from tgsbench.workload import PackedDataset, checksum
from tgsbench.workload.documents import Int64, tokens_of
from tgsbench.workload.sharding import MODULUS
from tgsbench.workload.zigzag import layout_of

_BLOCK = 2**15
"""Positions that are weighed together: 2^15 · 2^15 · a token id stays below 2^63."""
_SAMPLE = 256
"""Numbers of each weight that are looked at before and after a step."""


class Seen(NamedTuple):
    """What one rank saw in one optimizer step; `pack_…` only on the first rank of each sp group."""

    checksum: int
    """Of the ids that entered the model, each weighed by its place in its pack."""
    sent: Mapping[Kind, Sent]
    update: float | None
    """Median absolute change of a sample of this rank's master weights; None where it owns none of them.

    Not the mean: experts that no token was sent to have no gradient.
    """
    pack_tokens: int
    pack_checksum: int
    pack_digest: int


class Witness:
    """Looks on at one rank's steps."""

    def __init__(self, preset: Preset, mesh: SequenceMesh, data: PackedDataset, engine: Engine) -> None:
        self._preset, self._mesh, self._data, self._engine = preset, mesh, data, engine
        self._pieces = layout_of(preset).pieces(mesh.sp_rank)
        self._sums: Tensor | None = None
        self._weights: list[Tensor | None] = []
        """Of each layer that is looked at, a sample before the step; the first step moves all of them."""
        self._is_first = True
        self._first_updates: list[float | None] = []
        self._gradients: list[Tensor | None] = []
        """A sample of the sum after each micro-step of the first step."""
        engine.embedding().register_forward_pre_hook(self._look)

    def begin_step(self) -> None:
        """What comes now belongs to the next step."""
        TRAFFIC.take()
        num_layers = self._preset.model.num_layers if self._is_first else 1
        self._sums, self._weights = None, [self._sample(layer) for layer in range(num_layers)]

    def end_micro_step(self) -> None:
        """A micro-step is done; those of the first step must each add to the gradients."""
        if self._is_first:
            parts = [part.flatten()[:_SAMPLE] for part in self._engine.own_gradients()]
            self._gradients.append(torch.cat(parts).double() if parts else None)

    def end_step(self, step: int) -> Seen:
        """What step number `step` did, and what its packs demanded; waits for the device."""
        sent = TRAFFIC.take()
        demanded = _demanded(self._preset, self._mesh, self._data, step) if not self._mesh.sp_rank else _NONE
        updates = self._updates()
        if self._is_first:
            self._first_updates, self._is_first = updates, False
        return Seen(self._checksum(), sent, updates[0], *demanded)

    def first_step(self) -> FirstStep:
        """What the first step did, once it is over and before the second one begins."""
        per_step = self._preset.packs_per_step
        return FirstStep(
            num_labels=sum(map(self._data.num_labels, range(per_step))),
            updates=self._first_updates,
            added=_added(self._gradients),
            moments_squared=self._engine.moments_squared(),
        )

    def _look(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Add up the ids [B, s] in blocks, and once more weighed by their place in the block: [2, blocks]."""
        with torch.no_grad():
            ids = args[0].detach() + 1
            # Its own length too: a fault may feed fewer ids, and must be told, not end the run.
            block = math.gcd(ids.shape[-1], *map(len, self._pieces), _BLOCK)
            blocks = ids.reshape(-1, ids.shape[-1] // block, block)
            places = torch.arange(1, block + 1, device=ids.device)
            sums = torch.stack([blocks.sum(dim=(0, 2)), (blocks * places).sum(dim=(0, 2))])
        self._sums = sums if self._sums is None else self._sums + sums

    def _checksum(self) -> int:
        """`workload.checksum` of all rows that entered the model on this rank."""
        if self._sums is None:
            return 0
        plain, weighed = self._sums.tolist()
        block = sum(map(len, self._pieces)) // len(plain)
        begins = [begin for piece in self._pieces for begin in piece[::block]]
        if len(begins) != len(plain):
            return 0  # other ids than this rank's pieces hold: no pack adds up to it
        sums = zip(begins, plain, weighed, strict=True)
        total: int = sum(begin * p + w for begin, p, w in sums)
        return total % MODULUS

    def _sample(self, layer: int) -> Tensor | None:
        parts = [part.detach().flatten()[:_SAMPLE] for part in self._engine.own_masters(layer)]
        return torch.cat(parts) if parts else None

    def _updates(self) -> list[float | None]:
        before, self._weights = self._weights, []
        return [_median_change(sample, self._sample(layer)) for layer, sample in enumerate(before)]


def _added(sums: list[Tensor | None]) -> list[float | None]:
    """Norm of what each micro-step added to a sample of the gradients; nothing where one is not known."""
    known = [total for total in sums if total is not None]
    if not known or len(known) < len(sums):
        return []
    before = [torch.zeros_like(known[0]), *known]
    return [float(torch.linalg.vector_norm(b - a)) for a, b in zip(before, known, strict=False)]


def _median_change(before: Tensor | None, after: Tensor | None) -> float | None:
    if before is None or after is None or not after.numel():
        return None
    return float((after - before).abs().median())


_NONE = (0, 0, 0)


def _demanded(preset: Preset, mesh: SequenceMesh, data: PackedDataset, step: int) -> tuple[int, int, int]:
    """Real tokens, checksum and digest of the packs that this rank's dp group must train in a step."""
    num_tokens, total, digest = 0, 0, hashlib.blake2b(digest_size=7)
    for index in packs_of_step(preset, mesh.dp_rank, step):
        begin, ids = pack_ids(data, index % data.num_packs)
        num_tokens += len(ids)
        ids = np.pad(ids, (0, data.seq_len - len(ids)))
        total += checksum(ids, 0)
        digest.update(begin.to_bytes(8, "little") + ids.tobytes())
    return num_tokens, total % MODULUS, int.from_bytes(digest.digest(), "little")


def pack_ids(data: PackedDataset, index: int) -> tuple[int, Int64]:
    """Where pack `index` of an epoch begins in the token stream, and its real tokens."""
    begin, end = int(data.bounds.starts[index]), int(data.bounds.ends[index])
    return begin, tokens_of(np.asarray(data.stream.coded[begin:end])).astype(np.int64)
