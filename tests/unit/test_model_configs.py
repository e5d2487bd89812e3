"""config.json -> shape: counted as transformers' own model, refused by name where it is not understood."""

from __future__ import annotations

import json
import tomllib

import pytest
import torch
from msgspec import UNSET
from transformers import AutoConfig, AutoModelForCausalLM

from tests.unit.family_shapes import CONFIGS, NAMES, document, read
from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.models.config_json import shape_of
from tgsbench.models.registry import family_names, find_family
from tgsbench.planner import forecast_preset
from tgsbench.presets.config_file import read_model

KNOWN_AS = {"kimi_k2": "deepseek_v3"}
PUBLISHED = {
    "llama31_405b": 405_853_388_800,
    "qwen25_7b": 7_615_616_512,
    "qwen3_8b": 8_190_735_360,
    "mixtral_8x7b": 46_702_792_704,
    "deepseek_v3": 671_026_404_352,
    "gpt_oss_120b": 116_829_156_672,
    "gemma3_27b": 27_009_346_304,
    "qwen3_coder_480b": 480_154_875_392,
    "glm_4_5_air": 106_852_245_504,
    "minimax_m2": 228_689_748_992,
    "olmo2_32b": 32_234_279_936,
    "seed_oss_36b": 36_151_104_512,
    "qwen15_moe_a27b": 14_315_784_192,
    "deepseek_v2_lite": 15_706_484_224,
    "deepseek_v2": 235_741_434_880,
    "olmoe_1b_7b": 6_919_161_856,
    "granite31_3b_a800m": 3_298_793_472,
    "phi35_moe": 41_873_153_344,
    "gemma2_9b": 9_241_705_984,
    "gemma2_27b": 27_227_128_320,
    "starcoder2_3b": 3_030_371_328,
    "exaone4_32b": 32_003_216_384,
    "command_r7b": 8_028_033_024,
}


BUILT = (
    "qwen2_57b_a14b",
    "deepseek_v2_lite",
    "phi35_moe",
    "starcoder2_3b",
    "qwen3_8b",
    "gemma3_1b",
    "gpt_oss_20b",
    "deepseek_v3",
    "mistral_7b_v01",
    "glm_4_5",
    "glm_4_5_air",
)


def theirs(name: str):
    """transformers' own model of the file, on the meta device, from the file alone."""
    settings = document(name)
    settings = settings.get("text_config", settings)
    kind = settings.pop("model_type")
    settings.pop("quantization_config", None)
    settings.pop("auto_map", None)
    config = AutoConfig.for_model(KNOWN_AS.get(kind, kind), **settings)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_in_total_and_active_are_those_of_transformers(name):
    shape, model = read(name).shape, theirs(name)
    counted = find_family(shape.family).parameters(shape)
    total = sum(p.numel() for p in model.parameters())
    assert counted.total == total
    idle = 0
    if (experts := shape.experts) is not None:
        routed = sum(p.numel() for key, p in model.named_parameters() if ".experts." in key)
        idle = routed * (experts.num - experts.used) // experts.num
    assert counted.active == total - idle


def test_there_are_enough_of_them_and_they_are_the_published_ones():
    assert len(NAMES) >= 25
    assert {read(name).shape.family for name in NAMES} == set(family_names())
    for name, count in PUBLISHED.items():
        shape = read(name).shape
        assert find_family(shape.family).parameters(shape).total == count


@pytest.mark.parametrize("name", BUILT)
def test_what_ranks_build_from_has_the_layers_of_the_file(name):
    shape = read(name).shape
    ours = AutoConfig.for_model(**find_family(shape.family).config(shape, 4096))
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(ours)
    sizes = {key: tuple(p.shape) for key, p in built.named_parameters()}
    assert sizes == {key: tuple(p.shape) for key, p in theirs(name).named_parameters()}


@pytest.mark.parametrize("name", BUILT)
def test_what_other_systems_read_names_the_rotary_base_in_both_forms(name):
    """transformers 4 takes 10,000 where the old name is missing (4.57.1); XTuner still runs on it."""
    shape = read(name).shape
    settings = find_family(shape.family).config(shape, 4096)
    assert settings["rope_theta"] == shape.rope_theta
    table = AutoConfig.for_model(**settings).rope_parameters
    assert table.get("full_attention", table)["rope_theta"] == shape.rope_theta


def test_fields_say_where_they_came_from():
    found = read("qwen3_8b")
    assert found.shape.head_dim == 128
    assert found.origins["num_layers"] == "qwen3_8b.json: num_hidden_layers"
    found = read("llama2_7b")
    assert found.origins["head_dim"] == "default of the family: llama2_7b.json has no head_dim"
    assert any("never executed" in note for note in read("deepseek_v3").notes)


