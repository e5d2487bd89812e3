"""The native engine: FSDP2 over dp × sp, fp32 sharded master weights, fused Ulysses attention."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor, Shard

from tgsbench.models.registry import find_family
from tgsbench.schema import spans
from tgsbench.schema.preset import Preset
from tgsbench.systems.fsdp_units import keeps_last_layer
from tgsbench.systems.whole_layers import head_parts, runs_whole_layers
from tgsbench.training.attention import attention, kernels
from tgsbench.training.attention.kernel_timing import kernel_shape_of
from tgsbench.training.attention.ring import Ring
from tgsbench.training.attention.time_ring import TimeRing
from tgsbench.training.clipping import by_mesh, clip_gradients
from tgsbench.training.engines.base import Batch, Engine, Note
from tgsbench.training.host_adamw import HostAdamW, local_part
from tgsbench.training.model.build import CausalLM, build_meta, materialise, part_of, plain_parts
from tgsbench.training.model.chunked_layer import ChunkedLayer
from tgsbench.training.model.experts import EXPERT_LOAD, expert_modules, share_out
from tgsbench.training.model.fp8 import require_fp8
from tgsbench.training.model.fp8_linear import use_products
from tgsbench.training.model.products import LayerProducts, fp8_products
from tgsbench.training.model.whole_layer import LayerOptions, WholeLayer
from tgsbench.training.parallel.checkpointing import wrap_layer
from tgsbench.training.parallel.mesh import ExpertMesh, SequenceMesh
from tgsbench.training.parallel.offload import HostOffload, PageLocked
from tgsbench.training.parallel.one_pool import share_memory
from tgsbench.training.parallel.tracing import Mark, mlp_marks, span
from tgsbench.training.parallel.traffic import TRAFFIC
from tgsbench.training.progress import PROGRESS, follow_layers
from tgsbench.workload.zigzag import layout_of


class Fsdp2Engine:
    """Owns the sharded model and its optimizer; see `engines.base.Engine`."""

    def __init__(self, preset: Preset, mesh: SequenceMesh, device: torch.device) -> None:
        self.device = device
        self.mesh = mesh
        self.clip_norm = preset.training.clip_norm
        self.compiled = preset.engine.compile
        self._steps = _MicroSteps(preset, mesh)
        self.kernel = _kernel(preset, mesh, device)
        trades_heads = mesh.sp_group.size() > 1
        self.attention = attention.UlyssesAttention(self.kernel, mesh.sp_group if trades_heads else None)
        self.attention.register()
        self.whole_layers = runs_whole_layers(preset)
        self.model = _sharded_model(preset, mesh, device, self.attention)
        follow_layers(self.model.model.layers)
        reason = f"{self.kernel.reason}; {self.model.fused}"
        if preset.model.experts is not None:
            EXPERT_LOAD.is_uniform = preset.training.routing == "uniform"
            over = f" over {preset.parallel.ep} ranks" if mesh.experts else ""
            reason += f"; experts by grouped products{over}, {preset.training.routing} routing"
        if mesh.experts is not None:
            TRAFFIC.tell_apart(mesh.experts.group, "experts")
        if mesh.kv_hops is not None:
            TRAFFIC.tell_apart(mesh.kv_hops.between, "kv_hops")
        if mesh.has_copies:
            TRAFFIC.tell_apart(mesh.fsdp.get_group("copies"), "copies")
        if preset.linear:
            reason += f"; {preset.linear} products of projections" + " emulated" * (device.type == "cpu")
        self.kernel = dataclasses.replace(self.kernel, reason=reason)
        self._locked = _materialise(self.model, preset, device)
        self.optimizer = _optimizer(self.model, preset, device)

    def forward_backward(self, batch: Batch, num_labels: int) -> Tensor:
        """Forward, chunked loss, backward; FSDP averages over ranks, hence the factor `world`."""
        self.attention.documents = batch.documents
        self._steps.begin(self.model)
        PROGRESS.enter("forward")
        with span(spans.FORWARD):
            loss_sum: Tensor = self.model(batch.input_ids, batch.position_ids, batch.labels)
        PROGRESS.enter("backward")
        with span(spans.BACKWARD):
            (loss_sum * (self.mesh.world / num_labels)).backward()
        return loss_sum.detach()

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Whole gradients by plain parameter name."""
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                yield from plain_parts(self.model, name, self._whole(name, parameter.grad))

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Whole fp32 master weights by plain parameter name."""
        for name, parameter in self.model.named_parameters():
            yield from plain_parts(self.model, name, self._whole(name, parameter.detach()))

    def _whole(self, name: str, tensor: Tensor) -> Tensor:
        """A sharded tensor; parts of those that are shared out one after the other."""
        here: Any = tensor.to(self.device)
        whole: Tensor = here.full_tensor() if isinstance(here, DTensor) else here
        _, num_parts = part_of(self.model, name)
        if num_parts == 1 or self.mesh.experts is None:
            return whole
        parts = [torch.empty_like(whole) for _ in range(num_parts)]
        dist.all_gather(parts, whole.contiguous(), group=self.mesh.experts.group)
        return torch.cat(parts)

    def embedding(self) -> nn.Module:
        """The module that takes token ids in."""
        embedding: nn.Module = self.model.model.embed_tokens
        return embedding

    def own_masters(self, layer: int) -> Iterator[Tensor]:
        """This rank's shards of a layer's matrices."""
        for parameter in self.model.model.layers[layer].parameters():
            if parameter.dim() > 1 or self.whole_layers:
                yield parameter.to_local() if isinstance(parameter, DTensor) else parameter

    def own_gradients(self) -> Iterator[Tensor]:
        """This rank's shards, where every micro-step adds to them."""
        for parameter in self.model.model.layers[0].parameters():
            if isinstance(parameter.grad, DTensor):
                yield parameter.grad.to_local()

    def moments_squared(self) -> float | None:
        """Of this rank's shards; None where there are copies, and of experts that are shared out."""
        is_whole = not all(isinstance(parameter, DTensor) for parameter in self.optimizer.state)
        if self.mesh.has_copies or self.mesh.experts is not None or is_whole:
            return None
        own = (local_part(state["exp_avg"]).to(self.device) for state in self.optimizer.state.values())
        return sum(float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2 for part in own)

    def optimizer_step(self, lr: float) -> Tensor:
        """Clip to clip_norm, AdamW, clear."""
        PROGRESS.enter("optimizer")
        self._steps.num_done = 0
        with span(spans.OPTIMIZER):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            norm = self._clip()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _clip(self) -> Tensor:
        optimizer = self.optimizer
        if isinstance(optimizer, HostAdamW) and optimizer.all_away:
            return optimizer.clip(self.clip_norm, self.mesh.experts)
        return clip_gradients(self.model.parameters(), self.clip_norm, self.mesh.experts)

    def marks(self) -> list[Mark]:
        """FSDP's collectives by their names before and after torch 2.13; a compiled layer stays whole."""
        gathers = [Mark(dist, f"all_gather_{end}", spans.SHARD_GATHER) for end in ("into_tensor", "single")]
        scatters = [Mark(dist, f"reduce_scatter_{end}", spans.SHARD_SCATTER) for end in ("tensor", "single")]
        return gathers + scatters + ([] if self.compiled else mlp_marks(self.model))


