"""Models for ZeRO: `deepspeed.zero.Init`, and the same seeded weights as in every other engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_grad, safe_set_full_fp32_param
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from tgsbench.engines.deepspeed.alst import TiledLossHead, tile_mlps
from tgsbench.models.build import CausalLM, build_meta, draw, llama_config, materialise, plain_name
from tgsbench.parallel.attention import NAME
from tgsbench.parallel.checkpointing import wrap_layer
from tgsbench.schema.preset import Preset


def build(preset: Preset, device: torch.device, zero: dict[str, Any]) -> CausalLM:
    """The model, checkpointed and tiled as the preset says; under ZeRO-3 every rank keeps only its part."""
    model = _partitioned(preset, zero) if preset.engine.zero_stage == 3 else _whole(preset, device)
    if preset.engine.tiled_loss:
        model.head.__class__ = TiledLossHead
    if preset.engine.tiled_mlp:
        tile_mlps(model)
    layers = model.model.layers
    for index, layer in enumerate(layers):
        layers[index] = wrap_layer(layer, preset.training.checkpointing)
    return model


def _whole(preset: Preset, device: torch.device) -> CausalLM:
    model = build_meta(preset.model, preset.workload.seq_len, NAME, preset.engine.loss_chunk_tokens)
    materialise(model, device, preset.training.seed)
    return model


def _partitioned(preset: Preset, zero: dict[str, Any]) -> CausalLM:
    dtype = getattr(torch, preset.training.compute_dtype)
    config = llama_config(preset.model, preset.workload.seq_len, NAME)
    with no_init_weights(), deepspeed.zero.Init(config_dict_or_path=zero, dtype=dtype):
        return CausalLM(config, preset.engine.loss_chunk_tokens)


def seed_weights(engine: Any, device: torch.device, seed: int) -> None:
    """Set every fp32 master weight, and the weights made from it, to its seeded value.

    Done after `deepspeed.initialize`: masters made from bf16 weights would differ from those of fsdp2 by
    a rounding. Every rank draws whole parameters one at a time; no collective runs.
    """
    with torch.no_grad():
        for name, parameter in engine.module.named_parameters():
            shape = getattr(parameter, "ds_shape", parameter.shape)
            safe_set_full_fp32_param(parameter, initial_value(plain_name(name), shape, seed, device))
    restore_rotary(engine.module, device)


def initial_value(name: str, shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    """A parameter's whole seeded value in fp32."""
    return torch.ones(shape, device=device) if len(shape) == 1 else draw(name, shape, seed, device)


def restore_rotary(model: CausalLM, device: torch.device) -> None:
    """Compute the rotary frequencies again in fp32.

    zero.Init rounds every new float tensor to bf16, theirs too: an error of 0.2 % is a whole turn at
    position 3,000 already.
    """
    with torch.device(device):
        model.model.rotary_emb = LlamaRotaryEmbedding(model.model.config)


def whole_gradients(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter's reduced gradient, whole, by plain name; all ranks must iterate."""
    for name, parameter in model.named_parameters():
        gradient = safe_get_full_grad(parameter)
        if gradient is not None:
            yield plain_name(name), gradient
