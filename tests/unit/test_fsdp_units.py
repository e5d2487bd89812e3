"""What FSDP gathers and reduces, by shape alone, against the models that ranks build."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from torch import nn

from tests.unit.family_shapes import TRAINED, small
from tgsbench import presets
from tgsbench.metrics.integrity import (
    check,
    check_exchanges,
    expected_copy_sums,
    expected_gathers,
    expected_scatters,
)
from tgsbench.metrics.step_total import StepTotal
from tgsbench.models.family import cut_length
from tgsbench.schema.preset import Preset
from tgsbench.systems.fsdp_units import fsdp_units
from tgsbench.training.engines.fsdp2 import _cut_of
from tgsbench.training.model.build import build_meta
from tgsbench.training.model.experts import expert_modules

RANKS = (2, 3, 7, 16, 96)


def on(name: str, ranks: int) -> Preset:
    """A small shape of a family over so many ranks, none of which is an odd number of anything."""
    preset = small(TRAINED[name])
    return replace(
        preset,
        hardware=replace(preset.hardware, num_gpus=ranks),
        parallel=replace(preset.parallel, sp=1),
        engine=replace(preset.engine, compile=True),  # each parameter its own
    )


def values(module: nn.Module, decoder: nn.Module, ranks: int) -> int:
    """Values that FSDP cuts a module's parameters into, padding included, by where the engine cuts them."""
    cut, total = _cut_of(decoder, ranks), 0
    for parameter in module.parameters():
        along = cut(parameter)
        dim = along.dim if along else 0
        rows = parameter.shape[dim]
        total += parameter.numel() // rows * cut_length(rows, ranks)
    return total


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("family", TRAINED)
def test_units_are_those_of_the_model_that_is_built(family, ranks):
    preset = on(family, ranks)
    model = build_meta(preset.model, 256, "eager", 2048)
    decoder = model.model
    layers = sorted(values(layer, decoder, ranks) for layer in decoder.layers)
    *units, last = fsdp_units(preset)
    if preset.model.tie_word_embeddings:
        ends = values(decoder.embed_tokens, decoder, ranks) + values(decoder.norm, decoder, ranks)
    else:
        table = units.pop()
        assert table.values == values(decoder.embed_tokens, decoder, ranks)
        ends = values(decoder.norm, decoder, ranks) + values(model.head, decoder, ranks)
    assert last.values == ends
    assert sorted(unit.values for unit in units for _ in range(unit.num)) == layers


@pytest.mark.parametrize("ranks", [3, 7, 16])
@pytest.mark.parametrize("family", ["gpt_oss", "mixtral", "qwen3_moe", "deepseek_v3", "glm4_moe"])
def test_experts_of_a_part_are_cut_as_the_engine_cuts_them(family, ranks):
    preset = on(family, 2 * ranks)
    preset = replace(preset, parallel=replace(preset.parallel, ep=2))
    decoder = build_meta(preset.model, 256, "eager", 2048).model
    for module in expert_modules(decoder):
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter[: parameter.shape[0] // 2]))
    of_experts = {unit.values for unit in fsdp_units(preset) if unit.ranks == ranks}
    assert of_experts == {values(module, module, ranks) for module in expert_modules(decoder)}


def resolved(*sets: str) -> Preset:
    return presets.resolve("llama2_7b_8k", ["parallel.sp=1", "training.accumulation=4", *sets]).preset


PARAMETERS = 6_738_415_616
EMBEDDING = 32_000 * 4096


def test_a_stage_decides_how_often_parameters_and_gradients_travel():
    layers, again = 32, PARAMETERS - 2 * EMBEDDING - 4096
    gathers, scatters = expected_gathers(resolved()), expected_scatters(resolved())
    assert gathers == (4 * (2 * layers + 2), 4 * 2 * (PARAMETERS + again))
    assert scatters == (4 * (layers + 2), 4 * 4 * PARAMETERS)
    assert expected_gathers(resolved("engine.zero_stage=2")) == (layers + 2, 2 * PARAMETERS)
    assert expected_scatters(resolved("engine.zero_stage=2")) == scatters
    assert expected_scatters(resolved("engine.zero_stage=1")) == (layers + 2, 4 * PARAMETERS)
    assert expected_copy_sums(resolved()) == (0, 0)


def test_copies_sum_their_shards_once_in_what_gradients_are_reduced_in():
    copies = resolved("parallel.shard=4", "training.reduce_dtype=bfloat16")
    assert expected_copy_sums(copies) == (34, 2 * PARAMETERS // 4)
    assert expected_scatters(copies) == (4 * 34, 4 * 2 * PARAMETERS)
    whole = resolved("parallel.shard=1")
    assert expected_gathers(whole) == expected_scatters(whole) == (0, 0)
    assert expected_copy_sums(whole) == (34, 4 * PARAMETERS)


def test_an_engine_that_does_not_shard_by_fsdp_is_asked_for_nothing():
    other = presets.resolve("llama2_7b_8k", ["engine.name=deepspeed"]).preset
    assert expected_gathers(other) == expected_scatters(other) == expected_copy_sums(other) == (0, 0)


def steps(preset: Preset, ranks: int, **changes: int) -> list[StepTotal]:
    """Three steps in which so many ranks did what they must, but for the second one's changes."""
    kinds = {"gather": expected_gathers, "scatter": expected_scatters, "copy": expected_copy_sums}
    found = []
    for number in range(3):
        total = StepTotal(number, "measure", tells_shards=True)
        for name, expected in kinds.items():
            calls, num_bytes = expected(preset)
            setattr(total, f"{name}_calls", ranks * calls)
            setattr(total, f"{name}_bytes", ranks * num_bytes)
        for name, value in changes.items() if number == 1 else ():
            setattr(total, name, getattr(total, name) + value)
        found.append(total)
    return found


FAULTS = {
    "gather_calls": "gathers", "gather_bytes": "gathers", "scatter_calls": "reduce-scatters",
    "scatter_bytes": "reduce-scatters", "copy_calls": "all-reduces", "copy_bytes": "all-reduces",
}  # fmt: skip


@pytest.mark.parametrize("field", FAULTS)
def test_what_a_step_did_not_gather_or_reduce_is_a_problem_by_name(field):
    preset = resolved("parallel.shard=4")
    assert check_exchanges(preset, steps(preset, 1), 1).shards_ok is True
    found = check_exchanges(preset, steps(preset, 1, **{field: -1}), 1)
    assert found.shards_ok is False
    (problem,) = [text for text in found.problems if text.startswith("shards")]
    assert FAULTS[field] in problem and "(1 step, the first is step 1)" in problem


def test_runs_from_before_this_was_counted_are_not_judged():
    preset = resolved()
    found = check(preset, [StepTotal(0, "measure")], 0)
    assert found.shards_ok is None
    assert not any(text.startswith("shards") for text in found.problems)
    assert check(preset, [StepTotal(0, "measure", tells_shards=True)], 0).shards_ok is False
