#!/usr/bin/env bash
# transformers' Trainer counts the FLOPs of all experts of a mixture, and none of an output head that is tied.
#
# Expected: `total_flos` is 6 x tokens x the parameters that a token meets, embeddings (a lookup) left out; an MFU that is
#   worked out from it is roughly right for any model of the library.
# Happens: 6 x tokens x num_parameters(exclude_embeddings=True). Of a mixture that is every expert, the routed ones and
#   the idle: 9.9 times too much for Qwen3-30B-A3B, an "MFU" of some hundred per cent. Of a model with tied embeddings the
#   shared weight goes out as an embedding, and with it the product of the output head, which is run at each token: 21 %
#   too little for Llama 3.2 1B, 30 % for Gemma 3 1B. Attention's own products are in neither.
# Versions: transformers 5.24.0, accelerate 1.15.0, torch 2.13.0 (CPU, shapes on the meta device), Python 3.11
# Date: 2026-11-29
# Output seen (per token; "met" are weights that a token is multiplied with, from the module list):
#   Qwen3-30B-A3B: total_flos 181.3e9, 6 x met 18.2e9, ratio 9.94
#   Llama-3.2-1B: total_flos 5.8e9, 6 x met 7.4e9, ratio 0.79
#   Gemma-3-1B: total_flos 4.2e9, 6 x met 6.0e9, ratio 0.70
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 2>/dev/null
cat > "$work/look.py" <<'PYTHON'
import torch
from transformers import (
    AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Qwen3MoeConfig, Trainer, TrainingArguments,
)

SHAPES = {
    "Qwen3-30B-A3B": Qwen3MoeConfig(
        hidden_size=2048, num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4, head_dim=128,
        vocab_size=151936, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768,
        intermediate_size=6144, tie_word_embeddings=False,
    ),
    "Llama-3.2-1B": LlamaConfig(
        hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
        vocab_size=128256, intermediate_size=8192, tie_word_embeddings=True,
    ),
    "Gemma-3-1B": Gemma3TextConfig(
        hidden_size=1152, num_hidden_layers=26, num_attention_heads=4, num_key_value_heads=1, head_dim=256,
        vocab_size=262144, intermediate_size=6912, tie_word_embeddings=True,
    ),
}


def met(model, shape):
    """Weights that a token is multiplied with: matrices, routed experts by their share, the head once."""
    share = getattr(shape, "num_experts_per_tok", 1) / getattr(shape, "num_experts", 1)
    total = 0.0
    for name, weight in model.named_parameters():
        if weight.dim() < 2 or "embed_tokens" in name:
            continue
        total += weight.numel() * (share if ".experts." in name else 1.0)
    return total + (shape.vocab_size * shape.hidden_size if shape.tie_word_embeddings else 0)


RATIOS = {}
for name, shape in SHAPES.items():
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    trainer = Trainer.__new__(Trainer)  # floating_point_ops needs the model alone; moving 30 billion weights does not help
    trainer.model = model
    counted = trainer.floating_point_ops({"input_ids": torch.zeros(1, 1, dtype=torch.long)})
    right = 6 * met(model, shape)
    RATIOS[name] = counted / right
    print(f"{name}: total_flos {counted / 1e9:.1f}e9, 6 x met {right / 1e9:.1f}e9, ratio {counted / right:.2f}")
assert RATIOS["Qwen3-30B-A3B"] > 9, "experts at rest are left out: the behaviour changed"
assert RATIOS["Llama-3.2-1B"] < 0.85 and RATIOS["Gemma-3-1B"] < 0.75, "a tied head is counted: the behaviour changed"
PYTHON
cd "$work"
HF_HUB_OFFLINE=1 "$work/env/bin/python" look.py 2>/dev/null
