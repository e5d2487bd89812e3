"""Presets resolve, say where values came from, and report every problem at once."""

from __future__ import annotations

import tomllib

import jsonschema
import msgspec
import pytest
from msgspec.structs import replace

from tests.unit.family_shapes import small
from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import preflight
from tgsbench.presets import catalog
from tgsbench.presets.json_schema import preset_schema
from tgsbench.presets.resolve import check
from tgsbench.presets.save import save_user_preset
from tgsbench.presets.validate import mesh_problems

REFERENCE_ROWS = [
    *(f"llama2_7b_{n}" for n in ("8k", "32k", "128k", "256k", "1M")),
    *(f"yi_34b_{n}" for n in ("8k", "32k", "128k", "256k")),
    *(f"llama2_70b_{n}" for n in ("8k", "32k", "128k", "256k", "1M")),
]
OWN = [
    "tiny_cpu",
    *(f"llama3_8b_{n}" for n in ("8k", "32k", "128k", "512k")),
    *(f"llama3_1b_{n}" for n in ("8k", "32k", "128k")),
]


@pytest.fixture(autouse=True)
def away_from_user_presets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_all_promised_presets_are_shipped():
    assert set(REFERENCE_ROWS + OWN) <= set(presets.list_presets())


@pytest.mark.parametrize("name", REFERENCE_ROWS)
def test_reference_rows_carry_their_published_mesh_and_both_references(name):
    preset = presets.resolve(name).preset
    xtuner = presets.load_references()[name][0]
    assert (xtuner.num_gpus, xtuner.seq_len, xtuner.sp) == (
        preset.world_size,
        preset.workload.seq_len,
        preset.parallel.sp,
    )
    assert preset.accumulation == preset.parallel.sp
    assert preset.packs_per_step == preset.world_size
    if name != "llama2_70b_1M":
        assert [row.system for row in presets.load_references()[name]] == ["xtuner", "llamafactory"]


@pytest.mark.parametrize("name", REFERENCE_ROWS + OWN)
def test_toml_reads_back_to_the_same_preset(name):
    preset = presets.resolve(name).preset
    assert presets.from_document(tomllib.loads(presets.to_toml(preset))) == preset


def test_user_preset_extends_a_shipped_one_and_wins_over_it(tmp_path):
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "tiny_cpu.toml").write_text('extends = "tiny_cpu"\n[measure]\nsteps = 3\n')
    resolved = presets.resolve("tiny_cpu")
    assert resolved.preset.measure.steps == 3
    assert resolved.preset.parallel.sp == 2
    assert resolved.origins["measure.steps"] == str(tmp_path / "presets" / "tiny_cpu.toml")


def test_a_preset_of_the_config_folder_is_found(tmp_path):
    folder = tmp_path / "config" / "tgsbench" / "presets"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text('extends = "llama2_7b_8k"\n')
    assert presets.resolve("mine").preset.name == "mine"


def test_set_overrides_with_origin():
    resolved = presets.resolve("llama2_7b_128k", ["workload.seq_len=64k", "model.num_layers=4"])
    assert resolved.preset.workload.seq_len == 65536
    assert resolved.preset.model.num_layers == 4
    assert resolved.preset.model.hidden_size == 4096
    assert resolved.origins["model.num_layers"] == "--set"


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["parallel.sp=3"], ["64 GPUs are not divisible by 3", "64 query heads", "nearest: 2, 4"]),
        (["paralel.sp=2"], ["paralel: unknown key", "nearest: parallel"]),
        (["sp=2"], ["sp: unknown key; did you mean parallel.sp?"]),
        (["steps=2"], ["steps: unknown key; did you mean measure.steps?"]),
        (["training.checkpointing=fulll"], ["'fulll' is none of none, selective, full", "--set"]),
        (["workload.seq_len=-1"], ["workload.seq_len", "not a positive whole number"]),
        (["workload.seq_len=1048570"], ["seq_len 1048570 is not divisible by 64"]),
        (["model=llama9"], ["no model called 'llama9'", "nearest"]),
        (["training.lr=abc"], ["training.lr", "abc"]),
        (["training.lr=-1"], ["training.lr=-1.0: must not be negative"]),
        (["training.beta2=1"], ["training.beta2=1.0: must be at least 0 and below 1"]),
        (["training.clip_norm=0"], ["training.clip_norm=0.0: must be above 0"]),
        (["training.lr_warmup_ratio=2", "training.weight_decay=-1"], ["lr_warmup_ratio", "weight_decay"]),
        (["workload.seq_len=1" + "0" * 400], ["workload.seq_len", "not a positive whole number"]),
        (["hardware.num_gpus=0"], ["hardware.num_gpus=0: must be at least 1"]),
        (["engine.tiled_loss=true"], ["--engine deepspeed"]),
        (["workload=5"], ["workload: expected a table"]),
        (["nonsense"], ["write key=value"]),
    ],
)
def test_bad_values_name_key_origin_and_remedy(sets, words):
    with pytest.raises(TgsError) as caught:
        presets.resolve("llama2_70b_1M", sets)
    assert caught.value.exit_code == ExitCode.BAD_PRESET
    for word in words:
        assert word in caught.value.msg + caught.value.hint