def test_layers_with_a_window_are_found():
    assert read("gpt_oss_20b").shape.layer_pattern == ("window", "full")
    assert read("gpt_oss_20b").shape.window == 128
    assert read("mistral_7b_v01").shape.layer_pattern == ("window",)
    assert read("mistral_7b_v03").shape.window == 0
    gemma = read("gemma3_1b").shape
    kinds = find_family("gemma3_text").pattern(gemma)
    assert (kinds.count("window"), kinds.count("full")) == (22, 4)
    change = {"use_sliding_window": True, "max_window_layers": 21, "sliding_window": 4096}
    shape = shape_of(document("qwen25_7b") | change, "q", "q.json").shape
    assert find_family("qwen2").pattern(shape).count("window") == 7


def test_what_public_files_leave_out_is_the_family_s_own():
    inner = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240}
    settings = {"model_type": "gemma3", "text_config": inner | {"num_hidden_layers": 34}}
    found = shape_of(settings, "gemma3_4b", "config.json")
    assert (found.shape.num_query_heads, found.shape.num_kv_heads) == (8, 4)
    assert find_family("gemma3_text").parameters(found.shape).total == 3_880_263_168
    assert "default of the family" in found.origins["vocab_size"]


def test_norms_of_queries_and_keys_are_as_the_file_says():
    assert read("glm_4_5").shape.qk_norm is True
    assert read("glm_4_5_air").shape.qk_norm is False
    assert read("qwen3_8b").shape.qk_norm is UNSET
    with pytest.raises(TgsError, match=r"model\.qk_norm: family qwen3 leaves no choice"):
        presets.resolve("qwen3_8b_8k", ["model.qk_norm=true"])


