#!/usr/bin/env bash
# torch's FlopCounterMode sees the router alone of a mixture of experts as transformers runs it by default.
#
# Expected: the products of top-k experts are most of an MoE layer's FLOPs and are counted.
# Happens:  transformers 5 runs experts by a grouped product unless told otherwise, for which torch has no
#           formula: the layer counts 65,536 (its router) instead of 1,638,400. "eager" and "batched_mm", the
#           same mathematics, count in full. An MFU made from such a count is 25 times too low here.
# Versions: torch 2.13.0 (CPU), transformers 5.24.0, Python 3.11. Seen 2026-11-28.
# Output:   router 65536, experts 1572864; counted: default 65536, eager 1638400, batched_mm 1638400
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 transformers==5.24.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

tokens, hidden, expert, experts, top_k = 64, 64, 32, 8, 2


def counted(implementation: str | None) -> int:
    config = Qwen3MoeConfig(
        vocab_size=128, hidden_size=hidden, intermediate_size=128, moe_intermediate_size=expert,
        num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_experts=experts,
        num_experts_per_tok=top_k, max_position_embeddings=256, use_cache=False,
    )
    model = Qwen3MoeForCausalLM(config)
    if implementation:
        model.set_experts_implementation(implementation)
    with FlopCounterMode(model, display=False) as counter:
        model(input_ids=torch.arange(tokens).view(1, tokens))
    (layer,) = [name for name in counter.get_flop_counts() if name.endswith("mlp")]
    return sum(counter.get_flop_counts()[layer].values())


router, products = 2 * tokens * hidden * experts, 3 * 2 * tokens * top_k * hidden * expert
found = {name: counted(name) for name in (None, "eager", "batched_mm")}
print(
    f"router {router}, experts {products}; counted: default {found[None]}, eager {found['eager']}, "
    f"batched_mm {found['batched_mm']}"
)
assert found == {None: router, "eager": router + products, "batched_mm": router + products}
PY
