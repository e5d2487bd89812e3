"""What an observer inside another system's ranks sees, and what is made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.unit.stored import a_preset
from tgsbench.external import observed
from tgsbench.external.adapter import StepReport
from tgsbench.external.bridge import other_work

PROGRAM = """
import sys, torch, torch.distributed as dist
import torch.nn.functional as F
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10))
optimizer = torch.optim.AdamW(model.parameters())
ids, labels = torch.arange(6).reshape(2, 3), torch.tensor([1, 2, -100, 3, -100, 4])
for step in range(3):
    with torch.no_grad():
        model(ids)  # an evaluation is no training
    for micro_step in range(2):
        F.cross_entropy(model(ids).reshape(6, 10), labels).backward()
        if step:
            dist.all_to_all_single(torch.zeros(8), torch.zeros(8))
    optimizer.step()
    optimizer.step()  # in two parts
assert __name__ == "__main__" and sys.argv[2:] == ["--flag"]
"""


def test_a_program_is_watched_from_inside_and_runs_as_alone(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    argv = [*observed.program(tmp_path, [str(program)]), str(tmp_path / "store"), "--flag"]
    subprocess.run([sys.executable, *argv], check=True, env={**os.environ, "RANK": "0"}, timeout=120)
    seen = observed.read(tmp_path, 1, ended=True)
    assert [(s.tokens, s.labels) for s in seen] == [(12, 8)] * 3
    assert [(s.num_all_to_alls, s.all_to_all_bytes) for s in seen] == [(0, 0), (2, 64), (2, 64)]
    assert all(s.step_s > 0 and 0.01 < s.mem_gib[0] < 10 for s in seen)
    assert len(observed.read(tmp_path, 1, ended=False)) == 2, "the last may still be stepped in parts"


FUNCTIONAL = """
import sys, torch, torch.distributed as dist
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
from torch.distributed._functional_collectives import all_to_all_single, all_to_all_single_autograd
layer = torch.nn.Embedding(10, 4)
optimizer = torch.optim.SGD(layer.parameters())
with torch.no_grad():
    all_to_all_single(torch.zeros(2), None, None, dist.group.WORLD)
for step in range(2):
    out = all_to_all_single_autograd(layer(torch.arange(6)), [6], [6], dist.group.WORLD)
    out.sum().backward()
    optimizer.step()
"""


def test_functional_all_to_alls_are_counted_with_those_of_their_gradients(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(FUNCTIONAL)
    argv = [*observed.program(tmp_path, [str(program)]), str(tmp_path / "store")]
    subprocess.run([sys.executable, *argv], check=True, env={**os.environ, "RANK": "0"}, timeout=120)
    seen = observed.read(tmp_path, 1, ended=True)
    assert [(s.num_all_to_alls, s.all_to_all_bytes) for s in seen] == [(2, 2 * 6 * 4 * 4)] * 2


def rank_log(*rows: tuple[int, float, float, int]) -> str:
    names = ("step", "begin_s", "end_s", "tokens")
    rest = {"labels": 1, "num_all_to_alls": 3, "all_to_all_bytes": 10, "mem_bytes": 1 << 30}
    return "".join(json.dumps(dict(zip(names, row, strict=True)) | rest) + "\n" for row in rows)


def test_a_step_is_as_long_as_that_of_the_slowest_rank_and_counts_what_all_did():
    first = rank_log((0, 10.0, 11.0, 5), (0, 10.0, 11.5, 5), (1, 10.0, 12.5, 5), (2, 10.0, 14.0, 5))
    second = rank_log((0, 10.0, 13.0, 6), (1, 10.0, 15.0, 6)) + '{"step": 2, "end'
    seen = observed.steps([first, second], ended=False)
    assert [(s.step_s, s.tokens, s.num_all_to_alls, s.mem_gib) for s in seen] == [(3.0, 11, 6, [1.0, 1.0])]
    assert [s.step_s for s in observed.steps([first, second], ended=True)] == [3.0, 2.0]
    assert observed.steps(["", first], ended=True) == [] == observed.steps(["", ""], ended=False)


def test_clock_and_counts_are_the_observers_and_the_loss_is_the_logs():
    seen = observed.steps([rank_log((0, 1.0, 3.0, 2048))], ended=True)
    logged = [StepReport(tokens=0, step_s=9.0, loss=2.5), StepReport(tokens=0, step_s=1)]
    told = observed.told_by(seen, logged)
    assert [(t.tokens, t.step_s, t.loss, t.num_all_to_alls) for t in told] == [(2048, 2.0, 2.5, 3)]


def test_a_step_of_other_tokens_than_asked_is_told():
    preset = a_preset("tiny_cpu", "engine.name=swift", "training.checkpointing=full")
    (warning,) = other_work(preset, StepReport(tokens=4096, step_s=1.0, num_all_to_alls=8))
    assert "4,096 tokens a step where 2,048" in warning.msg


@pytest.mark.parametrize(
    ("engine", "variables", "wanted"),
    [
        ("swift", {}, True),  # its log has no tokens
        ("xtuner", {}, False),
        ("xtuner", {observed.ASK: "1"}, True),
        ("llamafactory", {observed.ASK: "0"}, False),
        ("trl", {observed.ASK: "1"}, False),  # its script counts by itself
    ],
)
def test_an_observer_is_asked_for_where_a_log_can_do_without(engine, variables, wanted):
    preset = a_preset("tiny_cpu", f"engine.name={engine}", "training.checkpointing=full")
    assert observed.is_wanted(preset, variables) == wanted
