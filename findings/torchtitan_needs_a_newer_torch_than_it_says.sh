#!/usr/bin/env bash
# torchtitan 0.3.0 installs beside torch 2.13.0, trains one step on GPUs there, and ends.
#
# Expected: a release that needs a function of torch 2.14 asks for torch>=2.14, so that pip refuses an older one or
#           the first import does.
# Happens:  its metadata names no torch at all. After the first step it sets shorter time-outs by
#           torch.distributed.set_timeout, which 2.13 has only as distributed_c10d._set_pg_timeout: AttributeError,
#           when all ranks have loaded, sharded and compiled.
# Versions: torchtitan 0.3.0, torch 2.13.0, Python 3.11. Seen 2026-11-29.
# Output:
#   asked of torch: []
#   called: torch.distributed.set_timeout(timeout, group)
#   torch 2.13.0 has set_timeout: False, _set_pg_timeout: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
env/bin/python -m pip install --quiet --no-deps torchtitan==0.3.0
env/bin/python -W ignore - <<'PY'
import re
from importlib import metadata
from pathlib import Path

import torch
import torch.distributed as dist

asked = [each for each in metadata.requires("torchtitan") if re.match(r"torch\b(?!_)", each)]
print("asked of torch:", asked)
assert asked == [], "it says now which torch it needs"
(folder,) = {Path(file.locate()).parent for file in metadata.files("torchtitan") if str(file).endswith("distributed/utils.py")}
called = re.search(r"torch\.distributed\.set_timeout\(.*\)", (folder / "utils.py").read_text())
assert called, "it calls it no more"
print("called:", called[0])
has = hasattr(dist, "set_timeout"), hasattr(dist.distributed_c10d, "_set_pg_timeout")
print(f"torch {torch.__version__.partition('+')[0]} has set_timeout: {has[0]}, _set_pg_timeout: {has[1]}")
assert has == (False, True)
PY