def test_all_problems_are_reported_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text('extends="tiny_cpu"\ncolour="red"\n[parallel]\nsp="two"\n[measure]\nstepz=1\n')
    problems = check(path)
    assert len(problems) == 3
    assert any("colour: unknown key" in p for p in problems)
    assert any("measure.stepz: unknown key; nearest: steps" in p for p in problems)
    assert any("parallel.sp" in p and str(path) in p for p in problems)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(TgsError, match="nearest: llama2_70b_1M"):
        presets.resolve("llama2_70b_1m")


@pytest.mark.parametrize("name", ["../tiny_cpu", "a/b", "", ".hidden"])
def test_names_cannot_leave_the_folders(name):
    with pytest.raises(TgsError):
        presets.resolve(name)


@pytest.mark.parametrize("text", ["extends = ", "\x00", "[a\nb=1", 'extends = "self"'])
def test_broken_files_are_clear_errors(tmp_path, text):
    (tmp_path / "presets").mkdir()
    path = tmp_path / "presets" / "self.toml"
    path.write_text(text)
    with pytest.raises(TgsError) as caught:
        presets.resolve("self")
    assert caught.value.exit_code == ExitCode.BAD_PRESET


def test_an_unknown_gpu_has_no_peak():
    assert presets.find_gpu("NVIDIA Imaginary 9000") is None
    assert presets.find_gpu("NVIDIA H100 80GB HBM3").bf16_tflops == 989.4
    assert all(gpu.source for gpu in presets.load_gpus().values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows = 5\nsystem = 'lab'", "rows"),
        ("[[rows]]\npreset = 'tiny_cpu'", "system"),
        ("system = 'lab'\n[[rows]]\nseq_len = '8k'", "rows[0]: preset: missing"),
        ("system = 'lab'\n[[rows]]\npreset = 'tiny_cpu'", "rows[0]: '' is not a length"),
        ("system = 'lab'\n[[rows]]\npreset = 'tiny_cpu'\nseq_len = '1k'\ntgs = 'fast'", "rows[0]: "),
    ],
)
def test_damaged_published_rows_end_a_run_before_it_starts(tmp_path, text, words):
    folder = tmp_path / "presets" / "references"
    folder.mkdir(parents=True)
    (folder / "lab.toml").write_text(text)
    presets.load_references.cache_clear()
    try:
        with pytest.raises(TgsError) as caught:
            preflight.check(presets.resolve("tiny_cpu").preset, preflight.this_machine(), 2)
    finally:
        presets.load_references.cache_clear()
    assert "lab.toml" in caught.value.msg
    assert words in caught.value.msg
    assert caught.value.exit_code == ExitCode.BAD_PRESET


def test_the_rows_of_one_preset_are_those_of_all_tables_however_they_are_written(tmp_path, monkeypatch):
    for name in presets.list_presets():
        assert catalog.references_of(name) == presets.load_references().get(name, [])
    folder = tmp_path / "presets" / "references"
    folder.mkdir(parents=True)
    row = "preset = 'tiny_cpu', gpu = 'x', num_gpus = 1, seq_len = '1k', source = 's', tgs = 5.0"
    (folder / "lab.toml").write_text(f"system = 'lab'\nrows = [{{{row}}}]\n")
    (folder / "worse.toml").write_text("system = 'tiny_cpu'\n[[rows]]\npreset =")
    monkeypatch.chdir(tmp_path)
    assert [found.tgs for found in catalog.references_of("tiny_cpu")] == [5.0]


