"""One file an engine: nobody else names it, its switches are its own, its limits belong to releases."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.planner.advice import assign
from tgsbench.presets.resolve import from_document, to_toml
from tgsbench.safe_files import read_toml
from tgsbench.systems import registry, support
from tgsbench.systems.engines.deepspeed import DeepSpeedOptions
from tgsbench.systems.spec import Limit

PACKAGE = Path(registry.__file__).resolve().parents[1]
OLD = PACKAGE / "recorded" / "simulated-llama2_7b_128k" / "preset.toml"
MAY_NAME = (
    "systems/engines/",  # the engines' own files
    "training/engines/deepspeed/",  # DeepSpeed's package, extra and operator namespace
    "external/xtuner.py", "external/llamafactory.py", "external/trl.py", "external/swift.py",
    "external/torchtitan.py", "external/xtuner_v1.py", "external/llamafactory_v1.py",
    "external/megatron_bridge.py",
    "external/peer/",  # the systems' own words and flags
    "systems/log_formats.py", "systems/stacks.py",  # whose logs and rows are read, run here or not
    "models/flops.py",  # the FLOPs convention called xtuner
    "schema/reference.py",  # whose rows were published
)  # fmt: skip


def strays(source: str) -> list[str]:
    """Strings of a module, docstrings aside, that hold an engine's name as a word."""
    word = re.compile(rf"(?<![\w./-])({'|'.join(registry.built_in())})(?!\w)")
    tree = ast.parse(source)
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        f"line {node.lineno}: {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and id(node) not in documents
        if isinstance(node.value, str) and word.search(node.value)
    ]


def test_no_other_file_names_an_engine():
    files = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    found = {name: strays(path.read_text()) for name, path in files.items() if not name.startswith(MAY_NAME)}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_stray_is_seen():
    source = '"""About fsdp2."""\nif name == "fsdp2":\n    hint = f"use --engine deepspeed, {name}"\n'
    assert strays(source) == ["line 2: 'fsdp2'", "line 3: 'use --engine deepspeed, '"]


@pytest.mark.parametrize("name", list(registry.built_in()))
def test_an_engines_file_is_called_as_the_engine(name):
    assert (PACKAGE / "systems" / "engines" / f"{name}.py").is_file()


def test_the_planner_knows_what_every_engine_costs():
    assert [name for name, spec in registry.built_in().items() if spec.costs is None] == []


@pytest.mark.parametrize(
    ("sets", "owner"),
    [
        (["engine.tiled_loss=true"], "deepspeed"),
        (["engine.data_adapter=true"], "deepspeed"),
        (["engine.cpu_shim=true"], "xtuner"),
        (["engine.name=deepspeed", "engine.cpu_shim=true"], "xtuner"),
        (["engine.name=llamafactory", "engine.tiled_loss=true"], "deepspeed"),
    ],
)
def test_a_switch_of_another_engine_is_refused_with_its_owners_name(sets, owner):
    switch = sets[-1].partition("=")[0]
    with pytest.raises(TgsError) as caught:
        presets.resolve("tiny_cpu", sets)
    assert caught.value.exit_code == ExitCode.BAD_PRESET
    assert f'{switch} belongs to engine "{owner}"; use --engine {owner} (--set)' in caught.value.msg


def test_a_foreign_switch_and_a_bad_mesh_are_told_at_once():
    with pytest.raises(TgsError) as caught:
        presets.resolve("tiny_cpu", ["engine.data_adapter=true", "parallel.sp=3"])
    assert "engine.data_adapter belongs to" in caught.value.msg
    assert "parallel.sp=3: dp · sp = world" in caught.value.msg


def test_a_preset_of_an_older_run_loads_with_the_switches_of_all_engines():
    document = read_toml(OLD)
    assert {"zero_stage", "offload", "data_adapter", "tiled_loss", "cpu_shim"} <= set(document["engine"])
    preset = from_document(document)
    assert (preset.engine.name, preset.engine.zero_stage, preset.engine.offload) == ("fsdp2", 3, "none")


def test_an_older_deepspeed_run_keeps_its_own_switches():
    document = read_toml(OLD)
    document["engine"] |= {"name": "deepspeed", "zero_stage": 2, "tiled_loss": True}
    options = from_document(document).engine
    assert isinstance(options, DeepSpeedOptions)
    assert (options.zero_stage, options.tiled_loss, options.data_adapter) == (2, True, False)


@pytest.mark.parametrize("name", list(registry.built_in()))
def test_a_written_preset_reads_back(name, tmp_path):
    sets = [f"engine.name={name}", "training.checkpointing=full"]
    preset = presets.resolve("tiny_cpu", sets).preset
    path = tmp_path / "preset.toml"
    path.write_text(to_toml(preset))
    assert from_document(read_toml(path)) == preset


def test_the_planner_changes_the_engine_and_carries_common_switches_over():
    preset = presets.resolve("tiny_cpu", ["engine.loss_chunk_tokens=64"]).preset
    changed = assign(preset, {"engine.name": "deepspeed", "engine.offload": "optimizer"})
    assert changed.engine == DeepSpeedOptions(loss_chunk_tokens=64, offload="optimizer")


def test_engines_side_by_side_each_get_their_own_switches():
    sets = ["parallel.sp=2", "engine.cpu_shim=true", "engine.kernel=sdpa", "engine.tiled_loss=true"]
    both = ("fsdp2", "xtuner")
    assert registry.assignments_for("fsdp2", both, sets) == [sets[0], sets[2], sets[3]]
    assert registry.assignments_for("xtuner", both, sets) == sets


@pytest.mark.parametrize(
    ("version", "holds"), [("", True), ("0.9.5", False), ("1.0", True), ("1.2.3+cpu", True), ("1.10", False)]
)
def test_a_limit_holds_from_its_first_release_until_the_one_that_mends_it(version, holds):
    assert Limit(what="x", since="1.0", until="1.10").holds(version) == holds


def test_a_limit_of_a_later_release_is_not_asked_of_the_tested_one(monkeypatch):
    preset = presets.resolve("tiny_cpu", ["engine.name=llamafactory", "training.checkpointing=full"]).preset
    spec = registry.find_engine("llamafactory")
    assert [gap.what for gap in support.gaps(preset)] == ["no sequence parallelism (sp=2)"]
    mended = replace(spec, limits=tuple(replace(limit, until="0.9.5") for limit in spec.limits))
    monkeypatch.setattr(registry, "find_engine", lambda name: mended)
    assert support.gaps(preset) == []