class _MicroSteps:
    """Tells FSDP which micro-step ends an accumulation, where less is done in the others.

    Copies sum their shards of the gradients in the last one alone; below ZeRO-3 parameters stay gathered from
    the first forward to the last backward, and under ZeRO-1 gradients stay whole until then.
    """

    def __init__(self, preset: Preset, mesh: SequenceMesh) -> None:
        self.num_done = 0
        self._stage, self._has_copies = preset.engine.zero_stage, mesh.has_copies
        self._accumulation = preset.accumulation

    def begin(self, model: nn.Module) -> None:
        """The next micro-step begins."""
        assert isinstance(model, FSDPModule)
        self.num_done += 1
        is_last = self.num_done >= self._accumulation
        if self._stage < 3:
            model.set_reshard_after_backward(is_last)
        if self._stage == 1:
            model.set_requires_gradient_sync(is_last)
        if self._has_copies:
            model.set_requires_all_reduce(is_last)


def build(preset: Preset, mesh: SequenceMesh, device: torch.device, note: Note) -> Engine:
    """Build it as `training.engines.build` asks; it is quick and has nothing to note."""
    return Fsdp2Engine(preset, mesh, device)


def _kernel(preset: Preset, mesh: SequenceMesh, device: torch.device) -> kernels.AttentionKernel:
    """What attends to the sequence with a share of the heads: one kernel, or a ring of them."""
    if (chunks := preset.engine.sequence_chunks) > 1:
        made = kernels.make("varlen" if device.type == "cuda" else "sdpa", device)
        reason = f"{chunks} chunks of the sequence by torch's flash attention, merged by log-sum-exp"
        return dataclasses.replace(made, reason=reason)
    if mesh.ring_group is not None:
        return Ring(mesh.ring_group, preset.workload.seq_len, device).kernel()
    masked = preset.workload.document_mask
    return kernels.choose(preset.engine.kernel, device, masked, kernel_shape_of(preset))


