#!/usr/bin/env bash
# torch's reduce-scatter on gloo sends as many bytes as an all-reduce; an exchange and a sum need half of them.
#
# Expected: of two ranks each sends the other its half of the tensor, as under NCCL.
# Happens:  torch copies the whole tensor, sums all of it on both ranks and keeps a half. all_to_all_single of the
#           same tensor, followed by a sum, gives the same result from half the bytes. FSDP on CPU ranks pays
#           this at every gradient.
# Versions: torch 2.13.0 (CPU, gloo, two ranks), Python 3.11. Seen 2026-11-29.
# Output:   bytes over the loopback for each byte of the tensor, both ranks together:
#           reduce_scatter_tensor 2, all_reduce 2, all_to_all_single 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy
cat > ranks.py <<'PY'
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank = dist.get_rank()
whole = torch.randn(4 << 20, generator=torch.Generator().manual_seed(rank))
half, came, total = torch.empty(2 << 20), torch.empty(4 << 20), whole.clone()
CALLS = {
    "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(half, whole),
    "all_reduce": lambda: dist.all_reduce(total),
    "all_to_all_single": lambda: dist.all_to_all_single(came, whole),
}


def sent_bytes() -> int:
    """All that went over the loopback so far."""
    with open("/proc/net/dev") as file:
        line = next(line for line in file if line.strip().startswith("lo:"))
    return int(line.split()[9])


def share(call) -> int:
    """Least of some rounds, whole: other programs use the loopback too."""
    rounds = []
    for _ in range(8):
        dist.barrier()
        begin = sent_bytes()
        call()
        dist.barrier()
        rounds.append((sent_bytes() - begin) / (4 * len(whole)))
    return round(min(rounds))


found = {name: share(call) for name, call in CALLS.items()}
if rank == 0:
    print("bytes over the loopback for each byte of the tensor, both ranks together:")
    print(", ".join(f"{name} {share}" for name, share in found.items()))
    assert found == {"reduce_scatter_tensor": 2, "all_reduce": 2, "all_to_all_single": 1}, found
torch.testing.assert_close(came.view(2, -1).sum(0), half)
dist.destroy_process_group()
PY
export PYTHONWARNINGS=ignore OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=lo
env/bin/python -m torch.distributed.run --standalone \
  --local-addr 127.0.0.1 --nproc-per-node 2 ranks.py 2>&1 | grep -v -e WARNING -e USDT -e '^$'
