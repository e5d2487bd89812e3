"""Options of a preset: one text for the command, the JSON schema and the form."""

from __future__ import annotations

import json

import msgspec
import pytest
from click.testing import CliRunner

from tgsbench.cli.presets import presets as command
from tgsbench.errors import TgsError
from tgsbench.planner.option_effects import effects
from tgsbench.presets.json_schema import preset_schema
from tgsbench.presets.options import all_options, option_of
from tgsbench.schema.descriptions import descriptions
from tgsbench.schema.preset import Measure, Parallel, Preset, Training, Workload
from tgsbench.systems import registry
from tgsbench.systems.engines.fsdp2 import Fsdp2Options


def said(*args: str) -> str:
    done = CliRunner().invoke(command, ["explain", *args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("table", [Workload, Parallel, Training, Measure, Fsdp2Options])
def test_every_option_says_what_it_does(table: type[msgspec.Struct]) -> None:
    told = descriptions(table)
    assert set(told) | {"name"} >= set(table.__struct_fields__)
    assert all(text.endswith(".") and "\n" not in text for text in told.values())


def test_every_switch_of_every_engine_is_an_option_with_its_engines() -> None:
    options = all_options()
    for spec in registry.engines():
        for name in spec.options.__struct_fields__:
            assert not options[f"engine.{name}"].engines or spec.name in options[f"engine.{name}"].engines
    assert options["engine.head_parts"].engines == ["fsdp2"]
    assert options["engine.tiled_mlp"].engines == []
    assert options["parallel.ring"].engines == ["fsdp2"]
    assert options["training.checkpointing"].choices == ["none", "selective", "full"]
    assert "--set training.linear=fp8" in options["training.fp8_recipe"].needs


def test_the_json_schema_says_the_same() -> None:
    tables = preset_schema()["$defs"]
    assert tables["Parallel"]["properties"]["ring"]["description"] == option_of("parallel.ring").what
    assert tables["Fsdp2Options"]["properties"]["kv_hops"]["description"] == option_of("engine.kv_hops").what
    assert tables["DeepSpeedOptions"]["properties"]["tiled_mlp"]["description"]
    assert not set(descriptions(Preset)) - set(Preset.__struct_fields__)


@pytest.mark.parametrize(
    ("asked", "meant"), [("ring", "parallel.ring"), ("training.tiled_mlp", "engine.tiled_mlp"), ("x", "")]
)
def test_an_option_that_is_none_is_told_the_nearest(asked: str, meant: str) -> None:
    with pytest.raises(TgsError, match=f"called '{asked}'.*{meant}"):
        option_of(asked)


def test_explain_says_what_values_and_what_each_costs() -> None:
    text = said("engine.tiled_mlp", "llama3_8b_128k")
    assert option_of("engine.tiled_mlp").what in text
    assert "  values    false, true" in text
    rows = [line.split() for line in text.splitlines() if "GiB" in line]
    assert [row[:2] for row in rows] == [["*", "false"], ["true", rows[1][1]]]
    found = json.loads(said("engine.tiled_mlp", "llama3_8b_128k", "--json"))
    assert found["now"] == "false" and [effect["value"] for effect in found["effects"]] == ["false", "true"]
    assert len(said().splitlines()) == len(all_options())


def test_a_value_that_cannot_be_says_why_and_what_is_near() -> None:
    by_value = {
        e.value: e for e in effects("llama3_8b_128k", ["parallel.ring=2"], option_of("engine.kernel"))
    }
    assert "parallel.ring=1" in by_value["flash2"].problem and by_value["flash2"].tgs is None
    assert by_value["auto"].tgs and not by_value["auto"].problem
    rings = effects("llama2_70b_1M", [], option_of("parallel.ring"))
    assert [effect.value for effect in rings] == ["0", "1", "2", "4", "8", "16", "32", "64"]
    assert not any(effect.problem for effect in rings)
