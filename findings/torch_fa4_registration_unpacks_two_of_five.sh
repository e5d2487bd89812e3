#!/usr/bin/env bash
# torch's own FlashAttention-4 registration cannot call today's FlashAttention-4.
#
# Expected: after torch.nn.attention.activate_flash_attention_impl("FA4") SDPA and varlen_attn run on the
#           flash-attn-4 that is installed; activating it raises nothing.
# Happens:  torch calls the package's private _flash_attn_fwd and unpacks two results; flash-attn-4 4.0.0b36
#           returns five on every path. The first attention of a run ends with "too many values to unpack".
# Versions: torch 2.13.0 (CPU), flash-attn-4 4.0.0b36 (its source is read: its kernels need a GPU), Python 3.11.
#           Seen 2026-11-29.
# Output:   flash-attn-4 4.0.0b36 returns 5 values; torch 2.13.0: too many values to unpack (expected 2)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
env/bin/python -m pip download --quiet --no-deps --dest wheel flash-attn-4==4.0.0b36
env/bin/python -W ignore - <<'PY' 2>/dev/null
import ast
import sys
import types
import zipfile
from importlib.metadata import version
from pathlib import Path

import torch
from torch.nn.attention import _fa4

(wheel,) = Path("wheel").glob("*.whl")
tree = ast.parse(zipfile.ZipFile(wheel).read("flash_attn/cute/interface.py"))
(forward,) = (f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "_flash_attn_fwd")


def returns(node: ast.AST):
    """Of this function, not of those inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Return):
            yield child.value
        elif not isinstance(child, ast.FunctionDef | ast.Lambda):
            yield from returns(child)


sizes = {len(value.elts) for value in returns(forward) if isinstance(value, ast.Tuple)}
(size,) = sizes
kernels = types.ModuleType("kernels")
kernels._flash_attn_fwd = lambda q, k, v, **_: (q, *[torch.empty(0)] * (size - 1))
kernels._flash_attn_bwd = None
sys.modules["kernels"] = kernels
_fa4._FA4_MODULE_PATH = "kernels"
q = torch.zeros(1, 8, 1, 16)
try:
    _fa4._fa4_run_forward(q, q, q, None, None, None, None, None, True, None, None, None)
    said = "no error"
except ValueError as error:
    said = str(error)
release = wheel.name.split("-")[1]
print(f"flash-attn-4 {release} returns {size} values; torch {version('torch').split('+')[0]}: {said}")
assert size == 5 and said.startswith("too many values to unpack"), said
PY
