"""The parameters of a whole layer, side by side in a flat one: what a layer has, they say."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NEEDED = {
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
}
"""What every whole layer has, in the order in which the flat parameter holds it."""
POSSIBLE = {
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
    "o_bias": "self_attn.o_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
}
"""What some have behind it: biases, and norms of every query's and every key's head."""


class LayerWeights(NamedTuple):
    """Views of a flat parameter, or of its gradient."""

    flat: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor
    norm: Tensor
    mlp_norm: Tensor
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    o_bias: Tensor | None = None
    q_norm: Tensor | None = None
    k_norm: Tensor | None = None

    def rows(self, first: Tensor, last: Tensor) -> Tensor:
        """The weights from one to another, which have as many columns, as one matrix."""
        begin, end = self._ends(first, last)
        return self.flat[begin:end].view(-1, first.shape[1])

    def biases(self, first: Tensor | None, last: Tensor | None) -> Tensor | None:
        """The biases from one to another as one vector; None where there are none."""
        if first is None or last is None:
            return None
        begin, end = self._ends(first, last)
        return self.flat[begin:end]

    def _ends(self, first: Tensor, last: Tensor) -> tuple[int, int]:
        begin, end = (int(x.storage_offset() - self.flat.storage_offset()) for x in (first, last))
        return begin, end + last.numel()


def parts_of(names: set[str]) -> dict[str, str]:
    """Fields and names of a layer's parameters in the flat one's order; AssertionError for an unknown one."""
    parts = NEEDED | {field: name for field, name in POSSIBLE.items() if name in names}
    assert names == set(parts.values()), names ^ set(parts.values())
    return parts
