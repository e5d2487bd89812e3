"""A transformers model from a shape alone: no hub, no weights file, built on the meta device."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from transformers.initialization import no_init_weights

from tgsbench.models.registry import find_family
from tgsbench.schema.preset import EngineOptions, ModelShape
from tgsbench.training.model import experts
from tgsbench.training.model.builder import ModelBuilder, find_builder
from tgsbench.training.model.experts import expert_group_of
from tgsbench.training.model.loss import LossHead
from tgsbench.training.model.whole_layer import WholeLayer

_INIT_STD = 0.02
_TORCH_CODE = EngineOptions()


class CausalLM(nn.Module):
    """Decoder and loss head; its forward gives the sum of token losses."""

    def __init__(
        self,
        builder: ModelBuilder,
        config: Any,
        loss_chunk_tokens: int,
        engine: EngineOptions = _TORCH_CODE,
    ) -> None:
        super().__init__()
        self.builder = builder
        self.model: Any = builder.decoder(config)
        self.fused = builder.fuse(self.model, engine)
        """Whose norms, RoPE and SwiGLU run."""
        self.head = LossHead(config.hidden_size, config.vocab_size, loss_chunk_tokens, engine.liger)
        if engine.sequence_chunks > 1 and loss_chunk_tokens:
            self.head.take_over(self.model.norm)
        if config.tie_word_embeddings:
            self.head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids: Tensor, position_ids: Tensor, labels: Tensor) -> Tensor:
        """input_ids, position_ids, labels [B, s] -> sum of token losses, fp32 scalar."""
        hidden = self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False)
        loss: Tensor = self.head(hidden.last_hidden_state, labels)
        return loss

    def restore_buffers(self, device: torch.device) -> None:
        """Compute on `device` what is no parameter: rotary frequencies, in fp32."""
        with torch.device(device):
            self.builder.restore_buffers(self.model)


def decoder_config(shape: ModelShape, seq_len: int, attn_implementation: str) -> Any:
    """The transformers configuration of a shape, long enough for `seq_len` positions."""
    settings = find_family(shape.family).config(shape, seq_len)
    settings |= {"attn_implementation": attn_implementation}
    if shape.experts is not None:
        settings |= {"experts_implementation": experts.NAME}
    return find_builder(shape.family).config(settings)


def build(
    shape: ModelShape,
    seq_len: int,
    attn_implementation: str,
    loss_chunk_tokens: int,
    engine: EngineOptions = _TORCH_CODE,
) -> CausalLM:
    """Build the model in fp32 on torch's default device, its weights unset."""
    config = decoder_config(shape, seq_len, attn_implementation)
    with no_init_weights():
        return CausalLM(find_builder(shape.family), config, loss_chunk_tokens, engine)


def build_meta(
    shape: ModelShape,
    seq_len: int,
    attn_implementation: str,
    loss_chunk_tokens: int,
    engine: EngineOptions = _TORCH_CODE,
) -> CausalLM:
    """Build the model in fp32 on the meta device: shapes only, no memory."""
    with torch.device("meta"):
        return build(shape, seq_len, attn_implementation, loss_chunk_tokens, engine)


