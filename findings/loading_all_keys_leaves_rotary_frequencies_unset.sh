#!/usr/bin/env bash
# A model built on the meta device and filled by a strict load_state_dict has garbage rotary frequencies.
#
# Expected: to_empty gives memory, load_state_dict says "All keys matched successfully", and the model computes
#           what the saved one computed.
# Happens:  the rotary embedding's inv_freq is a buffer that is not saved, so no key is missing and nothing
#           sets it: it keeps what lay in memory, and every position is encoded by it. No error, no warning;
#           FSDP's usual recipe (meta, to_empty, load) walks into it unless the module is made anew.
# Versions: torch 2.13.0 (CPU), transformers 5.24.0 (Llama), Python 3.11. Seen 2026-11-28.
# Output:   missing keys 0, unexpected keys 0, inv_freq in the state dict: False, as it should be: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 transformers==5.24.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from transformers import LlamaConfig, LlamaModel

config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=4,
)
saved = LlamaModel(config)
with torch.device("meta"):
    model = LlamaModel(config)
model.to_empty(device="cpu")
model.rotary_emb.inv_freq.fill_(12345.0)  # stands for whatever lay in that memory
keys = model.load_state_dict(saved.state_dict(), strict=True)
stored = any("inv_freq" in name for name in saved.state_dict())
right = torch.allclose(model.rotary_emb.inv_freq, saved.rotary_emb.inv_freq)
print(
    f"missing keys {len(keys.missing_keys)}, unexpected keys {len(keys.unexpected_keys)}, "
    f"inv_freq in the state dict: {stored}, as it should be: {right}"
)
assert not keys.missing_keys and not keys.unexpected_keys and not stored and not right
PY
