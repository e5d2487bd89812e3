"""What does it cost a rank's host to time a collective by events? On a virtual GPU, within one process.

`python -m benchmarks.waits` (needs `make virtual-gpu`): microseconds of processor time a call of an
all-gather of one KB over 8 ranks, with events, in a step that is not sampled, and without the clock; and what
that comes to for a step of so many calls and milliseconds (`--calls 102 --step-ms 969`: what `tgsbench run
--virtual-gpu H100-SXM5-80GB --preset llama2_7b_8k` says). The virtual device writes each event down: a real
one takes less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from tgsbench.system.child import child_environment
from tgsbench.training.parallel.waits import SAMPLED_EVERY
from tgsbench.virtual_gpu import build, installation

ROOT = Path(__file__).resolve().parent.parent
_IN_RANK = """
import json, time, torch, torch.distributed as dist
from tgsbench.training.parallel.waits import CollectiveClock
store = dist.HashStore()
store.set("0//cuda//0", chr(0) * 128)
device = torch.device("cuda", 0)
torch.cuda.set_device(device)
dist.init_process_group("nccl", store=store, rank=0, world_size=8, device_id=device)
x, out = torch.empty(256, device="cuda"), torch.empty(2048, device="cuda")
clock, plain = CollectiveClock(), dist.all_gather_into_tensor
clock.install(device, {"fsdp": dist.group.WORLD}, patch=False)
timed = clock._timed(plain)

def call_us(call, count=30):
    begin_s = time.process_time()
    for _ in range(count):
        call(out, x, group=dist.group.WORLD)
    return (time.process_time() - begin_s) / count * 1e6

rounds = []
for _ in range(8):
    row = []
    for index, call in ((0, timed), (9, timed), (0, plain)):
        clock.begin_step(index)
        row.append(call_us(call))
    torch.cuda.synchronize()
    rounds.append(row)
print(json.dumps([sorted(column)[len(column) // 2] for column in zip(*rounds)]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=102, help="collectives of a step")
    parser.add_argument("--step-ms", type=float, default=969.0)
    args = parser.parse_args()
    recorded, passed, without = measured()
    print(f"a call: {recorded:.1f} µs recorded, {passed:.1f} in a step not sampled, {without:.1f} without")
    share = args.calls * (recorded - without) / 1e3 / args.step_ms
    print(f"{args.calls} calls in {args.step_ms:g} ms: {share:.2%} of a sampled step, "
          f"{share / SAMPLED_EVERY:.2%} where one in {SAMPLED_EVERY} is (to reach: <= 0.5 %)")  # fmt: skip


def measured() -> list[float]:
    found = installation.look()
    folder = build.ensure_built(found)
    with tempfile.TemporaryDirectory() as log:
        env = child_environment() | {
            "LD_PRELOAD": str(build.library_of(folder)), "LD_LIBRARY_PATH": str(folder),
            "TGSBENCH_VGPU_LOG": log, "TGSBENCH_VGPU_COMPUTE": "90", "RANK": "0", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        argv = [found.python, "-P", "-c", _IN_RANK]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300, check=True)
    answer: list[float] = json.loads(done.stdout.splitlines()[-1])
    return answer


if __name__ == "__main__":
    main()
