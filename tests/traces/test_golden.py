"""Traces of our own two-rank runs, and what must hold for every trace."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from tests.traces.made import nccl_step
from tgsbench.traces import analyse as analysing
from tgsbench.traces.analyse import analyse
from tgsbench.traces.files import trace_files

GOLDEN = Path(__file__).parents[1] / "data" / "traces"


@pytest.fixture(scope="module")
def golden():
    return analyse(trace_files(GOLDEN), "golden")


def test_ranks_and_steps(golden):
    assert [(rank.rank, rank.steps) for rank in golden.ranks] == [(0, [3, 4]), (1, [3, 4])]
    assert (golden.world_size, golden.device) == (2, "cpu")


def test_calls_and_bytes_of_the_collectives(golden):
    found = {(c.name, c.group): c for c in golden.collectives}
    # Two layers, an exchange before and after attention, in forward, recompute and backward.
    a2a = found["all_to_all", "sp"]
    assert a2a.calls == 12
    # sp 2, 8 query and 4 KV heads of 16, 32 local tokens, fp32: (8 + 2·4) heads before and 8 after.
    assert a2a.bytes == 2 * 3 * 32 * 16 * 4 * (16 + 8)
    assert found["reduce_scatter", "fsdp"].calls == 4  # embedding, two layers, norm with head
    assert all(c.resolved_by == "op" for c in golden.collectives)


def test_parts_of_a_training_step_are_all_there(golden):
    for part in (
        "attention_fwd",
        "attention_bwd",
        "recompute",
        "gemm",
        "norm_elementwise",
        "loss",
        "optimizer",
    ):
        assert golden.parts_ms[part] > 0, part
    assert golden.recompute_ms["attention_fwd"] > 0
    assert golden.shares.get("comm_unknown", 0.0) == 0.0


def attention_spans_us(path: Path) -> dict[str, float]:
    """By recomputing or not: time in attention spans, read independently of the reader."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    again = [(e["ts"], e["ts"] + e["dur"]) for e in events if e["name"] == "tgsbench::recompute"]
    found = {"forward": 0.0, "recompute": 0.0}
    for event in events:
        if event["name"] == "tgsbench::attention":
            inside = any(a <= event["ts"] < b for a, b in again)
            found["recompute" if inside else "forward"] += event["dur"]
    return found


def test_attention_is_the_time_of_its_spans(golden):
    for rank in golden.ranks:
        spans = attention_spans_us(Path(rank.path))
        assert rank.parts_ms["attention_fwd"] == pytest.approx(spans["forward"] / 2000, rel=0.02)


def every_trace(folder: Path) -> list[Path]:
    return [*trace_files(GOLDEN), nccl_step().write(folder / "made.pt.trace.json")]


def test_parts_add_up_to_the_window(tmp_path):
    for path in every_trace(tmp_path):
        for rank in analyse([path], "x").ranks:
            assert sum(rank.parts_ms.values()) == pytest.approx(rank.step_ms, rel=1e-3)
            assert sum(rank.shares.values()) == pytest.approx(1.0, rel=1e-3)
            assert rank.step_ms * max(1, len(rank.steps)) == pytest.approx(rank.window_ms)
            for kind, flying in rank.comm_ms.items():
                assert rank.exposed_ms[kind] + rank.hidden_ms[kind] == pytest.approx(flying)


def test_processes_give_the_same_figures(golden):
    assert analyse(trace_files(GOLDEN), "golden", num_processes=2) == golden


@pytest.mark.parametrize(("load", "wanted"), [(0.2, 4), (2.5, 2), (9.0, 1)])
def test_only_free_cores_get_a_process(tmp_path, monkeypatch, load, wanted):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    large, small = tmp_path / "large.json", tmp_path / "small.json"
    large.touch()
    os.truncate(large, 30 << 20)
    small.touch()
    assert analysing._worthwhile([large]) == wanted
    assert analysing._worthwhile([small]) == 1
