"""DeepSpeed's own Ulysses (`UlyssesSPAttentionHF`), counted, with its traps guarded."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace
from typing import Any

import deepspeed.comm
import torch
import torch.distributed as dist
from deepspeed.runtime.sequence_parallel import ulysses_sp
from torch import Tensor, nn
from torch.nn import functional

from tgsbench.schema import spans
from tgsbench.schema.preset import Preset
from tgsbench.training.attention.attention import NAME
from tgsbench.training.engines.deepspeed.tiles import num_tiles
from tgsbench.training.model.loss import IGNORE_INDEX, LossHead
from tgsbench.training.parallel.tracing import span


def register(config: Any, preset: Preset) -> PositionsOnce:
    """Put ALST around our attention function; returns what gathers its positions.

    ALST replaces the named entry of transformers' table for the whole process. The entry is our own
    NAME, whose kernel knows document boundaries, so "sdpa" and the others stay as they are.
    """
    _mark_all_to_alls()
    positions = PositionsOnce(deepspeed.comm)
    ulysses_sp.dist = positions
    ulysses_sp.UlyssesSPAttentionHF.register_with_transformers(
        model_name_or_path=SimpleNamespace(config=config),
        core_attn_implementation=NAME,
        sequence_parallel_size=preset.parallel.sp,
        micro_batch_size=preset.training.micro_batch,
        seq_length=preset.workload.seq_len,
        seq_length_is_variable=False,
    )
    return positions


def _mark_all_to_alls() -> None:
    """Give what ALST's operator sends its spans."""
    send = deepspeed.comm.all_to_all_single

    @functools.wraps(send)
    def marked(output: Tensor, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        # [p, s, B, heads, d] before attention, [p, s, B, h/p] after it.
        with span(spans.A2A_PRE if tensor.dim() == 5 else spans.A2A_POST):
            return send(output, tensor, *args, **kwargs)

    deepspeed.comm.all_to_all_single = marked


class PositionsOnce:
    """`deepspeed.comm` for ALST, whose every layer all-gathers the same `position_ids`.

    They are gathered once, before the layers of a micro-step: 120 to 270 µs on gloo, saved for every layer
    and its recomputation. Inside a layer only copies run, the same in a forward and in its recomputation,
    as a selective checkpoint demands.
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._positions: Tensor | None = None
        self._gathered: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def gather(self, positions: Tensor, group: dist.ProcessGroup) -> None:
        """Gather a micro-step's position_ids [B, s] from the ranks of its sequence."""
        gathered = [torch.empty_like(positions) for _ in range(group.size())]
        dist.all_gather(gathered, positions, group=group)
        self._positions, self._gathered = positions, gathered

    def all_gather(self, outputs: list[Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What ALST calls: copies for the positions gathered before, a collective for anything else."""
        if not self._is_gathered(tensor):
            return self._comm.all_gather(outputs, tensor, *args, **kwargs)
        for output, gathered in zip(outputs, self._gathered, strict=True):
            output.copy_(gathered)
        return None

    def _is_gathered(self, tensor: Tensor) -> bool:
        """ZeRO-3's hooks pass inputs through an autograd function: another object, the same memory."""
        known = self._positions
        return known is not None and known.data_ptr() == tensor.data_ptr() and known.shape == tensor.shape


def tile_mlps(model: nn.Module) -> None:
    """Make every MLP run in tiles of about h tokens (ALST's `TiledMLP`), without patching its class."""
    for layer in model.modules():
        if hasattr(layer, "gate_proj") and hasattr(layer, "down_proj"):
            layer.forward = functools.partial(_tiled_mlp, layer, layer.forward)


def _tiled_mlp(mlp: Any, whole: Any, x: Tensor) -> Tensor:
    tiles = num_tiles(x.shape[0] * x.shape[1], x.shape[2])
    weights = [mlp.down_proj.weight, mlp.gate_proj.weight, mlp.up_proj.weight]
    # compute_params=None raises TypeError in DeepSpeed 0.19, so the weights are always named.
    tiled: Tensor = ulysses_sp.TiledMLP.apply(lambda _, part: whole(part), mlp, x, tiles, weights)
    return tiled


class TiledLossHead(LossHead):
    """The loss head by ALST's `sequence_tiled_compute`: logits of one tile exist at once."""

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Sum of token losses in fp32; hidden [B, s, h], labels [B, s] already shifted."""
        shards = math.ceil(labels.shape[1] / self.chunk_tokens)
        with span(spans.LOSS):
            total: Tensor = ulysses_sp.sequence_tiled_compute(
                self._tile,
                labels.shape[1],
                shards,
                {"hidden": hidden, "labels": labels},
                {},
                "hidden",
                compute_params=[self.weight],
                output_unshard_dimension=0,
                output_reduction="sum",
            )
        return total

    def _tile(self, hidden: Tensor, labels: Tensor) -> Tensor:
        logits = functional.linear(hidden, self.weight).float()
        return functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )
