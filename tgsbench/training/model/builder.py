"""How transformers builds one family of models, and how its builder is found."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tgsbench.models.registry import find_family
from tgsbench.schema.preset import EngineOptions
from tgsbench.training.imports import many_imports
from tgsbench.training.model.fused_layers import FusingRules, fuse


class ModelBuilder(Protocol):
    """What the ranks ask of a family; see `models.family.ModelFamily` for the part without torch."""

    @property
    def norm_value(self) -> float:
        """What a norm's weight is at the start."""
        ...

    def config(self, settings: dict[str, Any]) -> Any:
        """The transformers configuration of a config.json."""
        ...

    def decoder(self, config: Any) -> Any:
        """A module with `embed_tokens`, `layers` and a last `norm`, without a head."""
        ...

    def fuse(self, decoder: nn.Module, engine: EngineOptions) -> str:
        """Swap layers for faster ones in place; says what runs. Raises TgsError for a missing package."""
        ...

    def restore_buffers(self, decoder: nn.Module) -> None:
        """Compute again what is no parameter, on torch's default device."""
        ...


@dataclass(frozen=True)
class TransformersBuilder:
    """A family that lies in one module of transformers and has rotary positions; see `ModelBuilder`."""

    config_class: Any
    decoder_class: Any
    rotary_class: Any
    norm_class: Any
    """Its RMSNorm; `weight` and `variance_epsilon` are all that a fused one uses; None: left as it is."""
    mlp_class: Any
    """Its SwiGLU of gate_proj, up_proj and down_proj; None where it has none."""
    module: ModuleType | None
    """Where its attention looks up `apply_rotary_pos_emb`; None: the family's is left."""
    norm_value: float = 1.0
    """What a norm's weight is at the start: 0 where it multiplies by 1 + weight."""

    @classmethod
    def of(
        cls, module: ModuleType, prefix: str, *, has_mlp: bool = True, turns_pairs: bool = False
    ) -> TransformersBuilder:
        """A family whose classes are called by one prefix, as nearly all are.

        `has_mlp`: are gate and up products of their own; `turns_pairs`: does RoPE turn neighbouring values.
        """
        config, decoder, rotary, norm = (
            getattr(module, prefix + name) for name in ("Config", "Model", "RotaryEmbedding", "RMSNorm")
        )
        mlp = getattr(module, prefix + "MLP") if has_mlp else None
        return cls(config, decoder, rotary, norm, mlp, None if turns_pairs else module)

    def config(self, settings: dict[str, Any]) -> Any:
        """An instance of config_class."""
        return self.config_class(**settings)

    def decoder(self, config: Any) -> Any:
        """An instance of decoder_class."""
        return self.decoder_class(config)

    def fuse(self, decoder: nn.Module, engine: EngineOptions) -> str:
        """Norms, MLPs and RoPE; raises TgsError when Liger is asked for and missing."""
        return fuse(decoder, engine, FusingRules(self.norm_class, self.mlp_class, self.module))

    def restore_buffers(self, decoder: nn.Module) -> None:
        """Rotary frequencies, a scale of the embedding, and what corrects a router's choice: 0."""
        decoder.rotary_emb = self.rotary_class(decoder.config)
        embedding: Any = decoder.embed_tokens
        if hasattr(embedding, "scalar_embed_scale"):
            embedding.embed_scale = torch.tensor(embedding.scalar_embed_scale)
        for module in decoder.modules():
            if isinstance(correction := getattr(module, "e_score_correction_bias", None), Tensor):
                module.e_score_correction_bias = torch.zeros(correction.shape)


def find_builder(family: str) -> ModelBuilder:
    """The builder of a family; raises TgsError for an unknown one."""
    name = find_family(family).torch_module
    with many_imports():
        module = importlib.import_module(name)
    builder: ModelBuilder = module.BUILDER
    return builder
