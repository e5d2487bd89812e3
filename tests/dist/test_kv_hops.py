"""Two hops of keys and values train what one does where a node needs several heads, or nodes share one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.dist.launch import torchrun

pytestmark = pytest.mark.dist


def test_nodes_that_need_several_heads_and_nodes_that_share_one(tmp_path):
    torchrun(8, Path(__file__).with_name("kv_hops_worker.py"), str(tmp_path / "found.json"))
    found = json.loads((tmp_path / "found.json").read_text())
    several, shared = found["4 on nodes of 4"], found["2 on nodes of 2"]
    assert several["apart"] == 0.0, "copies of a head are all in one node: summed once, in the same order"
    assert shared["apart"] < 2e-6, "summed inside nodes, then over them"
    assert (several["between"], several["inside"]) == ([0, 4], [0, 1, 2, 3])
    assert (shared["between"], shared["inside"]) == ([0, 2, 4, 6], [0, 1])
    assert all(case["hops"][0] for case in found.values())
