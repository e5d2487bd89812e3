#!/usr/bin/env bash
# Expected: "tps" of a training log counts tokens that are trained on; its loss is the mean over just those.
# Happens: torchtitan counts every position of a batch. Its chat data set packs greedily and fills a pack that the next
#   conversation does not fit into with end-of-text tokens whose labels are ignored: they are in tps, in TFLOPs and in
#   MFU. A batch that holds nothing but padding counts in full.
# Versions: torchtitan 0.3.0, torch 2.13.0 (CPU), Python 3.11
# Date: 2026-11-28
# Output seen:
#   a batch of 128 ignored labels counts as 128 tokens
# TITAN_PYTHON=PATH takes an environment that is there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${TITAN_PYTHON:-$work/env/bin/python}
if [ ! -x "$python" ]; then
    python3 -m venv "$work/env"
    "$python" -m pip install --quiet torch==2.13.0 torchtitan==0.3.0 triton
fi
cat > "$work/look.py" <<'PYTHON'
from types import SimpleNamespace

import torch
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.trainer import Trainer

meter = SimpleNamespace(ntokens_since_last_log=0, data_loading_times=[])
labels = torch.full((1, 128), IGNORE_INDEX)
next(Trainer.batch_generator(SimpleNamespace(metrics_processor=meter), [({}, labels)]))
print(f"a batch of {labels.numel()} ignored labels counts as {meter.ntokens_since_last_log} tokens")
assert meter.ntokens_since_last_log == labels.numel()
PYTHON
"$python" "$work/look.py"
