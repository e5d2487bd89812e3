#!/usr/bin/env bash
# A config.json that transformers 5 saves is read by transformers 4 with rotary frequencies of base 10,000.
#
# Expected: a shape saved by one major version and read by the one before is the same model, or is refused; the
#   number that decides how positions are encoded is not lost on the way.
# Happens: version 5 writes `rope_parameters`, and neither `rope_theta` nor `rope_scaling`, whatever the settings were
#   called when they came in. Version 4 keeps the unknown table as a plain attribute, takes its default base of 10,000 and
#   no scaling, and says nothing. Weights load, training runs and its loss is an ordinary one; but Llama 3's 500,000 and
#   its scaling, or Qwen3's 1,000,000, are gone. Trainers that are compared on one folder (some allow version 4 alone) do
#   not train the same model. Whoever hands a shape to several systems writes both forms: version 5 reads them as one.
# Versions: transformers 5.24.0 writes, transformers 4.57.1 reads; Python 3.11 (no torch)
# Date: 2026-11-29
# Output seen:
#   llama saved by 5.24.0: rope_theta absent, rope_parameters base 500000.0
#   llama read by 4.57.1: base 10000.0, scaling None
#   qwen3 saved by 5.24.0: rope_theta absent, rope_parameters base 1000000.0
#   qwen3 read by 4.57.1: base 10000.0, scaling None
#   both forms read by 4.57.1: base 500000.0; by 5.24.0: base 500000.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 5.24.0 4.57.1; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/pip" install --quiet "transformers==$version" 2>/dev/null
done
cat > "$work/save.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import transformers
from transformers import LlamaConfig, Qwen3Config

folder = Path(sys.argv[1])
scaling = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
shapes = {
    "llama": LlamaConfig(rope_theta=500000.0, rope_scaling=scaling),
    "qwen3": Qwen3Config(rope_theta=1000000.0),
}
for name, shape in shapes.items():
    shape.save_pretrained(folder / name)
    saved = json.loads((folder / name / "config.json").read_text())
    old, new = saved.get("rope_theta", "absent"), saved["rope_parameters"]["rope_theta"]
    print(f"{name} saved by {transformers.__version__}: rope_theta {old}, rope_parameters base {new}")
    assert old == "absent", "the old name is written as well: the behaviour changed"
both = json.loads((folder / "llama" / "config.json").read_text()) | {"rope_theta": 500000.0}
(folder / "both").mkdir()
(folder / "both" / "config.json").write_text(json.dumps(both))
PYTHON
cat > "$work/read.py" <<'PYTHON'
import sys

import transformers
from transformers import AutoConfig

for name in ("llama", "qwen3"):
    read = AutoConfig.from_pretrained(f"{sys.argv[1]}/{name}")
    print(f"{name} read by {transformers.__version__}: base {read.rope_theta}, scaling {read.rope_scaling}")
    assert read.rope_theta == 10000.0 and read.rope_scaling is None, "it is read: the behaviour changed"
PYTHON
cat > "$work/both.py" <<'PYTHON'
import sys

from transformers import AutoConfig

read = AutoConfig.from_pretrained(f"{sys.argv[1]}/both")
print(getattr(read, "rope_theta", None) or read.rope_parameters["rope_theta"], end="")
PYTHON
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error
"$work/5.24.0/bin/python" "$work/save.py" "$work" 2>/dev/null
"$work/4.57.1/bin/python" "$work/read.py" "$work" 2>/dev/null
old=$("$work/4.57.1/bin/python" "$work/both.py" "$work" 2>/dev/null)
new=$("$work/5.24.0/bin/python" "$work/both.py" "$work" 2>/dev/null)
echo "both forms read by 4.57.1: base $old; by 5.24.0: base $new"
[ "$old" = 500000.0 ] && [ "$new" = 500000.0 ]
