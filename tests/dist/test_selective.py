"""Selective checkpointing runs neither attention nor its all-to-alls again; full runs both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.dist.launch import torchrun

pytestmark = pytest.mark.dist


def test_ops_run_as_often_as_the_policy_says(tmp_path):
    torchrun(2, Path(__file__).with_name("selective_worker.py"), str(tmp_path / "counts.json"))
    counts = json.loads((tmp_path / "counts.json").read_text())
    layers = 2
    # Attention runs for two chunks of heads, and a pass sends k and v together, q and the output by chunk.
    assert counts["none"]["attention"] == counts["selective"]["attention"] == 2 * layers
    assert counts["full"]["attention"] == 4 * layers
    assert counts["none"]["all_to_all"] == counts["selective"]["all_to_all"] == 10 * layers
    assert counts["full"]["all_to_all"] == 15 * layers
    assert counts["none"]["linear"] < counts["selective"]["linear"]