def test_a_damaged_file_of_another_gpu_or_link_hides_none(tmp_path, monkeypatch):
    for kind in ("hardware", "links"):
        (tmp_path / "presets" / kind).mkdir(parents=True)
        (tmp_path / "presets" / kind / "broken.toml").write_text("name =")
    monkeypatch.chdir(tmp_path)
    assert catalog.find_gpu("H200-SXM-141GB").memory_gib > 130
    assert catalog.find_gpu("broken") is None
    assert catalog.load_link("ndr400") == catalog.load_links()["ndr400"]
    assert catalog.load_link("broken") is None


def test_text_of_any_kind_reads_back_from_toml():
    preset = presets.resolve("tiny_cpu").preset
    odd = msgspec.structs.replace(preset, description='a "b" \\ \n \x7f é', notes=["x" * 200, "\x7f"])
    assert presets.from_document(tomllib.loads(presets.to_toml(odd))) == odd


def test_a_saved_preset_holds_its_base_and_what_was_changed():
    path = save_user_preset("mine", "tiny_cpu", ["measure.steps=2", 'description="a \x7f"'])
    assert tomllib.loads(path.read_text()) == {
        "extends": "tiny_cpu", "measure": {"steps": 2}, "description": "a \x7f",
    }  # fmt: skip
    assert presets.resolve("mine").preset.measure.steps == 2


def test_a_value_that_toml_has_not_is_refused_and_nothing_is_written():
    with pytest.raises(TgsError, match="cannot be written as TOML") as raised:
        save_user_preset("mine", "tiny_cpu", ["measure.steps=null"])
    assert raised.value.exit_code == ExitCode.BAD_PRESET
    assert not (catalog.config_dir() / "presets" / "mine.toml").exists()


def schema_problems(text: str) -> list[str]:
    found = jsonschema.Draft202012Validator(preset_schema()).iter_errors(tomllib.loads(text))
    return [error.message for error in found]


def test_the_schema_of_presets_is_a_schema_and_every_shipped_file_keeps_to_it():
    jsonschema.Draft202012Validator.check_schema(preset_schema())
    files = sorted(catalog.shipped("presets").glob("*.toml"))
    assert len(files) > 20
    assert {file.name: found for file in files if (found := schema_problems(file.read_text()))} == {}


@pytest.mark.parametrize("name", REFERENCE_ROWS + OWN)
def test_a_resolved_preset_keeps_to_the_schema_too(name):
    assert schema_problems(presets.to_toml(presets.resolve(name).preset)) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("colour = 1", "colour"),
        ("[workload]\nseq_len = 'long'", "long"),
        ("[parallel]\nsp = 'x'", "integer"),
        ("[training]\ncheckpointing = 'some'", "some"),
        ("[model]\nlayers = 3", "layers"),
        ("[engine]\nname = 'fsdp2'\ntiled_loss = true", "tiled_loss"),
        ("[engine]\nname = 'fsdp3'", "fsdp3"),
    ],
)
def test_a_slip_is_seen_by_the_schema(text, word):
    assert any(word in problem for problem in schema_problems(text))


def test_the_schema_knows_the_switches_of_each_engine():
    assert schema_problems("[engine]\nname = 'deepspeed'\nzero_stage = 2\ntiled_loss = true") == []
    assert schema_problems("[engine]\nname = 'xtuner'\ncpu_shim = true") == []


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("measure.steps=abc", "measure.steps: 'abc' is not a whole number (--set)"),
        ("measure.steps=" + "[" * 3000, f"measure.steps: '{'[' * 58}… is not a whole number (--set)"),
        ("measure.steps=true", "measure.steps: true is not a whole number (--set)"),
        ("training.lr=null", "training.lr: null is not a number (--set)"),
        ("notes=5", "notes: 5 is not a list of texts (--set)"),
        ("profile=5", "profile: 5 is not text (--set)"),
        ("workload.document_mask=perhaps", "workload.document_mask: 'perhaps' is not true or false (--set)"),
        ("workload.seq_len=x", "1 problem\n  workload.seq_len: 'x' is not a length"),
    ],
)
def test_a_wrong_value_is_refused_in_words_and_once(assignment, said):
    with pytest.raises(TgsError) as refused:
        presets.resolve("tiny_cpu", [assignment])
    assert said in refused.value.msg
    assert refused.value.msg.count("\n") == 1


def test_a_models_name_and_a_key_below_it_are_saved_as_they_resolve():
    assignments = ["model=llama2_7b", "model.num_layers=1", "hardware.num_gpus=1", "parallel.sp=1"]
    save_user_preset("thin", "tiny_cpu", assignments)
    saved, resolved = presets.resolve("thin").preset, presets.resolve("tiny_cpu", assignments).preset
    assert saved.model == resolved.model
    assert (saved.model.name, saved.model.num_layers) == ("Llama2-7B", 1)
    with pytest.raises(TgsError, match="no_such_model"):
        save_user_preset("thinner", "tiny_cpu", ["model=no_such_model", "model.num_layers=1"])


