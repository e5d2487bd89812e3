#!/usr/bin/env bash
# Linear layers in torchao's FP8 make a percent of a gradient out of the last bit of the weights.
#
# Expected: rounding to FP8 is the same noise on both sides of a comparison: where one rank and many sum in
#           another order, their gradients differ by little more than in fp32 (1e-6).
# Happens:  what differs by e before it is rounded tips one value in some 0.06 / e to its neighbour, 6 % away,
#           so that it differs by the root of 0.06 e after it, and each further product takes the root again.
#           Weights that are moved by 1e-7 move gradients of eight blocks by 2e-2 (of one block by 1e-3, or not
#           at all where no value was tipped). A test that holds FP8 training over ranks to one rank passes only
#           while all sums keep their order; compare with plain products, and hold FP8 itself to its distance
#           from them.
# Versions: torchao 0.18.0, torch 2.13.0 (CPU, torchao's own emulation), Python 3.11. Seen 2026-11-29.
# Output:   8 blocks: plain 4.2e-07, FP8 1.7e-02
#           16 blocks: plain 4.7e-07, FP8 2.5e-02
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 torchao==0.18.0 numpy
env/bin/python -W ignore - 2>"$work/log" <<'PY' || { cat "$work/log" >&2; exit 1; }
import copy
import dataclasses

import torch
from torch import Tensor, nn
from torchao.float8 import Float8LinearConfig, convert_to_float8_training

TOKENS, HIDDEN = 512, 256
FP8 = dataclasses.replace(Float8LinearConfig.from_recipe_name("rowwise"), emulate=True)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, 4 * HIDDEN, bias=False), nn.Linear(4 * HIDDEN, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.silu(self.up(self.norm(x))))


def gradients(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    (model(x) - target).square().mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def moved(num_blocks: int, in_fp8: bool) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(*[Block() for _ in range(num_blocks)])
    x, target = torch.randn(TOKENS, HIDDEN), torch.randn(TOKENS, HIDDEN)
    nudged = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in nudged.parameters():
            parameter.mul_(1 + 1e-7 * torch.randn_like(parameter))
    if in_fp8:
        model, nudged = (convert_to_float8_training(each, config=FP8) for each in (model, nudged))
    one, other = gradients(model, x, target), gradients(nudged, x, target)
    return float((one - other).norm() / one.norm())


for blocks in (8, 16):
    plain, fp8 = moved(blocks, False), moved(blocks, True)
    print(f"{blocks} blocks: plain {plain:.1e}, FP8 {fp8:.1e}")
    assert plain < 2e-6 and fp8 > 2e-3
PY
