"""Other systems' own programs as rank 0 of a world on a virtual GPU, where their environments are."""

from __future__ import annotations

import pytest

import tgsbench
from tgsbench.errors import TgsError
from tgsbench.virtual_gpu import installation

pytestmark = pytest.mark.virtual

SMALL = ["model.num_layers=2", "workload.corpus=lengths", "workload.concat=1", "training.checkpointing=full"]


@pytest.mark.parametrize("engine", ["trl", "torchtitan", "swift", "xtuner_v1"])
def test_a_system_of_another_environment_is_counted_as_our_ranks_are(installed, tmp_path, engine):
    try:
        installation.require_of(engine)
    except TgsError as error:
        pytest.skip(f"{error.msg}: {error.hint}")
    sets = [*SMALL, f"engine.name={engine}"]
    result = tgsbench.run("llama2_7b_8k", sets, virtual_gpu="H100-SXM5-80GB", root=tmp_path)
    virtual = result.virtual
    assert result.status == "virtual", result.failure
    assert result.tgs.median is None
    assert result.claimed is None
    assert virtual.unknown_calls.keys() <= {"cudnnGetVersion", "cudnnGetProperty"}
    # Two layers of Llama2-7B and its embeddings: 0.67e9 parameters, gathered at least once in two bytes each.
    moved = {count.name: count.gib for count in virtual.collectives}
    assert moved["all_gather"] > 1.2 < moved["reduce_scatter"]
    (peak,) = {peak.allocated_gib for peak in virtual.peaks if peak.phase == "measure"}
    assert 2 < peak < 8
    assert virtual.launches > 400
    assert virtual.host_s > 0
    assert virtual.clock is None
    assert len(virtual.host_s_by_step) == 2
