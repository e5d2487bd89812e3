#!/usr/bin/env bash
# transformers keeps packed documents apart only when the model is called with use_cache=False.
#
# Expected: position_ids that start again at 0 mark documents of a pack, so that no document sees another;
#           use_cache is a matter of generation and changes no number of a forward pass.
# Happens:  with the configuration's default (use_cache=True) the document mask is not built: changing the
#           first document moves the second one's hidden states, without a word. With use_cache=False it does
#           not. A training that forgets the flag trains and measures another attention.
# Versions: torch 2.13.0 (CPU), transformers 5.24.0 (Llama, sdpa), Python 3.11. Seen 2026-11-28.
# Output:   second document moved by 0.93 by default, by 0.0 with use_cache=False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 transformers==5.24.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from transformers import LlamaConfig, LlamaModel

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=4, max_position_embeddings=64, attn_implementation="sdpa",
)
model = LlamaModel(config).eval()
pack = torch.randint(0, 64, (1, 16))
changed = pack.clone()
changed[0, :8] = (changed[0, :8] + 1) % 64
positions = torch.cat([torch.arange(8), torch.arange(8)])[None]


def moved(**options: bool) -> float:
    hidden = [
        model(input_ids=ids, position_ids=positions, **options).last_hidden_state[0, 8:] for ids in (pack, changed)
    ]
    return (hidden[0] - hidden[1]).abs().max().item()


default, apart = moved(), moved(use_cache=False)
print(f"second document moved by {default:.2f} by default, by {apart} with use_cache=False")
assert default > 0.1 and apart == 0.0
PY
