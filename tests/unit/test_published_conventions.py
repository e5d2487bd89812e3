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


def test_every_row_is_explained_but_five_that_contradict_others():
    unexplained = [row for row in KNOWN if not explained(row)]
    assert (len(KNOWN), len(unexplained)) == (38, 5)
    by_model = {row["model"]: [] for row in unexplained}
    for row in unexplained:
        by_model[row["model"]].append(1e3 * float(row["tflops"]) / float(row["tgs"]))
    # Llama2-7B cannot cost 23.4 GFLOPs a token where its weights alone take 6N = 40.
    assert all(cost < 24 for cost in by_model.pop("Llama2-7B"))
    # Two rows of one repository give GPT-OSS-120B 29.7 GFLOPs a token at 4,096; a third gives it 32.6.
    assert all(29.6 < cost < 29.8 for cost in by_model.pop("GPT-OSS-120B"))
    assert by_model == {}


def test_deepseek_s_row_has_the_mtp_module_in_it():
    (row,) = (row for row in KNOWN if row["model"] == "DeepSeek-V3")
    assert explained(row) == "model_mtp"


def test_megatron_leaves_out_the_router():
    row = next(row for row in KNOWN if row["model"] == "Qwen3-30B-A3B" and row["seq_len"] == "4096")
    found = identify(read(row["config"]).shape, 4096, float(row["tgs"]), float(row["tflops"]))
    assert found.convention == "model_no_router"
    assert abs(found.candidates[0].deviation) < 1e-4