def test_the_language_model_of_one_that_sees_is_that_family():
    text = document("qwen3_8b") | {"model_type": "qwen3_vl_text"}
    settings = {"model_type": "qwen3_vl", "text_config": text, "image_token_id": 151655}
    assert shape_of(settings, "vl", "config.json").shape.family == "qwen3"


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("qwen3_8b", {"model_type": "qwen33"}, r"model_type='qwen33' is not known; nearest: qwen3"),
        ("qwen3_8b", {"model_type": None}, "model_type is missing"),
        ("qwen3_8b", {"hidden_act": "relu"}, r'hidden_act="relu": only \'silu\''),
        ("qwen3_8b", {"attention_chunk_size": 8192}, "attention_chunk_size=8192: not understood.*nearest"),
        ("llama31_8b", {"mlp_bias": True}, "mlp_bias=true: only False"),
        ("qwen3_8b", {"num_hidden_layers": "many"}, "num_hidden_layers=.*expected a whole number"),
        ("qwen3_8b", {"num_hidden_layers": -1}, "expected a whole number of at least 1"),
        ("qwen3_8b", {"hidden_size": 10**15}, "of at least 1, at most 1,099,511,627,776$"),
        ("qwen3_8b", {"xyzzy": 3}, "xyzzy=3: not understood, and it may change the cost$"),
        ("qwen3_8b", {"hidden_size": None}, "hidden_size is missing"),
        ("qwen3_30b_a3b", {"decoder_sparse_step": 2}, "decoder_sparse_step=2: only 1"),
        ("qwen3_30b_a3b", {"num_experts_per_tok": 129}, r"experts\.used=129: must be 1 to"),
        ("gpt_oss_20b", {"layer_types": ["sliding_attention"]}, "expected one type for each"),
        ("gpt_oss_20b", {"layer_types": ["mamba"] * 24}, "'mamba' is not understood"),
        ("deepseek_v3", {"scoring_func": "softmax"}, 'scoring_func="softmax": only'),
        ("qwen3_8b", {"num_key_value_heads": 3}, "model.num_kv_heads=3: 32 query heads are not divisible"),
        ("qwen3_8b", {"num_key_value_heads": 64}, "model.num_kv_heads=64: 32 query heads are not divisible"),
        ("qwen3_8b", {"head_dim": 127}, "model.head_dim=127: must be even"),
        ("qwen3_8b", {"use_sliding_window": "yes"}, 'use_sliding_window="yes": expected true or false'),
        ("llama2_7b", {"num_attention_heads": 33}, "num_attention_heads=33: they do not divide"),
        ("llama2_7b", {"num_attention_heads": 10**9}, "num_attention_heads=1000000000: they do not divide"),
        ("qwen3_next_80b_a3b", {"linear_num_value_heads": 33}, "num_value_heads=33: must be a multiple"),
        ("minimax_m2", {"attn_type_list": [1] * 31 + [0] * 31}, "attn_type_list=.*counted here"),
        ("glm_4_5", {"topk_method": "greedy"}, 'topk_method="greedy": only'),
        ("qwen3_coder_480b", {"use_qk_norm": False}, "use_qk_norm=false: only True"),
        ("phi4_mini", {"full_attn_mod": 2}, "full_attn_mod=2: only 1"),
        ("hunyuan_7b", {"use_cla": True}, "use_cla=true: only False"),
        ("olmo2_32b", {"clip_qkv": 8.0}, "clip_qkv=8.0: not understood"),
        ("qwen2_57b_a14b", {"decoder_sparse_step": 2}, "decoder_sparse_step=2: only 1"),
        ("qwen2_57b_a14b", {"use_sliding_window": True}, "use_sliding_window=true: only False"),
        ("deepseek_v2", {"scoring_func": "sigmoid"}, 'scoring_func="sigmoid": only'),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, 'topk_method="noaux_tc": only'),
        ("olmoe_1b_7b", {"clip_qkv": 8.0}, "clip_qkv=8.0: not understood"),
        ("dots_llm1", {"sliding_window": 4096}, "sliding_window=4096: only"),
        ("granite31_3b_a800m", {"shared_intermediate_size": 1024}, "shared_intermediate_size=1024: not"),
        ("ernie45_21b_a3b", {"moe_layer_interval": 2}, "moe_layer_interval=2: only 1"),
        ("ernie45_21b_a3b", {"moe_layer_end_index": 20}, "moe_layer_end_index=20: dense layers at the end"),
        ("phi35_moe", {"lm_head_bias": False}, "lm_head_bias=false: only True"),
        ("minitron_4b", {"mlp_bias": True}, "mlp_bias=true: only False"),
        ("minitron_4b", {"hidden_act": "silu"}, "hidden_act=\"silu\": only 'relu2'"),
        ("gemma2_9b", {"use_bidirectional_attention": True}, "use_bidirectional_attention=true: only False"),
        ("starcoder2_3b", {"norm_type": "rms_norm"}, 'norm_type="rms_norm": only'),
        ("exaone4_32b", {"layer_types": None}, 'sliding_window_pattern="LLLG": expected a whole number'),
        ("command_r7b", {"use_qk_norm": True}, "use_qk_norm=true: only False"),
        ("deepseek_v3", {"first_k_dense_replace": 61}, "one of 61 layers has experts|dense_first=61"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(name, change, why):
    with pytest.raises(TgsError, match=why) as caught:
        shape_of(document(name) | change, "m", "config.json")
    assert caught.value.exit_code == ExitCode.BAD_PRESET


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no config.json"),
        ("[1]", "expected an object"),
        ('{"a":' * 80 + "1" + "}" * 80, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, why):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(TgsError, match=why):
        read_model(str(path))


def test_a_preset_takes_a_folder_beside_it_and_a_hub_name_in_the_cache(tmp_path, monkeypatch):
    folder = tmp_path / "Some-8B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(document("qwen3_8b")))
    preset = tmp_path / "mine.toml"
    tables = "[hardware]\nnum_gpus = 8\n[workload]\nseq_len = 8192\n"
    preset.write_text(f'extends = "_reference"\nmodel = "./Some-8B"\n{tables}')
    resolved = presets.resolve(preset)
    assert resolved.preset.model.name == "Some-8B"
    assert resolved.preset.model.family == "qwen3"
    assert resolved.origins["model.num_layers"].endswith("Some-8B/config.json: num_hidden_layers")
    stored = tomllib.loads(presets.to_toml(resolved.preset))
    assert presets.from_document(stored) == resolved.preset
    snapshot = tmp_path / "hub" / "models--Org--Some-8B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(document("gpt_oss_20b")))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    shape = presets.resolve("llama3_8b_8k", ["model=Org/Some-8B"]).preset.model
    assert (shape.name, shape.family) == ("Some-8B", "gpt_oss")
    with pytest.raises(TgsError, match="Org/Other-8B: there is no such configuration"):
        presets.resolve("llama3_8b_8k", ["model=Org/Other-8B"])


def test_every_public_configuration_is_planned():
    fitting = []
    for name in NAMES:
        sets = [f"model={CONFIGS / name}.json", "workload.seq_len=32k", "hardware.num_gpus=1024"]
        preset = presets.resolve("llama3_8b_8k", [*sets, "training.checkpointing=full"]).preset
        forecast = forecast_preset(preset)
        fits = forecast.memory.total_gib <= forecast.memory.card_gib
        assert (forecast.tgs.estimate > 0) if fits else (forecast.tgs is None), name
        fitting += [name] * fits
    # Their layers are too large to be gathered whole, however many GPUs there are.
    too_large = {"deepseek_v2", "deepseek_v3", "glm_4_5", "kimi_k2", "llama31_405b", "qwen3_coder_480b"}
    assert set(NAMES) - set(fitting) == too_large
