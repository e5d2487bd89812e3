#!/usr/bin/env bash
# Activation checkpointing without re-entrance does not run a layer's last product again.
#
# Expected: full activation checkpointing costs one more forward: 4 forwards of every product a step.
# Happens:  torch stops the recomputation once the last tensor that the backward needs is back. A layer that
#           ends in a linear (a decoder layer ends in down_proj) needs only that product's input, so the
#           product itself is never run again: 3.5 forwards for this MLP of two equal products, where the
#           re-entrant form takes 4. "Hardware FLOPs" that count 4 forwards say more than ran.
# Versions: torch 2.13.0 (CPU), Python 3.11. Seen 2026-11-28.
# Output:   forwards of both products a step: without checkpoint 3.0, re-entrant 4.0, without re-entrance 3.5
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

tokens, hidden, wide = 32, 64, 256
up, down = nn.Linear(hidden, wide, bias=False), nn.Linear(wide, hidden, bias=False)


def mlp(x: torch.Tensor) -> torch.Tensor:
    return x + down(F.silu(up(x)))


def forwards(use_reentrant: bool | None) -> float:
    x = torch.randn(tokens, hidden, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = mlp(x) if use_reentrant is None else checkpoint(mlp, x, use_reentrant=use_reentrant)
        y.sum().backward()
    return counter.get_total_flops() / (2 * 2 * tokens * hidden * wide)


plain, reentrant, without = forwards(None), forwards(True), forwards(False)
print(
    f"forwards of both products a step: without checkpoint {plain}, re-entrant {reentrant}, "
    f"without re-entrance {without}"
)
assert (plain, reentrant, without) == (3.0, 4.0, 3.5)
PY