def materialise(
    model: CausalLM, device: torch.device, seed: int, empty: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Give a (sharded) meta model memory and seeded weights that depend on names and shapes only.

    Every rank draws whole parameters one at a time and keeps its shard, so the same model comes out of
    every mesh and every engine, and no collective runs. `empty`: makes a parameter's or buffer's memory where
    that is not the device; parameters are drawn on the device all the same, and so are the same.
    """
    if empty is None:
        model.to_empty(device=device)
    else:
        model._apply(empty)  # type: ignore[no-untyped-call]  # as to_empty does it
    model.restore_buffers(device)  # they are computed, not stored, so to_empty loses them
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if layer := whole_layer_of(model, name):
                _fill_flat(parameter, layer, plain_name(name), seed, model.builder.norm_value, device)
            else:
                part = part_of(model, name)
                fill(parameter, plain_name(name), seed, device, model.builder.norm_value, *part)


def part_of(model: nn.Module, name: str) -> tuple[int, int]:
    """Which part of how many this rank has of a parameter: those of experts are shared out."""
    group = expert_group_of(model.get_submodule(name.rpartition(".")[0]))
    return (0, 1) if group is None else (group.rank(), group.size())


def whole_layer_of(model: nn.Module, name: str) -> WholeLayer | None:
    """The layer whose flat parameter has this name in the model; None for any other parameter."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner) if leaf == "flat" else None
    return module if isinstance(module, WholeLayer) else None


def plain_parts(model: nn.Module, name: str, whole: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A whole parameter, or its gradient, under its plain name; a flat one in its parts under theirs."""
    layer = whole_layer_of(model, name)
    if layer is None:
        yield plain_name(name), whole
        return
    owner = plain_name(name).removesuffix("flat")
    yield from ((owner + part, view) for part, view in layer.parts(whole))


def _fill_flat(
    flat: Tensor, layer: WholeLayer, name: str, seed: int, norm_value: float, device: torch.device
) -> None:
    """Overwrite a flat parameter, or its shard, with the initial values of its parts."""
    target = flat._local_tensor if isinstance(flat, DTensor) else flat
    first = _shard_start(flat) if isinstance(flat, DTensor) else 0
    begin, owner = 0, name.removesuffix("flat")
    for part, shape in layer.part_shapes():
        end = begin + shape.numel()
        own = slice(max(begin, first), min(end, first + len(target)))
        if own.start < own.stop:
            into = target[own.start - first : own.stop - first]
            if is_norm(part):
                into.fill_(norm_value)
            else:
                whole = draw(owner + part, shape, seed, device).flatten()
                into.copy_(whole[own.start - begin : own.stop - begin])
        begin = end


def plain_name(name: str) -> str:
    """A parameter's name without what checkpoint wrappers put into it."""
    return name.replace("_checkpoint_wrapped_module.", "")


def fill(
    parameter: Tensor,
    name: str,
    seed: int,
    device: torch.device,
    norm_value: float = 1.0,
    part: int = 0,
    num_parts: int = 1,
) -> None:
    """Overwrite one parameter (or its DTensor shard) with its seeded initial value, drawn on `device`.

    It is part number `part` of `num_parts` along the first dimension.
    """
    target = parameter._local_tensor if isinstance(parameter, DTensor) else parameter
    if is_norm(name):
        target.fill_(norm_value)
        return
    rows, *rest = parameter.shape
    whole = draw(name, torch.Size([rows * num_parts, *rest]), seed, device).narrow(0, part * rows, rows)
    if isinstance(parameter, DTensor):
        dim = shard_dim(parameter)
        whole = whole.narrow(dim, _shard_start(parameter), target.shape[dim])
    target.copy_(whole)


def is_norm(name: str) -> bool:
    """Is it the weight of a norm? Biases and sinks are drawn like matrices: lost ones would not show at 0."""
    return name.endswith("norm.weight")


def draw(name: str, shape: torch.Size, seed: int, device: torch.device) -> Tensor:
    """A parameter's whole initial value: normal, std 0.02, from a generator seeded by run seed and name.

    Both are mixed into 32 bits: a CPU generator keeps the low 32 of its seed alone (torch 2.13), so that
    seed * 2**32 + crc32(name) drew the same weights for every run seed.
    """
    generator = torch.Generator(device).manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    return torch.empty(shape, device=device).normal_(0.0, _INIT_STD, generator=generator)


def shard_dim(parameter: DTensor) -> int:
    """The dimension that FSDP2 cuts, over the last dimension of its mesh."""
    placement = parameter.placements[-1]
    return placement.dim if isinstance(placement, Shard) else 0


def _shard_start(parameter: DTensor) -> int:
    """Where this rank's shard begins; FSDP2 cuts as torch.chunk does."""
    mesh, size = parameter.device_mesh, parameter.shape[shard_dim(parameter)]
    last = mesh.ndim - 1
    rows = -(-size // mesh.size(last))
    return min(rows * mesh.get_local_rank(last), size)
