"""Models for ZeRO: `deepspeed.zero.Init`, and the same seeded weights as in every other engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import deepspeed
import msgspec
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_grad,
    safe_get_local_fp32_param,
    safe_set_full_fp32_param,
    safe_set_local_fp32_param,
)
from torch import Tensor, nn
from torch.nn import functional

from tgsbench.schema.preset import EngineOptions, Preset
from tgsbench.systems.engines.deepspeed import DeepSpeedOptions
from tgsbench.systems.spec import options_of
from tgsbench.training.attention.attention import NAME
from tgsbench.training.engines.deepspeed.alst import TiledLossHead, tile_mlps
from tgsbench.training.model.build import CausalLM, build_meta, draw, is_norm, materialise, plain_name
from tgsbench.training.model.build import build as build_unset
from tgsbench.training.parallel.checkpointing import wrap_layer
from tgsbench.training.parallel.offload import HostOffload

_KEPT_OPS = ("deepspeed::dim_zero_all_to_all",)
"""ALST's all-to-all: a selective checkpoint keeps what it received."""


def build(preset: Preset, device: torch.device, zero: dict[str, Any]) -> CausalLM:
    """The model, checkpointed and tiled as the preset says; under ZeRO-3 every rank keeps only its part."""
    # ALST's tiling instead of ours: it goes through the linear layers, whose weights ZeRO-3 gathers for them.
    options = msgspec.structs.replace(preset.engine, tiled_mlp=False)
    if options.zero_stage == 3:
        model = _partitioned(preset, options, zero)
        seed_parts(model, device, preset.training.seed)
    else:
        model = _whole(preset, options, device)
    if options_of(preset, DeepSpeedOptions).tiled_loss:
        model.head.__class__ = TiledLossHead
    if preset.engine.tiled_mlp:
        tile_mlps(model)
    stash = HostOffload(preset.model.hidden_size, device) if options.activation_offload else None
    layers = model.model.layers
    for index, layer in enumerate(layers):
        layers[index] = wrap_layer(layer, preset.training.checkpointing, stash, _KEPT_OPS)
    return model


def _whole(preset: Preset, options: EngineOptions, device: torch.device) -> CausalLM:
    model = build_meta(preset.model, preset.workload.seq_len, NAME, options.loss_chunk_tokens, options)
    materialise(model, device, preset.training.seed)
    return model


def _partitioned(preset: Preset, options: EngineOptions, zero: dict[str, Any]) -> CausalLM:
    # Its dtype argument is left out: on a CPU zero.Init takes any that is named for bf16 (0.19.8).
    with deepspeed.zero.Init(config_dict_or_path=zero):
        return build_unset(preset.model, preset.workload.seq_len, NAME, options.loss_chunk_tokens, options)


def seed_parts(model: CausalLM, device: torch.device, seed: int) -> None:
    """Give a model made under zero.Init its seeded weights: this rank's part of each, no collective."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            zero: Any = parameter  # what zero.Init hangs on a parameter has no types
            whole = initial_value(plain_name(name), zero.ds_shape, seed, device)
            zero.ds_tensor.copy_(_part(whole, zero.ds_tensor.numel()))
    restore_rotary(model, device)


def seed_masters(engine: Any, device: torch.device, seed: int) -> None:
    """Set the fp32 master weights to the seeded values themselves.

    DeepSpeed makes them from the bf16 weights, which differ by a rounding from the masters of fsdp2.
    """
    for name, parameter in engine.module.named_parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)
        whole = initial_value(plain_name(name), shape, seed, device)
        if hasattr(parameter, "ds_tensor"):
            safe_set_local_fp32_param(parameter, _part(whole, parameter.ds_tensor.numel()))
        else:
            safe_set_full_fp32_param(parameter, whole)


def initial_value(name: str, shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    """A parameter's whole seeded value in fp32."""
    return torch.ones(shape, device=device) if is_norm(name) else draw(name, shape, seed, device)


def _part(whole: Tensor, numel: int) -> Tensor:
    """This rank's part of a parameter as ZeRO-3 cuts it: flat, equal parts, the last one padded."""
    start = dist.get_rank() * numel
    part = whole.flatten()[start : start + numel]
    return functional.pad(part, (0, numel - len(part)))


def restore_rotary(model: CausalLM, device: torch.device) -> None:
    """Compute the rotary frequencies again in fp32.

    zero.Init rounds every new float tensor to bf16, theirs too: an error of 0.2 % is a whole turn at
    position 3,000 already.
    """
    model.restore_buffers(device)


def whole_gradients(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter's reduced gradient, whole, by plain name; all ranks must iterate."""
    for name, parameter in model.named_parameters():
        gradient = safe_get_full_grad(parameter)
        if gradient is not None:
            yield plain_name(name), gradient


def whole_masters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter's fp32 master weights, whole, by plain name; all ranks must iterate."""
    for name, parameter in model.named_parameters():
        master = safe_get_full_fp32_param(parameter)
        if master is not None:
            yield plain_name(name), master


def own_masters(module: nn.Module) -> Iterator[Tensor]:
    """This rank's parts of a module's matrices in fp32, flat; asks no other rank."""
    for parameter in module.parameters():
        zero: Any = parameter  # what ZeRO hangs on a parameter has no types
        if len(getattr(zero, "ds_shape", zero.shape)) < 2:
            continue
        if hasattr(zero, "ds_id"):
            part = safe_get_local_fp32_param(zero)
        else:
            part = zero._hp_mapping.get_hp_fragment() if zero._hp_mapping is not None else None
        if part is not None:
            yield part
