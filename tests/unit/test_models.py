"""Model families: counts equal to the built model's, one configuration for all, a new one in two files."""

from __future__ import annotations

import json
import tomllib

import pytest
import torch
from msgspec.structs import replace
from transformers import AutoConfig, AutoModelForCausalLM

from tests.unit.stored import a_preset, store_run
from tests.unit.toy_family import CHOSEN, EXPERTS, Toy
from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.external.adapter import model_config
from tgsbench.models import registry
from tgsbench.models.flops import flops_per_token
from tgsbench.models.registry import find_family
from tgsbench.models.spec import num_parameters
from tgsbench.planner import forecast_preset
from tgsbench.planner.counts import layer_counts
from tgsbench.planner.workload import dims_of, work_of
from tgsbench.presets import catalog
from tgsbench.schema.preset import EngineOptions, ModelShape
from tgsbench.systems.registry import find_system
from tgsbench.training.model import fused_layers
from tgsbench.training.model.build import build_meta, decoder_config, materialise

SHAPES = [path.stem for path in sorted(catalog.shipped("presets").glob("models/*.toml"))]


@pytest.fixture(autouse=True)
def _plain_rope_after():
    yield
    fused_layers.unfuse()


@pytest.fixture
def toy(monkeypatch) -> ModelShape:
    """A shape of the made-up family, which is known while a test runs."""
    monkeypatch.setattr(registry, "_found", dict(registry._found))
    registry.register(Toy())
    return replace(catalog.load_model("tiny"), name="Toy", family="toy")


# Counts


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_transformers_own_model(name):
    shape = catalog.load_model(name)
    family = find_family(shape.family)
    settings = family.config(shape, 4096)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    counted = family.parameters(shape)
    assert counted.total == sum(p.numel() for p in model.parameters())
    most_frequent = model.model.layers[-2]  # dense layers come first, the last of four is full attention
    assert counted.layer == sum(p.numel() for p in most_frequent.parameters())
    assert counted.embedding == model.model.embed_tokens.weight.numel()
    assert counted.head == (0 if shape.tie_word_embeddings else model.lm_head.weight.numel())


@pytest.mark.parametrize("name", SHAPES)
def test_the_planner_s_weights_are_the_layer_s_matrices(name):
    shape = catalog.load_model(name)
    family, dims = find_family(shape.family), dims_of(shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**family.config(shape, 4096)))
    layers = [_matrices(layer) for layer in model.model.layers]
    assert dims.layer_weights * shape.num_layers == pytest.approx(sum(map(sum, layers)), rel=1e-12)
    if len(dims.groups) == 1:
        assert sorted(weight.size for weight in dims.attention + dims.mlp) == sorted(layers[0])


def _matrices(layer) -> list[int]:
    """Sizes of a layer's matrices; a filter of a convolution, and a table of biases, is none."""
    parts = layer.named_parameters()
    return [p.numel() for name, p in parts if p.ndim > 1 and "bias" not in name and "conv" not in name]


def test_ranks_and_other_systems_get_one_configuration():
    preset = a_preset("llama3_1b_128k")
    theirs = AutoConfig.for_model(**model_config(preset)).to_dict()
    ours = decoder_config(preset.model, preset.workload.seq_len, "sdpa").to_dict()
    tokens = {"pad_token_id", "bos_token_id", "eos_token_id"}
    dtype = {"dtype", "torch_dtype"}
    differ = {key for key in theirs | ours if theirs.get(key) != ours.get(key)}
    assert differ <= tokens | dtype
    assert ours["pad_token_id"] is None, "else the embedding would have a row without gradient"
    assert ours["max_position_embeddings"] == preset.workload.seq_len


# Names


def test_an_unknown_family_is_refused_with_the_nearest_name(tmp_path, monkeypatch):
    with pytest.raises(TgsError, match=r"model\.family='lama': no such family; nearest: llama") as caught:
        a_preset("tiny_cpu", "model.family=lama")
    assert caught.value.exit_code == ExitCode.BAD_PRESET
    text = (catalog.shipped("presets") / "models" / "tiny.toml").read_text()
    own = tmp_path / "tgsbench" / "presets" / "models"
    own.mkdir(parents=True)
    (own / "mine.toml").write_text('family = "lama"\n' + text)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(TgsError, match=r"mine\.toml: family='lama': no such family; nearest: llama"):
        catalog.load_model("mine")


@pytest.mark.parametrize("name", ["flops", "registry", "os", "..schema.preset", "", "Llama"])
def test_a_name_that_is_no_family_imports_nothing(name):
    assert not registry.is_family(name)
    with pytest.raises(TgsError, match="no model family"):
        find_family(name)


