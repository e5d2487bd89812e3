"""`--emulate-rank` on a CPU: one process, the mesh's true local shapes."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest
from msgspec.structs import replace

from tests.contract.cli import tgsbench
from tests.dist.family_worker import family_preset
from tgsbench import presets
from tgsbench.metrics.integrity import expected_expert_exchanges
from tgsbench.schema.run import Result

pytestmark = pytest.mark.dist

SIZES = [
    "model.hidden_size=256", "model.num_query_heads=16", "model.num_kv_heads=4", "model.head_dim=16",
    "hardware.num_gpus=8", "parallel.sp=8", "workload.seq_len=512", "workload.corpus=lengths",
    "training.accumulation=2",
]  # fmt: skip


@pytest.mark.parametrize("sharing", ["parallel.ring=1", "parallel.ring=8", "hardware.gpus_per_node=4"])
def test_one_process_runs_a_rank_of_eight_and_nothing_is_called_measured(tmp_path, sharing):
    sets = [arg for size in (*SIZES, sharing) for arg in ("--set", size)]
    done = tgsbench(
        tmp_path,
        "run", "--preset", "tiny_cpu", "--emulate-rank", "--json", "--steps", "3", "--warmup", "1",
        "--output", str(tmp_path), *sets,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = msgspec.convert(json.loads(done.stdout), Result)
    assert result.status == "emulated"
    assert (result.world_size, result.dp, result.sp) == (8, 1, 8)
    assert result.tgs.median is None, "a projection is no measurement"
    assert result.emulated is not None
    assert result.emulated.depths == [2, 4]
    assert result.emulated.n >= 3
    assert result.emulated.tgs_low <= result.emulated.tgs <= result.emulated.tgs_high
    assert not [p for p in result.emulated.problems if "layers" in p], "all is sent, and stays finite"
    assert len(list((tmp_path / result.run_id / "events").glob("rank0*"))) == 1


_SHAPES = """
import torch, torch.distributed as dist
from tests.dist.test_emulate import SIZES
from tgsbench import presets
from tgsbench.training import emulate
preset = presets.resolve("tiny_cpu", SIZES).preset
mesh = emulate.fake_mesh(preset, torch.device("cpu"))
batch, labels = emulate.make_batch(preset, mesh, torch.device("cpu"), lambda note: None)
rank = emulate.EmulatedRank(preset, mesh, batch, labels, emulate.choose_depths(4))
seen = {}
def attend(q, k, v, scale, docs):
    seen["q"], seen["k"] = tuple(q.shape), tuple(k.shape)
    return q
import dataclasses
rank.engine.attention.kernel = dataclasses.replace(rank.engine.kernel, run=attend)
loss = rank.engine.forward_backward(batch, labels)
assert torch.isfinite(loss), loss
layer = rank.engine.model.model.layers[0]
gate = dict(layer.parts(layer.flat.full_tensor()))["mlp.gate_proj.weight"]
print(seen["q"], layer.chunks, seen["k"], tuple(batch.input_ids.shape), tuple(gate.shape))
print(layer.flat.to_local().numel(), layer.flat.numel())
"""


def test_heads_tokens_and_shards_are_those_of_a_rank_of_eight():
    done = subprocess.run([sys.executable, "-c", _SHAPES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    preset = presets.resolve("tiny_cpu", SIZES).preset
    rows = preset.model.intermediate_size
    shapes, shards = done.stdout.splitlines()[:2]
    # Two query heads of the rank attend to one KV head at once: so short an exchange is worth no hiding.
    assert shapes == f"(1, 512, 2, 16) 1 (1, 512, 1, 16) (1, 64) ({rows}, 256)"
    shard, whole = map(int, shards.split())
    assert shard * 8 == whole


_EXPERTS = """
import torch
from msgspec.structs import replace
from tests.dist.family_worker import family_preset
from tgsbench.training import emulate
from tgsbench.training.parallel.traffic import TRAFFIC
preset = family_preset("qwen3_moe", 4, ep=2)
preset = replace(
    preset,
    workload=replace(preset.workload, corpus="lengths"),
    training=replace(preset.training, routing="uniform"),
)
mesh = emulate.fake_mesh(preset, torch.device("cpu"))
batch, labels = emulate.make_batch(preset, mesh, torch.device("cpu"), lambda note: None)
rank = emulate.EmulatedRank(preset, mesh, batch, labels, emulate.choose_depths(2))
loss = rank.engine.forward_backward(batch, labels)
assert torch.isfinite(loss), loss
experts = rank.engine.model.model.layers[0].mlp.experts
print(experts.num_experts, preset.model.experts.num, *TRAFFIC.take()['experts'])
"""


def test_a_rank_with_its_part_of_the_experts_sends_what_each_of_them_sends():
    done = subprocess.run([sys.executable, "-c", _EXPERTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    held, num, calls, num_bytes = map(int, done.stdout.split())
    assert (held, num) == (4, 8)
    preset = family_preset("qwen3_moe", 4, ep=2)
    preset = replace(preset, training=replace(preset.training, routing="uniform"))
    expected = expected_expert_exchanges(preset)
    assert (calls, num_bytes) == tuple(count // preset.accumulation for count in expected)
