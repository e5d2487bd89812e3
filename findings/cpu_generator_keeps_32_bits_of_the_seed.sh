#!/usr/bin/env bash
# torch.Generator("cpu").manual_seed takes 64 bits and keeps the low 32.
#
# Expected: seeds that differ give other numbers; the documentation allows all of [-2**63, 2**64 - 1], and
#           initial_seed() gives the 64 bits back.
# Happens:  seeds equal in their low 32 bits draw the same numbers. A seed made as run_seed * 2**32 + crc32(name)
#           makes every run seed draw the same weights on a CPU, without a word. A CUDA generator (Philox)
#           keeps all 64 bits, so the same code differs there.
# Versions: torch 2.13.0 (CPU), Python 3.11. Seen 2026-11-28.
# Output:   42, 43 and 0 in the high word: same numbers = True, initial_seed differs = True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
env/bin/python - <<'PY'
import torch

generators = [torch.Generator("cpu").manual_seed(high * 2**32 + 7) for high in (42, 43, 0)]
draws = [torch.empty(4).normal_(generator=generator) for generator in generators]
same = all(torch.equal(draws[0], other) for other in draws[1:])
differs = len({generator.initial_seed() for generator in generators}) == 3
low = torch.empty(4).normal_(generator=torch.Generator("cpu").manual_seed(8))
print(f"42, 43 and 0 in the high word: same numbers = {same}, initial_seed differs = {differs}")
assert same and differs and not torch.equal(draws[0], low)
PY
