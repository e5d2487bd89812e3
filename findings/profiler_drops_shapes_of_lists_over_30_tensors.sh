#!/usr/bin/env bash
# A trace with record_shapes=True keeps the shapes of a list of 30 tensors, and none of a list of 31.
#
# Expected: "Input Dims" of aten::cat or aten::_foreach_add_ hold the shape of every tensor in the list, or the
#           first of them with a mark that there were more.
# Happens:  up to 30 tensors all shapes are there; from 31 on the entry is empty, as that of a scalar is, and
#           only the type "TensorList" tells that there was anything. An optimizer's foreach step and FSDP's
#           copies over a layer's parameters are longer: a reader that takes bytes from shapes counts them as
#           nothing, while the same code on a small test model is counted in full.
# Versions: torch 2.13.0 (CPU), Python 3.11. Seen 2026-11-28.
# Output:   shapes kept of aten::cat on lists of 30 and 31 tensors: 30 and 0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
env/bin/python -W ignore - <<'PY' 2>&1 | grep -v USDT
import json

import torch
from torch.profiler import ProfilerActivity, profile


def kept(num_tensors: int) -> int:
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        torch.cat([torch.ones(2)] * num_tensors)
    seen.export_chrome_trace("trace.json")
    with open("trace.json") as file:
        (event,) = [each for each in json.load(file)["traceEvents"] if each.get("name") == "aten::cat"]
    assert event["args"]["Input type"][0] == "TensorList"
    return len(event["args"]["Input Dims"][0])


found = kept(30), kept(31)
print(f"shapes kept of aten::cat on lists of 30 and 31 tensors: {found[0]} and {found[1]}")
assert found == (30, 0)
PY
