#!/usr/bin/env bash
# LLaMA-Factory's release installs the one release of transformers in which flash-attn cannot be called.
#
# Expected: pip install llamafactory==0.9.5 and flash_attn: fa2 train any Llama, as the upper bound of a tested range.
# Happens:  the range of 0.9.5 ends at transformers 5.6.0, so pip takes that one; its flash_attention_forward converts
#           attention sinks whether a model has any or not, and the first forward ends in "'NoneType' object has no
#           attribute 'to'". 5.5.4 and 5.6.1 ask first. pip install "transformers!=5.6.0" beside it mends it.
# Versions: llamafactory 0.9.5, transformers 5.6.0 and 5.5.4, torch 2.13.0, Python 3.11. Seen 2026-11-29.
# Output:
#   llamafactory 0.9.5 asks for transformers!=4.52.0,!=4.57.0,<=5.6.0,>=4.55.0
#   transformers 5.5.4: kernel called
#   transformers 5.6.0: AttributeError, 'NoneType' object has no attribute 'to'
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy transformers==5.5.4
env/bin/python -m pip install --quiet --no-deps llamafactory==0.9.5
env/bin/python - <<'PY'
from importlib.metadata import requires

from packaging.requirements import Requirement

asked = {r.name: r.specifier for r in map(Requirement, requires("llamafactory"))}["transformers"]
print("llamafactory 0.9.5 asks for transformers" + ",".join(sorted(map(str, asked))))
assert "5.6.0" in asked and "5.6.1" not in asked
PY
cat > call.py <<'PY'
import torch
import transformers
from transformers.integrations import flash_attention


class Layer(torch.nn.Module):
    is_causal, config = True, transformers.LlamaConfig()


flash_attention._flash_attention_forward = lambda *_, **__: "kernel called"
heads = torch.zeros(1, 2, 8, 4, dtype=torch.bfloat16)  # batch, heads, tokens, size
try:
    said, _ = flash_attention.flash_attention_forward(Layer(), heads, heads, heads, None)
except AttributeError as error:
    said = f"AttributeError, {error}"
print(f"transformers {transformers.__version__}: {said}")
PY
env/bin/python -W ignore call.py 2> log | tee of_5_5_4
env/bin/python -m pip install --quiet --no-deps transformers==5.6.0
env/bin/python -W ignore call.py 2> log | tee of_5_6_0
grep -q "kernel called" of_5_5_4
grep -q "'NoneType' object has no attribute 'to'" of_5_6_0
