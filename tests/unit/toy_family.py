"""A made-up family as a third party would write it: a mixture of experts, and how transformers builds it."""

from __future__ import annotations

from typing import Any

from tgsbench.models.family import Weight
from tgsbench.models.llama import Llama
from tgsbench.schema.preset import ModelShape

EXPERTS, CHOSEN = 4, 2


class Toy(Llama):
    """Attention as in Llama; a router sends each token to two of four gated experts."""

    name = "toy"
    torch_module = "tests.unit.toy_family_torch"

    def mlp(self, shape: ModelShape) -> tuple[Weight, ...]:
        h, i = shape.hidden_size, shape.intermediate_size
        up = Weight(i, h, EXPERTS, CHOSEN)
        return Weight(EXPERTS, h), up, up, Weight(h, i, EXPERTS, CHOSEN)

    def config(self, shape: ModelShape, seq_len: int) -> dict[str, Any]:
        experts = {"num_local_experts": EXPERTS, "num_experts_per_tok": CHOSEN}
        named = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
        return super().config(shape, seq_len) | named | experts
