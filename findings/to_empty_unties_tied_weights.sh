#!/usr/bin/env bash
# A model built on the meta device with tied weights has untied ones after to_empty.
#
# Expected: an embedding and a head that share one parameter still share it once the model has memory:
#           Module.to moves such a model and keeps it tied.
# Happens:  Module.to_empty makes a new parameter for every place that held the shared one. The model has more
#           parameters than were built, two optimizers' states for one weight, and trains both apart, without a
#           word; weights must be tied again after to_empty (transformers: tie_weights).
# Versions: torch 2.13.0 (CPU), Python 3.11. Seen 2026-11-28.
# Output:   parameters: built 1, after to 1, after to_empty 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from torch import nn


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32, 8)
        self.head = nn.Linear(8, 32, bias=False)
        self.head.weight = self.embedding.weight


def parameters(model: nn.Module) -> int:
    return len(list(model.parameters()))


with torch.device("meta"):
    model = Tied()
built = parameters(model)
moved = parameters(Tied().to(torch.float64))
model.to_empty(device="cpu")
emptied = parameters(model)
print(f"parameters: built {built}, after to {moved}, after to_empty {emptied}")
assert (built, moved, emptied) == (1, 1, 2)
PY
