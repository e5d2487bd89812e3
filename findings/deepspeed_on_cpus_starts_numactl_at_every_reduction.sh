#!/usr/bin/env bash
# DeepSpeed's ZeRO-3 on CPU ranks starts a process, `numactl --hardware`, at every reduction of gradients.
#
# Expected: how many devices a machine has is asked once, and two ranks on a machine are two devices.
# Happens:  CPU_Accelerator.device_count() runs `numactl --hardware` each time and counts NUMA nodes: 1 where there
#           is no numactl, whatever the ranks. ZeRO-3 calls it for each bucket that it reduces, so that every
#           backward forks, and what it calls the number of nodes is the number of ranks. The environment's
#           LOCAL_SIZE, which DeepSpeed's launcher sets and torchrun does not, stops both.
# Versions: deepspeed 0.19.8, torch 2.13.0 (CPU), one rank, Python 3.11. Seen 2026-11-29.
# Output:   3 steps: 4 processes numactl, device_count 1
#           3 steps with LOCAL_SIZE=2: 0 processes numactl, device_count 2
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 deepspeed==0.19.8 setuptools numpy
cat > steps.py <<'PY'
import os
import subprocess

import torch

started = []
run = subprocess.check_output


def counted(argv, *rest, **options):
    started.append(argv[0])
    if argv[0] == "numactl":
        raise FileNotFoundError(argv[0])
    return run(argv, *rest, **options)


subprocess.check_output = counted
import deepspeed

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.init_distributed(dist_backend="gloo")
config = {
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 3},
    "zero_allow_untested_optimizer": True,
}
model = torch.nn.Linear(8, 8)
engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), config=config)
for _ in range(3):
    engine.backward(engine(torch.ones(1, 8)).sum())
    engine.step()
count = deepspeed.accelerator.get_accelerator().device_count()
local = os.environ.get("LOCAL_SIZE")
print(f"3 steps{f' with LOCAL_SIZE={local}' if local else ''}: {started.count('numactl')} processes numactl, device_count {count}")
if local:
    assert started.count("numactl") == 0 and count == int(local)
else:
    assert started.count("numactl") >= 3 and count == 1
PY
export DS_ACCELERATOR=cpu RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29641 OMP_NUM_THREADS=1
env/bin/python -W ignore steps.py 2>/dev/null | grep "3 steps"
LOCAL_SIZE=2 env/bin/python -W ignore steps.py 2>/dev/null | grep "3 steps"