def _sharded_model(
    preset: Preset, mesh: SequenceMesh, device: torch.device, own: attention.UlyssesAttention
) -> CausalLM:
    engine = preset.engine
    model = build_meta(
        preset.model, preset.workload.seq_len, attention.NAME, engine.loss_chunk_tokens, engine
    )
    policy = MixedPrecisionPolicy(
        param_dtype=getattr(torch, preset.training.compute_dtype),
        reduce_dtype=getattr(torch, preset.reduce_dtype),
    )
    decoder, home = model.model, _home(preset, device)
    if mesh.experts is not None:
        share_out(decoder, mesh.experts.group)
        _shard_experts(decoder, mesh.world, mesh.experts, policy, home, engine.zero_stage == 3)
    cut = _cut_of(decoder, mesh.shard_group.size())
    shard = functools.partial(
        fully_shard, mesh=mesh.fsdp, mp_policy=policy, offload_policy=home, shard_placement_fn=cut
    )
    stash = HostOffload(preset.model.hidden_size, device) if engine.activation_offload else None
    products, time_ring = _products(preset, device), _time_ring(preset, device)
    parts, hops = head_parts(preset), mesh.kv_hops
    options = LayerOptions(decoder.config, own, engine.tiled_mlp, products, parts, hops)
    windows = find_family(preset.model.family).ring_windows(preset.model)
    for index, layer in enumerate(decoder.layers):
        if engine.compile:
            layer.compile()
        elif time_ring is not None:
            layer = ChunkedLayer(layer, options, time_ring, windows[index])
        elif runs_whole_layers(preset):
            layer = WholeLayer(layer, options, windows[index])
        elif preset.linear:
            use_products(layer, products)
        wrapped = wrap_layer(layer, preset.training.checkpointing, stash)
        decoder.layers[index] = wrapped
        is_kept = index == len(decoder.layers) - 1 and keeps_last_layer(preset)
        shard(wrapped, reshard_after_forward=engine.zero_stage == 3 and not is_kept)
    if not preset.model.tie_word_embeddings:
        shard(decoder.embed_tokens, reshard_after_forward=engine.zero_stage == 3)
        decoder.embed_tokens.set_unshard_in_backward(False)  # its gradient needs ids alone
        # The head is the last thing of the forward and the first of the backward: gather it once.
        shard([decoder.norm, model.head], reshard_after_forward=False)
    shard(model, reshard_after_forward=False)
    # Experts are gathered within a layer, and copies sum their shards on a stream of its own.
    if device.type == "cuda" and mesh.experts is None and not mesh.has_copies:
        in_order = (decoder.embed_tokens, *decoder.layers, decoder.norm)
        share_memory(model, [module for module in in_order if isinstance(module, FSDPModule)], device)
    return model


