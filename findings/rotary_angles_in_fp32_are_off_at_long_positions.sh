#!/usr/bin/env bash
# Rotary angles, forced to fp32 for precision, are off by hundredths of a radian at position 1,000,000.
#
# Expected: transformers computes rotary embeddings in fp32 outside of autocast, so that a pair of tokens is
#           turned by its distance alone, to about 1e-7, wherever it stands in a sequence.
# Happens:  the angle is fp32(position) · fp32(frequency), and near 10^6 fp32 numbers are 0.0625 apart. Angles are off
#           by 0.06 rad at 1,000,000 and by 0.009 at 131,072, where rounding a cosine to bf16 adds 0.002, and two
#           neighbours there are not turned against each other as two at the start are. Angles in fp64, whose
#           cosines are rounded at the end, are right to 1e-7.
# Versions: transformers 5.24.0, torch 2.13.0 (CPU), Python 3.11. Seen 2026-11-29.
# Output:
#   position       512: an angle is off by 3.6e-05, one to its neighbour by 2.9e-05
#   position   131,072: an angle is off by 9.4e-03, one to its neighbour by 7.7e-03
#   position 1,000,000: an angle is off by 6.3e-02, one to its neighbour by 5.6e-02
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 transformers==5.24.0
OMP_NUM_THREADS=1 env/bin/python -W ignore - <<'PY'
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

THETA, DIM = 1e6, 128
config = LlamaConfig(
    hidden_size=DIM, num_attention_heads=1, max_position_embeddings=1 << 20, rope_theta=THETA
)
config.rope_parameters = {"rope_type": "default", "rope_theta": THETA}
rotary = LlamaRotaryEmbedding(config)
frequencies = THETA ** (-torch.arange(DIM // 2).double() / (DIM // 2))


def angles(position: int) -> torch.Tensor:
    cos, sin = rotary(torch.zeros(1), torch.tensor([[position]]))
    return torch.atan2(sin, cos)[0, 0, : DIM // 2].double()


def off(found: torch.Tensor, right: torch.Tensor) -> float:
    gap = (found - right + torch.pi) % (2 * torch.pi) - torch.pi
    return float(gap.abs().max())


for position, least, most in ((512, 0, 1e-4), (131_072, 2e-3, 2e-2), (1_000_000, 1e-2, 2e-1)):
    last = range(position - 64, position)
    angle = max(off(angles(p), p * frequencies) for p in last)
    between = max(off(angles(p) - angles(p - 1), frequencies) for p in last)
    print(f"position {position:9,d}: an angle is off by {angle:.1e}, one to its neighbour by {between:.1e}")
    assert least <= angle < most, angle
right = torch.tensor(999_999.0).double() * frequencies
assert float((right.cos().float().double() - right.cos()).abs().max()) < 1e-7
PY
