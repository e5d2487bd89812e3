#!/usr/bin/env bash
# torch's FlopCounterMode counts attention on a CPU as nothing, and causal attention elsewhere in full.
#
# Expected: one count for one product, whichever kernel runs it; half of the square for is_causal=True.
# Happens:  the CPU flash operator has no formula, so QK and PV count 0; under the math back end, and on the
#           meta device, a causal call counts the whole square. The same model has three FLOPs per token, none
#           of them that of the causal half.
# Versions: torch 2.13.0 (CPU), Python 3.11. Seen 2026-11-28.
# Output:   square 16777216, causal half 8388608; counted: cpu flash 0, cpu math 16777216, meta 16777216
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
env/bin/python - <<'PY'
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

heads, tokens, head_dim = 4, 128, 64
square = 2 * 2 * heads * tokens * tokens * head_dim


def counted(device: str, backend: SDPBackend) -> int:
    q = torch.randn(1, heads, tokens, head_dim, device=device, requires_grad=True)
    with sdpa_kernel(backend), FlopCounterMode(display=False) as counter:
        F.scaled_dot_product_attention(q, q, q, is_causal=True)
    return counter.get_total_flops()


flash = counted("cpu", SDPBackend.FLASH_ATTENTION)
math = counted("cpu", SDPBackend.MATH)
meta = counted("meta", SDPBackend.FLASH_ATTENTION)
print(f"square {square}, causal half {square // 2}; counted: cpu flash {flash}, cpu math {math}, meta {meta}")
assert (flash, math, meta) == (0, square, square)
PY
