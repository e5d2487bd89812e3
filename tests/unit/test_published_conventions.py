"""What people printed in 2026: which convention is behind their TFLOPs, and which rows contradict themselves.

tests/data/published_2026.csv holds every row of MaxText's, Primus' and Megatron-Bridge's recipes that prints
tokens per second and TFLOPs; `config` is empty where the model is of no family that is known here.
"""

from __future__ import annotations

import csv
from pathlib import Path

from tests.unit.family_shapes import read
from tgsbench.results.convention import identify

ROWS = list(csv.DictReader((Path(__file__).parent.parent / "data" / "published_2026.csv").open()))
KNOWN = [row for row in ROWS if row["config"]]
USUAL = (4096, 8192)
"""Lengths that are tried where a row prints none."""


def explained(row: dict[str, str]) -> str:
    """The convention, or nothing."""
    shape, tgs, tflops = read(row["config"]).shape, float(row["tgs"]), float(row["tflops"])
    lengths = [int(row["seq_len"])] if row["seq_len"] else USUAL
    found = [identify(shape, length, tgs, tflops) for length in lengths]
    best = min(found, key=lambda one: abs(one.candidates[0].deviation))
    if best.convention:
        return best.convention
    return "model, packed" if row["packed"] == "1" and best.packed_len is not None else ""


def test_every_row_is_explained_or_contradicts_itself():
    unexplained = [row for row in KNOWN if not explained(row)]
    assert (len(KNOWN), len(unexplained)) == (38, 3)
    for row in unexplained:  # six rows of one table, of which three are kept: pipelines of 8 or 16 stages
        assert row["model"] == "Llama2-7B"
        found = identify(read(row["config"]).shape, 8192, float(row["tgs"]), float(row["tflops"]))
        assert "its weights alone take 39.6" in found.contradiction
        assert "16 of its 32 layers would explain it" in found.contradiction


def test_rows_with_data_of_another_tokenizer_count_the_head_at_its_size():
    rows = [row for row in KNOWN if row["model"] == "GPT-OSS-120B" and row["gpu"] == "H100"]
    shape = read(rows[0]["config"]).shape
    for row in (row for row in rows if row["seq_len"] == "4096"):
        found = identify(shape, 4096, float(row["tgs"]), float(row["tflops"]))
        assert found.convention == "model_vocab_32k"
        assert abs(found.candidates[0].deviation) < 2e-4


def test_rows_that_are_explained_contradict_nothing():
    for row in filter(explained, KNOWN):
        length = int(row["seq_len"] or 8192)
        found = identify(read(row["config"]).shape, length, float(row["tgs"]), float(row["tflops"]))
        assert not found.contradiction, row


def test_deepseek_s_row_has_the_mtp_module_in_it():
    (row,) = (row for row in KNOWN if row["model"] == "DeepSeek-V3")
    assert explained(row) == "model_mtp"


def test_megatron_leaves_out_the_router():
    row = next(row for row in KNOWN if row["model"] == "Qwen3-30B-A3B" and row["seq_len"] == "4096")
    found = identify(read(row["config"]).shape, 4096, float(row["tgs"]), float(row["tflops"]))
    assert found.convention == "model_no_router"
    assert abs(found.candidates[0].deviation) < 1e-4


def test_a_figure_of_which_nothing_is_left_per_token_contradicts_itself():
    found = identify(read("qwen3_8b").shape, 8192, 1e12, 5e-324)
    assert found.contradiction.startswith("0.0 GFLOPs a token, but its weights alone take")
