"""The parameters of a whole layer, side by side in a flat one."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

PARTS = (
    "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
    "self_attn.o_proj.weight", "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight",
    "input_layernorm.weight", "post_attention_layernorm.weight",
)  # fmt: skip
"""Parameters of a layer in the order in which the flat one holds them."""


class LayerWeights(NamedTuple):
    """Views of a flat parameter, or of its gradient."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    norm: Tensor
    mlp_norm: Tensor
    flat: Tensor

    def rows(self, first: Tensor, last: Tensor) -> Tensor:
        """The weights from one to another, which have as many columns, as one matrix."""
        begin = first.storage_offset() - self.flat.storage_offset()
        end = last.storage_offset() - self.flat.storage_offset() + last.numel()
        return self.flat[begin:end].view(-1, first.shape[1])