def test_presets_of_one_model_and_list_as_a_word():
    from click.testing import CliRunner

    from tgsbench.cli.main import cli

    bare = CliRunner().invoke(cli, ["presets"]).output
    assert CliRunner().invoke(cli, ["presets", "list"]).output == bare
    of_one = CliRunner().invoke(cli, ["presets", "--model", "yi-34b"]).output.splitlines()[1:]
    assert of_one == [line for line in bare.splitlines() if line.startswith("yi_34b")]
    unknown = CliRunner().invoke(cli, ["presets", "--model", "bloom"]).exception
    assert "Llama2-7B" in unknown.msg and unknown.exit_code == ExitCode.BAD_PRESET


def ring_preset(*sets):
    return presets.resolve("llama2_70b_1M", ["training.accumulation=1", *sets]).preset


@pytest.mark.parametrize(
    ("sets", "ring", "ulysses"),
    [
        ([], 1, 64),
        (["hardware.num_gpus=128", "parallel.sp=128"], 16, 8),
        (["parallel.ring=8"], 8, 8),
        (["model.num_query_heads=4", "model.num_kv_heads=2", "parallel.sp=8"], 2, 4),
        (["model.num_query_heads=8", "model.num_kv_heads=2", "parallel.sp=8"], 1, 8),
    ],
)
def test_a_ring_is_chosen_where_the_heads_do_not_do(sets, ring, ulysses):
    preset = ring_preset(*sets)
    assert (preset.ring, preset.ulysses) == (ring, ulysses)


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["parallel.ring=3"], ["64 is not divisible by parallel.ring=3; nearest: parallel.ring=2 or 4"]),
        (["parallel.ring=64", "workload.seq_len=64"], ["not divisible by 2 · 64 chunks"]),
        (["parallel.ring=2", "engine.name=deepspeed"], ["deepspeed has no ring", "--engine fsdp2"]),
        (["parallel.ring=2", "engine.kernel=flash3"], ["flash attention", "parallel.ring=1"]),
        (["parallel.ring=2", "training.compute_dtype=float32"], ["bfloat16"]),
        (["parallel.shard=5"], ["64 GPUs are not divisible by parallel.shard=5", "nearest: 4, 8"]),
        (["parallel.shard=8", "engine.name=deepspeed"], ["one copy over all 64", "--engine fsdp2"]),
        (["training.reduce_dtype=bfloat16", "engine.name=deepspeed"], ["reduce_dtype", "--engine fsdp2"]),
        (["parallel.shard=-1"], ["parallel.shard=-1: must not be negative"]),
    ],
)
def test_rings_and_copies_that_cannot_be_are_refused_with_what_can(sets, words):
    with pytest.raises(TgsError) as caught:
        ring_preset(*sets)
    for word in words:
        assert word in caught.value.msg + caught.value.hint


def test_a_ring_takes_layers_with_windows_and_none_with_linear_attention():
    windows = ("model.family=mistral", "model.window=4096")
    windowed = ring_preset("parallel.sp=4", "parallel.ring=2", *windows, 'model.layer_pattern=["window"]')
    assert windowed.ring == 2
    with pytest.raises(TgsError, match="all layers of family mistral have it or none; nearest"):
        ring_preset("parallel.sp=4", "parallel.ring=2", *windows)
    linear = replace(windowed, model=small("qwen3_next_80b_a3b").model)
    assert "linear attention, which no ring splits; nearest: 1" in " ".join(mesh_problems(linear))


