"""The DeepSpeed engine: ZeRO 1, 2 or 3, ALST or our fused all-to-all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn

from tgsbench.schema import spans
from tgsbench.schema.preset import Preset
from tgsbench.training.attention import attention, kernels
from tgsbench.training.attention.kernel_timing import kernel_shape_of
from tgsbench.training.engines.base import Batch, Note
from tgsbench.training.engines.deepspeed import alst, model, setup
from tgsbench.training.engines.deepspeed.config import deepspeed_config
from tgsbench.training.model.build import decoder_config
from tgsbench.training.parallel.mesh import SequenceMesh
from tgsbench.training.parallel.tracing import Mark, mlp_marks, span
from tgsbench.training.progress import PROGRESS, follow_layers


class DeepSpeedEngine:
    """Owns DeepSpeed's engine; see `engines.base.Engine`. One per process."""

    def __init__(self, preset: Preset, mesh: SequenceMesh, device: torch.device, note: Note) -> None:
        setup.claim_process()
        self.device = device
        self.mesh = mesh
        self.kernel = kernels.choose(
            preset.engine.kernel, device, preset.workload.document_mask, kernel_shape_of(preset)
        )
        by_alst = preset.attention == "alst" and mesh.sp > 1
        # Under ALST ours is the kernel inside it and exchanges nothing itself.
        group = None if by_alst or mesh.sp == 1 else mesh.sp_group
        self.attention = attention.UlyssesAttention(self.kernel, group)
        self.attention.register()
        self._positions = _alst(preset) if by_alst else None
        config = deepspeed_config(preset)
        note(f"building the model under ZeRO-{preset.engine.zero_stage}")
        module = model.build(preset, device, config)
        self.kernel = dataclasses.replace(self.kernel, reason=f"{self.kernel.reason}; {module.fused}")
        follow_layers(module.model.layers)
        self.engine, *_ = deepspeed.initialize(
            model=module, optimizer=_optimizer(module, preset), config=config
        )
        model.seed_masters(self.engine, device, preset.training.seed)

    def forward_backward(self, batch: Batch, num_labels: int) -> Tensor:
        """Forward, loss, backward; ZeRO averages over ranks, hence the factor `world`."""
        self.attention.documents = batch.documents
        if self._positions is not None:
            self._positions.gather(batch.position_ids, self.mesh.sp_group)
        PROGRESS.enter("forward")
        with span(spans.FORWARD):
            loss_sum: Tensor = self.engine(batch.input_ids, batch.position_ids, batch.labels)
        PROGRESS.enter("backward")
        with span(spans.BACKWARD):
            self.engine.backward(loss_sum * (self.mesh.world / num_labels), scale_wrt_gas=False)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()
        return loss_sum.detach()

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Whole gradients by plain parameter name, once the last micro-step is done."""
        return model.whole_gradients(self.engine.module)

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Whole fp32 master weights by plain parameter name."""
        return model.whole_masters(self.engine.module)

    def embedding(self) -> nn.Module:
        """The module that takes token ids in."""
        embedding: nn.Module = self.engine.module.model.embed_tokens
        return embedding

    def own_masters(self, layer: int) -> Iterator[Tensor]:
        """What this rank's part of ZeRO holds of a layer's matrices."""
        return model.own_masters(self.engine.module.model.layers[layer])

    def own_gradients(self) -> Iterator[Tensor]:
        """Not told: ZeRO keeps them in buffers of its own."""
        return iter(())

    def moments_squared(self) -> float | None:
        """Not known: DeepSpeed's optimizers keep them in buffers of their own."""
        return None

    def optimizer_step(self, lr: float) -> Tensor:
        """Clip to clip_norm, AdamW, clear."""
        PROGRESS.enter("optimizer")
        with span(spans.OPTIMIZER):
            for group in self.engine.optimizer.param_groups:
                group["lr"] = lr
            self.engine.step()
        return torch.as_tensor(self.engine.get_global_grad_norm())

    def marks(self) -> list[Mark]:
        """DeepSpeed's collectives: ZeRO is the only user of those in its backend."""
        backend = deepspeed.comm.comm.cdb
        gathers = [Mark(backend, call, spans.SHARD_GATHER) for call in _GATHERS]
        scatters = [Mark(backend, call, spans.SHARD_SCATTER) for call in _SCATTERS]
        return gathers + scatters + mlp_marks(self.engine.module)


_GATHERS = ("all_gather_into_tensor", "all_gather", "all_gather_base", "all_gather_coalesced")
_SCATTERS = ("reduce_scatter_tensor", "reduce_scatter")


def _alst(preset: Preset) -> alst.PositionsOnce:
    return alst.register(decoder_config(preset.model, preset.workload.seq_len, attention.NAME), preset)


def _optimizer(module: Any, preset: Preset) -> torch.optim.Optimizer:
    training = preset.training
    options: dict[str, Any] = {
        "lr": training.lr,
        "betas": (training.beta1, training.beta2),
        "weight_decay": training.weight_decay,
    }
    if preset.engine.offload == "none":
        return torch.optim.AdamW(module.parameters(), fused=True, **options)
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(module.parameters(), adamw_mode=True, **options)
    return optimizer
