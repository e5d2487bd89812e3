"""What a plan takes for the length of documents under a mask."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.planner.lengths import ALPACA_ATTENDED_LEN, attended_length, packed_length
from tgsbench.planner.plan import estimate, forecast_preset, machine_of, tgs_range
from tgsbench.workload.histogram import of_lengths

MASK = "workload.document_mask=true"


def _cut(lengths, seq_len, begin):
    """Sum of squares over sum of the pieces when the first pack begins `begin` tokens into the stream."""
    ends = np.cumsum(lengths)
    borders = np.arange(begin, ends[-1], seq_len)
    cuts = np.unique(np.concatenate([[0], ends, borders]))
    pieces = np.diff(cuts).astype(float)
    return (pieces**2).sum() / pieces.sum()


@pytest.mark.parametrize("seq_len", [512, 4096, 20_000])
def test_packs_cut_documents_as_expected(seq_len):
    lengths = np.random.default_rng(1).integers(1, 9000, size=2000)
    by_hand = np.mean([_cut(lengths, seq_len, begin) for begin in range(1, seq_len, seq_len // 16)])
    assert packed_length(of_lengths(lengths), seq_len, "split") == pytest.approx(by_hand, rel=0.02)


def test_long_documents_are_cut_or_dropped_as_the_workload_says():
    found = of_lengths(np.array([100, 100, 8000]))
    split, cut, drop = (packed_length(found, 1000, policy) for policy in ("split", "cut", "drop"))
    assert split == pytest.approx((200 * (100 - 100**2 / 3000) + 8e6 - 1e6 / 3) / 8200)
    assert cut == pytest.approx((200 * (100 - 100**2 / 3000) + 1e6 * 2 / 3) / 1200)
    assert drop == pytest.approx(100 - 100**2 / 3000)
    assert packed_length(of_lengths(np.array([8000])), 1000, "drop") == 1000


def test_a_plan_takes_the_lengths_of_the_file_that_a_run_draws_from(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("length,count\n6000,3\n")
    sets = [MASK, "workload.corpus=lengths", f"workload.lengths={path}"]
    own = forecast_preset(presets.resolve("llama2_7b_32k", sets).preset)
    alpaca = forecast_preset(presets.resolve("llama2_7b_32k", [MASK]).preset)
    assert own.tgs.estimate < alpaca.tgs.estimate
    assert any("5,634 tokens, of" in note for note in own.notes)
    path.write_text("60,3\n")
    assert forecast_preset(presets.resolve("llama2_7b_32k", sets).preset).tgs.estimate > alpaca.tgs.estimate


def test_a_file_of_lengths_that_is_none_is_an_error(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("many\nmore\n")
    sets = [MASK, "workload.corpus=lengths", f"workload.lengths={path}"]
    with pytest.raises(TgsError, match="expected a length in tokens"):
        forecast_preset(presets.resolve("llama2_7b_8k", sets).preset)


def test_data_of_unknown_lengths_are_said_and_widen_the_interval_below():
    alpaca = presets.resolve("llama2_7b_32k", [MASK]).preset
    own = replace(alpaca, workload=replace(alpaca.workload, corpus="./mine.jsonl"))
    machine = machine_of(alpaca)
    (known, _), (unknown, why) = (tgs_range(estimate(preset, machine)) for preset in (alpaca, own))
    assert unknown.estimate == known.estimate
    assert unknown.low < known.low
    assert unknown.high == known.high
    assert "documents of unknown length" in why
    assert "tgsbench data stats --histogram" in attended_length(own.workload).note


def test_without_a_mask_attention_sees_the_pack():
    whole = presets.resolve("llama2_7b_8k", []).preset.workload
    assert attended_length(whole) == (8192.0, 1.0, "")
    masked = replace(whole, document_mask=True)
    assert attended_length(masked).tokens == ALPACA_ATTENDED_LEN