@pytest.mark.parametrize(
    ("name", "pattern", "kind"),
    [
        ("llama3_8b", "window", "window"),
        ("qwen3_30b_a3b", "linear", "linear"),
        ("deepseek_v3", "window", "window"),
    ],
)
def test_layers_of_a_kind_that_transformers_does_not_build_are_refused(name, pattern, kind):
    """They were counted as such, and trained as layers that see everything."""
    sets = [f"model={name}", f'model.layer_pattern=["{pattern}"]', "model.window=128"]
    with pytest.raises(TgsError, match=f'model.layer_pattern: family .* has no layers of kind "{kind}"'):
        a_preset("llama3_8b_8k", *sets)
    a_preset("llama3_8b_8k", "model=qwen3_8b", 'model.layer_pattern=["window"]', "model.window=128")


def test_families_are_the_modules_that_have_one():
    assert registry.family_names() == [
        "cohere2", "deepseek_v2", "deepseek_v3", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "gemma2",
        "gemma3_text", "glm", "glm4", "glm4_moe", "gpt_oss", "granite", "granitemoe", "hunyuan_v1_dense",
        "llama", "minimax_m2", "mistral", "mixtral", "nemotron", "olmo2", "olmo3", "olmoe", "phi3", "phimoe",
        "qwen2", "qwen2_moe", "qwen3", "qwen3_5", "qwen3_moe", "qwen3_next", "seed_oss", "smollm3",
        "starcoder2",
    ]  # fmt: skip


def test_a_run_stored_before_families_had_names_keeps_loading(tmp_path):
    run = store_run(tmp_path, "old")
    for file in ("preset.toml", "result.json"):
        path = run.path / file
        path.write_text(path.read_text().replace("family", "architecture"))
    assert run.preset() == a_preset()
    assert run.result().model == a_preset().model
    assert "architecture" not in presets.to_toml(run.preset())
    assert tomllib.loads(presets.to_toml(run.preset()))["model"]["family"] == "llama"


def test_a_result_of_an_unknown_family_is_unreadable_and_no_crash(tmp_path):
    run = store_run(tmp_path, "new")
    path = run.path / "result.json"
    document = json.loads(path.read_text())
    document["model"]["family"] = "tomorrow"
    path.write_text(json.dumps(document))
    with pytest.raises(TgsError, match=r"model\.family='tomorrow'") as caught:
        run.result()
    assert caught.value.exit_code == ExitCode.STORE


# A family of one's own: toy_family.py and toy_family_torch.py, nothing else


def test_a_made_up_family_is_counted(toy):
    h, i, layers = toy.hidden_size, toy.intermediate_size, toy.num_layers
    dense = replace(toy, family="llama")
    more = layers * (3 * (EXPERTS - 1) * h * i + EXPERTS * h)
    assert num_parameters(toy) - num_parameters(dense) == more
    idle = layers * 3 * (EXPERTS - CHOSEN) * h * i
    assert find_family("toy").parameters(toy).active == num_parameters(toy) - idle
    extra = layers * 2 * (3 * (CHOSEN - 1) * h * i + EXPERTS * h)
    last = layers * 2 * (CHOSEN - 1) * h * i  # never run again
    for convention, more in (("model", 3 * extra), ("palm", 3 * extra), ("hardware", 4 * extra - last)):
        ours, plain = (flops_per_token(convention, shape, 1024, "full") for shape in (toy, dense))
        assert ours - plain == more, convention


def test_a_made_up_family_is_planned(toy):
    preset = a_preset("llama3_8b_8k")
    shape = replace(preset.model, name="Toy", family="toy")
    dense, sparse = preset, replace(preset, model=shape)
    plans = [forecast_preset(p) for p in (dense, sparse)]
    assert plans[1].tgs.estimate < plans[0].tgs.estimate
    assert plans[1].memory.items["parameters"] == pytest.approx(
        plans[0].memory.items["parameters"] * num_parameters(shape) / num_parameters(preset.model)
    )
    work = work_of(sparse, "flash2", system=find_system("deepspeed"))
    weights = 4 * shape.hidden_size**2 * (1 + shape.num_kv_heads / shape.num_query_heads) / 2
    used = weights + EXPERTS * shape.hidden_size + 3 * CHOSEN * shape.hidden_size * shape.intermediate_size
    assert layer_counts(work).gemm.flops == 2 * work.local_tokens * used


def test_a_made_up_family_is_built_with_as_many_parameters_as_are_counted(toy):
    model = build_meta(toy, 64, "sdpa", 0)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert sum(p.numel() for p in model.parameters()) == num_parameters(toy)
    assert any(isinstance(m, fused_layers.FusedNorm) for m in model.modules())
    materialise(model, torch.device("cpu"), 0)
    ids = torch.arange(64)[None] % toy.vocab_size
    assert torch.isfinite(model(ids, torch.arange(64)[None], ids))


def test_an_mlp_that_cannot_be_tiled_is_refused(toy):
    with pytest.raises(TgsError, match="tiled_mlp") as caught:
        build_meta(toy, 64, "sdpa", 0, EngineOptions(tiled_mlp=True))
    assert caught.value.exit_code == ExitCode.UNSUPPORTED
