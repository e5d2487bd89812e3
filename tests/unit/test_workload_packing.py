"""Packing keeps every token, in order, and makes the packs that XTuner's rule makes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tgsbench.workload.documents import Documents, epoch_order, from_parts, gather, starts_of, tokens_of
from tgsbench.workload.packing import Bounds, carry_bounds, stock_bounds

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)
SEQ_LEN = st.integers(2, 64)


def reference_packer(documents: list[list[int]], seq_len: int, batch_size: int, num_proc: int):
    """The rule written out on lists: returns packs, and the tokens of the carries that were dropped."""
    packs, dropped = [], []
    size, extra = divmod(len(documents), min(num_proc, len(documents)))
    first = 0
    for worker in range(min(num_proc, len(documents))):
        mine = documents[first : first + size + (worker < extra)]
        first += len(mine)
        carry: list[int] = []
        for at in range(0, len(mine), batch_size):
            buffer = carry + [token for document in mine[at : at + batch_size] for token in document]
            carry = []
            if len(buffer) < seq_len:
                packs.append(buffer)
                continue
            while len(buffer) >= seq_len:
                packs.append(buffer[:seq_len])
                buffer = buffer[seq_len:]
            carry = buffer
        dropped += carry
    return packs, dropped


def numbered(lengths: list[int]) -> list[list[int]]:
    """Documents of these lengths whose tokens count up through the corpus."""
    starts = starts_of(np.array(lengths))
    return [list(range(a, b)) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]


def packs_of(bounds: Bounds) -> list[list[int]]:
    return [list(range(a, b)) for a, b in zip(bounds.starts.tolist(), bounds.ends.tolist(), strict=True)]


@given(LENGTHS, SEQ_LEN, st.integers(1, 20), st.integers(1, 8))
def test_xtuner_stock_makes_the_packs_of_its_rule(lengths, seq_len, batch_size, num_proc):
    bounds = stock_bounds(starts_of(np.array(lengths)), seq_len, batch_size, num_proc)
    packs, dropped = reference_packer(numbered(lengths), seq_len, batch_size, num_proc)
    assert packs_of(bounds) == packs
    assert bounds.tokens_lost == len(dropped)


@given(LENGTHS, SEQ_LEN, st.integers(1, 20), st.integers(1, 8))
def test_no_token_is_lost_but_the_reported_ones_and_none_is_used_twice(
    lengths, seq_len, batch_size, num_proc
):
    for bounds in (
        stock_bounds(starts_of(np.array(lengths)), seq_len, batch_size, num_proc),
        carry_bounds(starts_of(np.array(lengths)), seq_len),
    ):
        used = [token for pack in packs_of(bounds) for token in pack]
        assert used == sorted(set(used))
        assert len(used) + bounds.tokens_lost == sum(lengths)
        padding = sum(seq_len - len(pack) for pack in packs_of(bounds))
        assert padding == bounds.tokens_padded
        assert bounds.num_full == sum(len(pack) == seq_len for pack in packs_of(bounds))


@given(LENGTHS, SEQ_LEN)
def test_carry_fills_every_pack_and_loses_less_than_one(lengths, seq_len):
    bounds = carry_bounds(starts_of(np.array(lengths)), seq_len)
    if sum(lengths) >= seq_len:
        assert bounds.num_full == bounds.num_packs == sum(lengths) // seq_len
        assert bounds.tokens_lost < seq_len
    else:
        assert packs_of(bounds) == [list(range(sum(lengths)))]


def test_stock_settings_leave_no_full_pack_at_128k():
    """52,002 documents of 97 tokens, 32 workers, batches of 1,000: 97k tokens a pack at most."""
    bounds = stock_bounds(starts_of(np.full(52_002, 97)), 2**17, 1000, 32)
    assert bounds.num_full == 0
    assert 50_000 < bounds.mean_pack_tokens < 97_001


@given(LENGTHS, st.integers(1, 4), st.integers(0, 2**32))
def test_the_stream_holds_every_document_concat_times(lengths, concat, seed):
    starts = starts_of(np.array(lengths))
    documents = Documents(np.arange(starts[-1], dtype=np.int32), starts)
    stream = gather(documents, epoch_order(len(lengths), concat, seed))
    assert stream.num_documents == concat * len(lengths)
    found = [stream.coded[a:b].tolist() for a, b in zip(stream.starts[:-1], stream.starts[1:], strict=True)]
    assert sorted(found) == sorted(numbered(lengths) * concat)


def test_gathering_in_blocks_is_gathering_at_once(monkeypatch):
    lengths = np.random.default_rng(0).integers(1, 9, size=500)
    starts = starts_of(lengths)
    documents = Documents(np.arange(starts[-1], dtype=np.int32), starts)
    order = epoch_order(500, 3, seed=1)
    whole = gather(documents, order).coded.copy()
    monkeypatch.setattr("tgsbench.workload.documents._BLOCK", 7)
    assert np.array_equal(gather(documents, order).coded, whole)


def test_order_follows_the_seed():
    assert np.array_equal(epoch_order(100, 2, 7), epoch_order(100, 2, 7))
    assert not np.array_equal(epoch_order(100, 2, 7), epoch_order(100, 2, 8))


def test_labels_are_the_tokens_after_the_ignored_ones():
    parts = from_parts(
        np.arange(9, dtype=np.int32),
        np.array([5, 4]),
        num_ignored=np.array([2, 1]),
        num_labels=np.array([2, 3]),
    )
    assert (parts.coded < 0).tolist() == [False, False, True, True, False, False, True, True, True]
    assert tokens_of(parts.coded).tolist() == list(range(9))