def _time_ring(preset: Preset, device: torch.device) -> TimeRing | None:
    """What the layers' chunks of the sequence attend by; None where each takes the whole one."""
    if preset.engine.sequence_chunks == 1:
        return None
    locked = PageLocked("keys and values of a chunk", "engine.sequence_chunks=1")
    return TimeRing(layout_of(preset), HostOffload(preset.model.hidden_size, device, locked), device)


def _home(preset: Preset, device: torch.device) -> OffloadPolicy:
    """Where FSDP keeps parameters and gradients; on a CPU they are on the host anyway."""
    is_away = preset.engine.offload == "all" and device.type == "cuda"
    return CPUOffloadPolicy() if is_away else OffloadPolicy()


def _shard_experts(
    decoder: nn.Module,
    world: int,
    mesh: ExpertMesh,
    policy: MixedPrecisionPolicy,
    home: OffloadPolicy,
    reshard: bool,
) -> None:
    """Shard experts over the ranks that hold the same ones; their gradients are of all ranks' tokens."""
    # Nothing is cast on the way in: the router's shares stay in fp32, as where all experts are on one rank.
    policy = dataclasses.replace(policy, cast_forward_inputs=False)
    ranks = mesh.shard.size()
    for module in expert_modules(decoder):
        cut = _cut_of(module, ranks)
        fully_shard(
            module,
            mesh=mesh.shard,
            mp_policy=policy,
            offload_policy=home,
            reshard_after_forward=reshard,
            shard_placement_fn=cut,
        )
        module.set_gradient_divide_factor(float(world))
        if ranks > 1:  # gloo has no sum with a factor; alone nothing is summed, and the factor is applied
            module.set_force_sum_reduction_for_comms(True)


def _cut_of(owner: nn.Module, ranks: int) -> Callable[[nn.Parameter], Shard | None]:
    """Where FSDP cuts: experts that are fewer than the ranks along their second dimension.

    Along the first it would pad them to one for each rank, and gather that.
    """
    of_experts = {id(p) for module in expert_modules(owner) for p in module.parameters(recurse=False)}

    def cut(parameter: nn.Parameter) -> Shard | None:
        is_few = id(parameter) in of_experts and parameter.shape[0] < ranks
        return Shard(1) if is_few and parameter.shape[1] % ranks == 0 else None

    return cut


def _products(preset: Preset, device: torch.device) -> LayerProducts:
    """How the layers multiply; raises TgsError on a GPU without FP8 where that is asked for."""
    if not preset.linear:
        return LayerProducts()
    require_fp8(device, preset.training.fp8_recipe)
    return fp8_products(preset.training.fp8_recipe)


def _materialise(model: CausalLM, preset: Preset, device: torch.device) -> PageLocked | None:
    """Give the model its memory and weights; what locks parameters that lie on the host."""
    if not isinstance(_home(preset, device), CPUOffloadPolicy):
        materialise(model, device, preset.training.seed)
        return None
    locked = PageLocked("parameters", "engine.offload=optimizer")

    def on_host(like: Tensor) -> Tensor:
        made = torch.empty_like(like, device="cpu")
        if isinstance(like, nn.Parameter) and (part := local_part(made)).numel():
            locked.lock(part)  # at once: what FSDP finds unlocked it copies into blocks of powers of two
        return made

    materialise(model, device, preset.training.seed, on_host)
    return locked


def _optimizer(model: nn.Module, preset: Preset, device: torch.device) -> torch.optim.AdamW:
    """AdamW with its states, so that they lie beside the parameters, or on the host.

    AdamW itself makes them in the first step, in the holes that a forward and backward left: what is between
    them then is too small for most tensors of later steps.
    """
    training = preset.training
    groups = [{"params": same_mesh} for same_mesh in by_mesh(model.parameters())]
    options: dict[str, Any] = {
        "lr": training.lr,
        "betas": (training.beta1, training.beta2),
        "weight_decay": training.weight_decay,
    }
    if preset.engine.offload != "none":
        return HostAdamW(groups, device, preset.engine.offload == "all", **options)
    optimizer = torch.optim.AdamW(groups, fused=True, **options)
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
