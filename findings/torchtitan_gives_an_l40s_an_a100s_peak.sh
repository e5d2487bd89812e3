#!/usr/bin/env bash
# torchtitan's MFU on an L40S divides by the peak of an A100.
#
# Expected: the GPU that CUDA calls "NVIDIA L40S" has an entry (362 TFLOPs dense bf16), and it is found.
# Happens:  the entry is looked for as "l40s" in lower case, which no driver reports; the name falls through
#           to the fallback for unknown GPUs, 312 TFLOPs of an A100, with a line in the log. Its MFU is 16 %
#           too high; that of any other unknown GPU (an RTX 4090's peak is about half of it) is off alike.
# Versions: torchtitan 0.3.0, torch 2.13.0 (CPU), Python 3.11. Seen 2026-11-28.
# Output:   NVIDIA L40S 312.0, l40s 362.0, NVIDIA GeForce RTX 4090 312.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
env/bin/python -m pip install --quiet --no-deps torchtitan==0.3.0
env/bin/python -W ignore - <<'PY' 2>/dev/null
from torchtitan.tools.utils import get_peak_flops

names = ("NVIDIA L40S", "l40s", "NVIDIA GeForce RTX 4090")
found = {name: get_peak_flops(name) / 1e12 for name in names}
print(", ".join(f"{name} {peak}" for name, peak in found.items()))
assert found == {"NVIDIA L40S": 312.0, "l40s": 362.0, "NVIDIA GeForce RTX 4090": 312.0}
PY
