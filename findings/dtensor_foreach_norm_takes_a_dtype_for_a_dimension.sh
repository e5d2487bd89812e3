#!/usr/bin/env bash
# A norm of several distributed tensors at once fails when it is asked for in a dtype, one by one it does not.
#
# Expected: torch._foreach_norm(tensors, 2.0, dtype=torch.float32), with which trainers sum gradient norms in fp32,
#           takes DTensors as it takes plain tensors, and as it takes DTensors without the dtype.
# Happens:  the sharding rule is shared with linalg.vector_norm, whose third argument is a dimension: the dtype is
#           read as one, and the first optimizer step ends in "'>=' not supported between instances of
#           'torch.dtype' and 'int'". torch.linalg.vector_norm(tensor, 2.0, dtype=...) of each tensor works.
# Versions: torch 2.14.1 (its CUDA build, on a CPU; 2.13.0 takes the dtype), Python 3.11. Seen 2026-11-29.
# Output:
#   plain tensors, dtype: [2.0, 3.0]
#   DTensors, dtype: RuntimeError, '>=' not supported between instances of 'torch.dtype' and 'int'
#   DTensors, no dtype: [2.0, 3.0]
#   DTensors one by one, dtype: [2.0, 3.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.14.1 numpy
OMP_NUM_THREADS=1 env/bin/python -W ignore - 2> log <<'PY'
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo", init_method=f"file://{__import__('os').getcwd()}/store", rank=0, world_size=1)
plain = [torch.ones(4), torch.ones(9)]
mesh = init_device_mesh("cpu", (1,))
sharded = [distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in plain]


def values(norms) -> list[float]:
    return [norm.full_tensor().item() for norm in norms]


print("plain tensors, dtype:", [n.item() for n in torch._foreach_norm(plain, 2.0, dtype=torch.float32)])
try:
    torch._foreach_norm(sharded, 2.0, dtype=torch.float32)
except RuntimeError as error:
    print("DTensors, dtype: RuntimeError,", str(error).splitlines()[0])
    assert "'torch.dtype' and 'int'" in str(error)
else:
    raise SystemExit("it takes a dtype now")
print("DTensors, no dtype:", values(torch._foreach_norm(sharded, 2.0)))
ones = [torch.linalg.vector_norm(tensor, 2.0, dtype=torch.float32) for tensor in sharded]
print("DTensors one by one, dtype:", values(ones))
assert values(ones) == [2.0, 3.0]
PY
