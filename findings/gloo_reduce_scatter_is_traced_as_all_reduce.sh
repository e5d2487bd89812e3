#!/usr/bin/env bash
# torch's profiler names gloo's reduce-scatter "gloo:all_reduce", with the bytes of the whole input.
#
# Expected: reduce_scatter_tensor shows as a reduce-scatter, as it does under NCCL.
# Happens:  the annotation of the transfer is "gloo:all_reduce", the same as that of a real all-reduce; only
#           the operator that launched it (c10d::_reduce_scatter_base_) tells them apart. All-gather and
#           all-to-all have names of their own. FSDP's gradient traffic in a CPU trace counts as all-reduces.
# Versions: torch 2.13.0 (CPU, gloo, two ranks), Python 3.11. Seen 2026-11-28.
# Output:   reduce_scatter_tensor: gloo:all_reduce under c10d::_reduce_scatter_base_
#           all_reduce: gloo:all_reduce under c10d::allreduce_
#           all_to_all_single: gloo:all_to_all under c10d::alltoall_base_
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
cat > ranks.py <<'PY'
import json

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

dist.init_process_group("gloo")
rank = dist.get_rank()
whole, half = torch.ones(1024), torch.empty(512)
CALLS = {
    "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(half, whole),
    "all_reduce": lambda: dist.all_reduce(whole),
    "all_to_all_single": lambda: dist.all_to_all_single(torch.empty(1024), whole),
}
found = {}
for name, call in CALLS.items():
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    seen.export_chrome_trace(f"{rank}.json")
    with open(f"{rank}.json") as file:
        names = [event.get("name", "") for event in json.load(file)["traceEvents"]]
    transfer = [each for each in names if each.startswith("gloo:")]
    operator = [each for each in names if each.startswith("c10d::")]
    found[name] = f"{transfer[0]} under {operator[0]}"
if rank == 0:
    for name, what in found.items():
        print(f"{name}: {what}")
    assert found == {
        "reduce_scatter_tensor": "gloo:all_reduce under c10d::_reduce_scatter_base_",
        "all_reduce": "gloo:all_reduce under c10d::allreduce_",
        "all_to_all_single": "gloo:all_to_all under c10d::alltoall_base_",
    }
dist.destroy_process_group()
PY
OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=lo env/bin/python -W ignore -m torch.distributed.run --standalone \
  --local-addr 127.0.0.1 --nproc-per-node 2 ranks.py 2>&1 | grep -v -e WARNING -e USDT -e '^$'
