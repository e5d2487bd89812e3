#!/usr/bin/env bash
# The gradient norm that clipping takes on a CPU is too low for large tensors, and the more so the larger.
#
# Expected: torch.nn.utils.clip_grad_norm_ returns the norm to fp32's precision, 1e-7, whatever the size of a
#           parameter: torch.sum adds in pairs, and stays there.
# Happens:  norms on a CPU (linalg.vector_norm, _foreach_norm, Tensor.norm) add squares one after another in
#           fp32: once the sum is large, what is added is rounded away. 0.4 M values come out 4e-6 too low,
#           3.7 M 7e-5, 29 M 1.6e-3, so gradients are clipped less than asked for, and a step cannot be compared
#           with the same step in fp64.
# Versions: torch 2.13.0 (CPU), Python 3.11. Seen 2026-11-28.
# Output:
#     393216 values: clip_grad_norm_ -3.2e-06, sqrt of the sum of squares -2.9e-08
#    3670016 values: clip_grad_norm_ -7.0e-05, sqrt of the sum of squares +1.1e-08
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
OMP_NUM_THREADS=1 env/bin/python -W ignore - <<'PY'
import torch

torch.manual_seed(0)


def gaps(size: int) -> tuple[float, float]:
    """Relative error of clip_grad_norm_, and of the same by torch.sum."""
    weight = torch.nn.Parameter(torch.zeros(size))
    weight.grad = torch.randn(size) * 1e-3
    right = float(weight.grad.double().norm())
    summed = float((weight.grad * weight.grad).sum().sqrt()) / right - 1
    return float(torch.nn.utils.clip_grad_norm_([weight], 1e9)) / right - 1, summed


for size, least in ((393_216, 2e-6), (3_670_016, 2e-5)):
    clipped, summed = gaps(size)
    print(f"{size:10d} values: clip_grad_norm_ {clipped:+.1e}, sqrt of the sum of squares {summed:+.1e}")
    assert clipped < -least
    assert abs(summed) < 2e-7
PY
