#!/usr/bin/env bash
# A grouped product in float32 runs on a CPU and is refused on fake tensors.
#
# Expected: what an operator computes on real tensors it can also be asked on fake ones: that is how shapes,
#           memory and FLOPs of a step are found without running it.
# Happens:  torch.nn.functional.grouped_mm multiplies float32 on a CPU, right to the last bits, while its rule
#           for fake tensors says "Expected inputs of BF16 type". A mixture of experts in float32 that trains
#           cannot be counted, traced or compiled ahead of time until it is in bfloat16.
# Versions: torch 2.13.0 (CPU), Python 3.11. Seen 2026-11-28.
# Output:   real float32: right within 1e-06; fake bfloat16: torch.Size([8, 8]); fake float32: Expected inputs
#           of BF16 type but got mat_a.dtype=torch.float32 and mat_b.dtype=torch.float32.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
env/bin/python -W ignore - <<'PY' 2>/dev/null
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import grouped_mm

torch.manual_seed(0)
rows, weights = torch.randn(8, 16), torch.randn(2, 16, 8)
offsets = torch.tensor([3, 8], dtype=torch.int32)
made = grouped_mm(rows, weights, offs=offsets)
right = torch.cat([rows[:3] @ weights[0], rows[3:] @ weights[1]])
gap = float((made - right).abs().max() / right.abs().max())
assert gap <= 1e-6, gap


def fake(dtype: torch.dtype) -> str:
    with FakeTensorMode():
        a = torch.empty(8, 16, dtype=dtype)
        b = torch.empty(2, 16, 8, dtype=dtype)
        try:
            return str(grouped_mm(a, b, offs=torch.empty(2, dtype=torch.int32)).shape)
        except RuntimeError as error:
            return str(error)


low, full = fake(torch.bfloat16), fake(torch.float32)
print(f"real float32: right within 1e-06; fake bfloat16: {low}; fake float32: {full}")
assert low == "torch.Size([8, 8])"
assert full.startswith("Expected inputs of BF16 type")
PY
