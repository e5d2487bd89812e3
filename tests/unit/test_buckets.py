"""Where a backward fills DeepSpeed's bucket of gradients."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.planner.buckets import BUCKET_WEIGHTS, bucket_weights, reductions
from tgsbench.planner.workload import dims_of


def dims(name):
    return dims_of(presets.resolve(name).preset.model)


def test_llama2s_bucket_is_full_at_the_second_last_layers_attention_then_at_the_fifth_last_mlp():
    first, second, *_ = reductions(dims("llama2_7b_8k"))
    # head 131 M, a layer 202.4 M, an MLP 135.3 M, the output projection 16.8 M: v finds no room.
    assert (first.behind, first.weight) == (1, 4)
    assert first.copied == 32000 * 4096 + 202_375_168 + 135_266_304 + 4096 * 4096
    # The copy that the allocator of a virtual GPU had in that layer: 1736.1 MiB, norms and padding included.
    assert (second.behind, second.weight) == (4, 0)
    assert 4 * second.copied / 2**20 == pytest.approx(1736.1, rel=1e-3)


def test_a_head_larger_than_the_bucket_is_reduced_alone_and_nothing_is_copied():
    model = dims("llama3_8b_8k")
    assert model.embedding_weights > BUCKET_WEIGHTS
    first, *_ = reductions(model)
    # Two layers and a down projection are in when the third last layer's next matrix comes.
    assert (first.behind, first.weight) == (2, 1)
    assert first.copied == 2 * model.layer_weights + 14336 * 4096


def test_a_head_with_the_last_norm_is_two_gradients_and_is_copied():
    first, *_ = reductions(dims("yi_34b_8k"))
    # 1750 MiB on the allocator of a virtual GPU.
    assert (first.behind, first.weight, 4 * first.copied / 2**20) == (0, 0, 1750.0)


def test_a_tied_head_fills_nothing_before_the_embedding():
    whole = dims("llama3_1b_8k")
    assert whole.tied
    # 60.8 M a layer, 16.8 M a matrix of the MLP: after 8 layers 486 M are in.
    first, *_ = reductions(whole)
    assert (first.behind, first.weight, first.copied) == (8, 0, 8 * whole.layer_weights)


def test_buckets_are_never_overfull_and_hold_every_matrix():
    model = dims("llama2_70b_8k")
    assert bucket_weights(model) == BUCKET_WEIGHTS
    assert bucket_weights(replace(model, num_parameters=1000)) == 1000
    found = reductions(model)
    assert all(reduction.copied <= BUCKET_WEIGHTS for reduction in found)
    assert [r.behind for r in found] == sorted(r.behind for r in found)
