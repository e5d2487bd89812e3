"""How long a rank waits in collectives, by events on its streams."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.virtual
ROOT = Path(__file__).resolve().parent.parent.parent
CODE = """
import json, torch, torch.distributed as dist
from tgsbench.training.parallel.waits import CollectiveClock
store = dist.HashStore()
store.set("0//cuda//0", chr(0) * 128)
device = torch.device("cuda", 0)
torch.cuda.set_device(device)
dist.init_process_group("nccl", store=store, rank=0, world_size=8, device_id=device)
clock = CollectiveClock()
clock.install(device, {"fsdp": dist.group.WORLD})
x, out = torch.empty(256, device="cuda"), torch.empty(2048, device="cuda")
said = []
for index in range(14):
    clock.begin_step(index)
    with torch.cuda.stream(torch.cuda.Stream()):
        dist.all_gather_into_tensor(out, x, group=dist.group.WORLD)
    dist.all_reduce(x)
    dist.all_to_all_single(torch.empty_like(x), x, group=dist.group.WORLD, async_op=True).wait()
    num_pairs = len(clock._pairs)
    torch.cuda.synchronize()
    waits = clock.end_step(index, 1.0)
    said.append([num_pairs, sorted(waits.wait_s) if waits else None])
print(json.dumps([said, len(clock._events)]))
"""


def test_collectives_of_sampled_steps_are_timed_by_group_with_the_same_events(on_device):
    out, _ = on_device(CODE, PYTHONPATH=str(ROOT))
    said, num_events = json.loads(out.splitlines()[-1])
    sampled = [*range(8), 8, 12]
    assert [index for index, (count, _) in enumerate(said) if count] == sampled
    # The exchange goes on beside other work: what is timed is the wait for its handle.
    assert all(said[index] == [3, ["fsdp", "sp", "world"]] for index in sampled)
    assert said[9] == [0, None] and num_events == 3
