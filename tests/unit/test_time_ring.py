"""Chunks of a sequence: what each sees of the others, and that blocks add up to the whole attention."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.unit.test_zigzag import BORDERS, allowed
from tgsbench.training.attention.blocks import CpuBlocks, Saved
from tgsbench.training.attention.documents import documents
from tgsbench.training.attention.time_ring import TimeRing
from tgsbench.training.model import cpu_bf16
from tgsbench.training.parallel.offload import HostOffload
from tgsbench.workload.zigzag import Layout

CPU = torch.device("cpu")
LENGTH = 96


def time_ring(chunks: int) -> TimeRing:
    return TimeRing(Layout(LENGTH, 1, 1, chunks), HostOffload(8, CPU), CPU)


@pytest.mark.parametrize("sp", [1, 2, 4])
@pytest.mark.parametrize("chunks", [2, 3, 8])
def test_ranks_hold_a_part_of_every_chunk_and_together_all_of_it(sp, chunks):
    layout = Layout(LENGTH, sp, 1, chunks)
    parts = [layout.cut(np.arange(LENGTH), rank) for rank in range(sp)]
    assert (layout.join(parts) == np.arange(LENGTH)).all()
    for chunk, of_ranks in enumerate(np.split(np.stack(parts), chunks, axis=1)):
        assert of_ranks.flatten().tolist() == list(layout.sequence_chunk(chunk))


@pytest.mark.parametrize("borders", BORDERS)
@pytest.mark.parametrize("window", [0, 1, 7, 40])
@pytest.mark.parametrize("chunks", [2, 3, 8])
def test_every_pair_that_a_mask_allows_is_met_once_and_no_other(borders, window, chunks):
    rows = 2
    size = LENGTH // chunks
    ends = [*borders[:-1], *(edge + LENGTH for edge in borders)]
    plans = time_ring(chunks).plans(documents(torch.tensor(ends, dtype=torch.int32), CPU), rows, window)
    seen = np.zeros((rows, LENGTH, LENGTH), int)
    for chunk, plan in enumerate(plans):
        edges = plan.own.on_host.tolist()
        for begin, end in itertools.pairwise(edges):
            row, at = divmod(begin, size)
            own = slice(chunk * size + at, chunk * size + at + end - begin)
            seen[row, own, own] += within(np.tri(end - begin, dtype=bool), plan.left)
        for before, blocks in plan.earlier:
            for block in blocks:
                row = block.q_begin // size
                q, k = (
                    slice(number * size + begin - row * size, number * size + end - row * size)
                    for number, begin, end in (
                        (chunk, block.q_begin, block.q_end),
                        (before, block.k_begin, block.k_end),
                    )
                )
                all_keys = np.ones((block.q_end - block.q_begin, block.k_end - block.k_begin), bool)
                seen[row, q, k] += within(all_keys, block.left)
    position = np.arange(LENGTH)
    wanted = allowed(borders) & (position[:, None] - position < (window or LENGTH))
    assert (seen == wanted).all()


def within(seen: np.ndarray, left: int) -> np.ndarray:
    """What of a block a bound on keys before the last one leaves; see `attention.blocks`."""
    if left < 0:
        return seen
    queries, keys = seen.shape
    query, key = np.arange(queries)[:, None] + keys - queries, np.arange(keys)
    return seen & (key >= query - left)


@pytest.mark.parametrize("has_instructions", [False, True])
def test_a_block_runs_in_bf16_with_and_without_a_cpus_instructions_for_it(monkeypatch, has_instructions):
    monkeypatch.setattr(cpu_bf16, "_has_bf16_products", lambda: has_instructions)
    torch.manual_seed(1)
    q, k, v, grad = (torch.randn(LENGTH, heads, 8) for heads in (4, 2, 2, 4))
    narrow = [x.bfloat16() for x in (q, k, v)]
    docs = documents(torch.tensor([0, 40, LENGTH], dtype=torch.int32), CPU)
    out, lse = CpuBlocks().forward(q, k, v, 0.3, docs)
    wanted = CpuBlocks().backward(grad, Saved(q, k, v, out, lse), 0.3, docs)
    out, lse = CpuBlocks().forward(*narrow, 0.3, docs)
    assert lse.dtype == torch.float32
    found = CpuBlocks().backward(grad.bfloat16(), Saved(*narrow, out, lse), 0.3, docs)
    for one, other in zip(found, wanted, strict=True):
        assert (one.float() - other).norm() < 0.02 * other.norm()


def test_blocks_from_the_host_give_the_attention_and_the_gradients_of_the_whole_sequence():
    torch.manual_seed(1)
    q, k, v, grad = (torch.randn(LENGTH, heads, 8) for heads in (4, 2, 2, 4))
    ring, scale, chunks = time_ring(3), 0.3, 3
    plans = ring.plans(None, 1, 0)
    whole = documents(torch.tensor([0, LENGTH], dtype=torch.int32), CPU)
    out, lse = CpuBlocks().forward(q, k, v, scale, whole)
    wanted = CpuBlocks().backward(grad, Saved(q, k, v, out, lse), scale, whole)
    parts = [[x.chunk(chunks)[at] for x in (q, k, v, grad)] for at in range(chunks)]
    kept = [ring.host.keep(torch.stack(part[1:3])) for part in parts]
    results = [
        ring.forward(plan, part[0], torch.stack(part[1:3]), kept[:at], scale)
        for at, (plan, part) in enumerate(zip(plans, parts, strict=True))
    ]
    torch.testing.assert_close(torch.cat([result[0] for result in results]), out)
    sums: list[int | None] = [None] * chunks
    found = []
    for at in reversed(range(chunks)):
        part = parts[at]
        saved = Saved(*part[:3], *results[at])
        found.insert(0, ring.backward(plans[at], part[3], saved, kept, sums, scale))
    torch.testing.assert_close(torch.cat([grad_q for grad_q, _ in found]), wanted[0])
    torch.testing.assert_close(torch.cat([of_own for _, of_own in found], dim=1), torch.stack(wanted[1:]))
    assert sums == [None] * chunks
