"""What the trainer is given: shifted labels, shards that make up the pack, sums that add up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgsbench.schema import events
from tgsbench.workload import IGNORE_INDEX, PackedDataset, checksum, shard
from tgsbench.workload.documents import LABEL_BIT, Documents, starts_of, tokens_of
from tgsbench.workload.packing import stock_bounds
from tgsbench.workload.packs import attended_len, count_labels
from tgsbench.workload.sharding import MODULUS

NO_DATA = events.Data(
    corpus="test",
    num_documents=0,
    num_tokens=0,
    num_full=0,
    num_short=0,
    mean_pack_tokens=0.0,
    tokens_lost=0,
    tokens_padded=0,
)


@st.composite
def datasets(draw: st.DrawFn) -> PackedDataset:
    """Packs of any documents, targets anywhere (also on a document's first token)."""
    lengths = draw(st.lists(st.integers(1, 20), min_size=1, max_size=30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    total = sum(lengths)
    coded = rng.integers(1, 1000, total, dtype=np.int32) | np.where(rng.random(total) < 0.7, LABEL_BIT, 0)
    stream = Documents(coded.astype(np.int32), starts_of(np.array(lengths)))
    seq_len = 4 * draw(st.integers(1, 8))
    bounds = stock_bounds(stream.starts, seq_len, draw(st.integers(1, 10)), draw(st.integers(1, 3)))
    mask = draw(st.booleans())
    return PackedDataset(stream, bounds, mask, count_labels(stream, bounds, mask), NO_DATA)


def expected_labels(dataset: PackedDataset, index: int) -> list[int]:
    """Targets of one pack, position by position."""
    begin, end = int(dataset.bounds.starts[index]), int(dataset.bounds.ends[index])
    document = np.searchsorted(dataset.stream.starts, np.arange(begin, end), side="right").tolist()
    coded = dataset.stream.coded[begin:end]
    labels = [IGNORE_INDEX] * dataset.seq_len
    for at in range(end - begin - 1):
        crosses = document[at] != document[at + 1]
        if coded[at + 1] < 0 and not (crosses and dataset.document_mask):
            labels[at] = int(tokens_of(coded[at + 1]))
    return labels


@given(datasets())
def test_labels_are_shifted_and_never_cross_documents_under_a_mask(dataset):
    for index in range(dataset.num_packs):
        assert dataset.pack(index).labels.tolist() == expected_labels(dataset, index)


@given(datasets())
def test_packs_hold_the_stream_and_padding(dataset):
    for index in range(dataset.num_packs):
        pack = dataset.pack(index)
        begin, end = int(dataset.bounds.starts[index]), int(dataset.bounds.ends[index])
        assert pack.num_tokens == end - begin
        assert pack.tokens[: end - begin].tolist() == tokens_of(dataset.stream.coded[begin:end]).tolist()
        assert not pack.tokens[end - begin :].any()
        inside = [s - begin for s in dataset.stream.starts.tolist() if begin < s < end]
        assert pack.doc_starts.tolist() == [0, *inside]


@given(datasets())
def test_num_labels_counts_the_pack_and_wraps_as_packs_do(dataset):
    for index in range(2 * dataset.num_packs):
        assert dataset.num_labels(index) == np.count_nonzero(dataset.pack(index).labels != IGNORE_INDEX)


@given(datasets(), st.sampled_from([1, 2, 4]))
def test_shards_make_up_the_pack_and_their_sums_the_packs(dataset, sp):
    pack = dataset.pack(0)
    shards = [shard(pack, rank, sp, dataset.document_mask) for rank in range(sp)]
    assert np.concatenate([s.input_ids for s in shards]).tolist() == pack.tokens.tolist()
    assert np.concatenate([s.labels for s in shards]).tolist() == pack.labels.tolist()
    size = dataset.seq_len // sp
    assert {len(s.input_ids) for s in shards} == {size}
    sums = [checksum(s.input_ids, rank * size) for rank, s in enumerate(shards)]
    assert sum(sums) % MODULUS == checksum(pack.tokens, 0)


@given(datasets(), st.sampled_from([1, 2, 4]))
def test_positions_restart_with_each_document_only_under_a_mask(dataset, sp):
    pack = dataset.pack(0)
    shards = [shard(pack, rank, sp, dataset.document_mask) for rank in range(sp)]
    positions = np.concatenate([s.position_ids for s in shards]).tolist()
    if not dataset.document_mask:
        assert positions == list(range(dataset.seq_len))
        return
    begins = set(pack.doc_starts.tolist()) | {pack.num_tokens}
    expected, position = [], 0
    for at in range(dataset.seq_len):
        position = 0 if at in begins else position + 1
        expected.append(position)
    assert positions == expected


@given(datasets())
def test_borders_run_from_0_to_the_end_and_padding_is_its_own_document(dataset):
    pack = dataset.pack(0)
    borders = shard(pack, 0, 1, True).cu_seqlens
    assert borders.dtype == np.int32
    assert borders[0] == 0 and borders[-1] == dataset.seq_len
    assert (np.diff(borders) > 0).all()
    assert pack.num_tokens in borders


@given(datasets())
def test_attended_length_weights_documents_by_their_tokens(dataset):
    lengths: list[int] = []
    for index in range(dataset.num_packs):
        pack = dataset.pack(index)
        edges = (
            [*pack.doc_starts.tolist(), pack.num_tokens] if dataset.document_mask else [0, pack.num_tokens]
        )
        lengths += np.diff(edges).tolist()
    expected = sum(n * n for n in lengths) / sum(lengths) if lengths else 0.0
    got = attended_len(dataset.stream, dataset.bounds, dataset.document_mask)
    assert got == pytest.approx(expected)


@given(st.lists(st.integers(0, 2**31 - 2), max_size=200), st.integers(0, 2**40))
def test_checksum_is_the_exact_weighted_sum(tokens, offset):
    expected = sum((offset + at + 1) * (token + 1) for at, token in enumerate(tokens)) % MODULUS
    assert checksum(np.array(tokens, np.int32), offset) == expected


def test_checksum_does_not_overflow_on_a_million_of_the_largest_ids():
    tokens = np.full(2**20, 2**31 - 2, np.int64)
    assert checksum(tokens, 7) == (2**31 - 1) * (2**20 * 7 + 2**20 * (2**20 + 1) // 2) % MODULUS


def test_checksum_sees_a_swap_and_a_shard_fed_to_the_wrong_rank():
    tokens = np.arange(10, dtype=np.int32)
    swapped = tokens.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert checksum(tokens, 0) != checksum(swapped, 0)
    assert checksum(tokens, 0) != checksum(tokens, 10)