@pytest.mark.parametrize(
    ("name", "sets", "words"),
    [
        ("llama3_8b_8k", ["parallel.ep=2"], ["has no experts", "nearest: 1"]),
        ("qwen3_30b_a3b_8k", ["parallel.ep=3"], ["128 experts are not divisible by 3", "nearest: 2, 4"]),
        ("qwen3_30b_a3b_8k", ["parallel.ep=64"], ["16 GPUs are not divisible by 64", "nearest: 8, 16"]),
        ("qwen3_30b_a3b_8k", ["parallel.ep=2", "parallel.shard=8"], ["without copies", "parallel.shard=0"]),
        ("qwen3_30b_a3b_8k", ["parallel.ep=2", "engine.compile=true"], ["engine.compile=false"]),
        ("qwen3_30b_a3b_8k", ["parallel.ep=0"], ["parallel.ep=0: must be at least 1"]),
    ],
)
def test_experts_that_cannot_be_shared_out_are_refused_with_what_can(name, sets, words):
    with pytest.raises(TgsError) as caught:
        presets.resolve(name, sets)
    for word in words:
        assert word in caught.value.msg + caught.value.hint


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["hardware.gpu=A100-SXM4-80GB"], ["A100-SXM4-80GB has no FP8", 'nearest: "plain"', "L40S-48GB"]),
        (["training.fp8_recipe=mxfp8"], ["H100-SXM5-80GB has none", "rowwise, tensorwise", "B"]),
        (["engine.name=deepspeed"], ["deepspeed has no FP8", "--engine fsdp2"]),
        (["training.compute_dtype=float32"], ['nearest: training.compute_dtype="bfloat16"']),
        (["engine.compile=true"], ["not compiled here", "engine.compile=false"]),
        (["workload.seq_len=65600"], ["tokens of a rank", "=4100", "nearest: 4096, 4112"]),
        (["hardware.gpu=MI300X-192GB"], ["MI300X-192GB has no FP8"]),
    ],
)
def test_fp8_that_cannot_be_is_refused_with_what_can(sets, words):
    with pytest.raises(TgsError) as caught:
        presets.resolve("llama2_7b_1M", ["training.linear=fp8", "hardware.gpu=H100-SXM5-80GB", *sets])
    for word in words:
        assert word in caught.value.msg + caught.value.hint


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["engine.sequence_chunks=3"], ["16384 tokens of a rank", "nearest: 2, 4"]),
        (["engine.sequence_chunks=0"], ["nearest: 1"]),
        (["engine.sequence_chunks=5000"], ["nearest: 4096"]),
        (["parallel.ring=2"], ["parallel.ring=2", "nearest: 1, or parallel.ring=1"]),
        (["training.checkpointing=none"], ['training.checkpointing="full"']),
        (["engine.compile=true"], ["engine.compile=false"]),
        (["engine.liger=true"], ["engine.liger=false"]),
        (["engine.kernel=flash3"], ["engine.kernel", '"auto"']),
        (["training.compute_dtype=float32"], ['"bfloat16"']),
        (["model.family=phi3"], ["of phi3", "only those of llama, mistral, qwen2, qwen3, ", "nearest: 1"]),
        (["engine.head_parts=2"], ["engine.head_parts has no effect", "no chunks"]),
        (["training.linear=fp8", "engine.sequence_chunks=2048"], ["=8: FP8", "nearest: 16"]),
        (["engine.name=deepspeed"], ["sequence_chunks"]),
    ],
)
def test_chunks_of_the_sequence_that_cannot_be_are_refused_with_what_can(sets, words):
    with pytest.raises(TgsError) as caught:
        presets.resolve("llama3_8b_128k", ["engine.sequence_chunks=4", *sets])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_chunks_of_the_sequence_are_said_in_words():
    preset = presets.resolve("llama3_8b_128k", ["engine.sequence_chunks=4"]).preset
    assert preset.sharing == "4 sequence chunks"


def test_fp8_of_experts_is_refused_and_a_recipe_without_it_has_no_effect():
    for name, sets, word in (
        ("qwen3_30b_a3b_8k", ["training.linear=fp8"], "experts are grouped"),
        ("tiny_cpu", ["training.fp8_recipe=tensorwise"], "training.linear=fp8"),
    ):
        with pytest.raises(TgsError, match=word):
            presets.resolve(name, sets)


def test_fp8_is_said_in_words_and_only_where_it_is():
    assert presets.resolve("tiny_cpu", []).preset.linear == ""
    sets = ["training.linear=fp8", "training.fp8_recipe=mxfp8", "hardware.gpu=B200-SXM-180GB"]
    assert presets.resolve("llama2_7b_1M", sets).preset.linear == "FP8 mxfp8"


def test_how_ranks_share_is_said_in_words_and_only_where_it_is_unusual():
    assert ring_preset().sharing == ""
    sets = ["parallel.ring=8", "parallel.shard=8", "engine.zero_stage=2", "training.reduce_dtype=bfloat16"]
    assert ring_preset(*sets).sharing == (
        "ring of 8 x 8 Ulysses, copies on 8 of 64 GPUs, ZeRO-2, gradients summed in bfloat16"
    )
