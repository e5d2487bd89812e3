"""Small shapes of every family: what `verify` would train, made from the public configurations."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec.structs import replace

from tests.unit.stored import a_preset
from tgsbench.launch.verify import small_preset
from tgsbench.models.config_json import ConfigShape, shape_of
from tgsbench.schema.preset import ModelShape, Preset

CONFIGS = Path(__file__).parent.parent / "data" / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.json"))
TRAINED = {
    "llama": "llama31_8b",
    "mistral": "mistral_7b_v01",
    "qwen2": "qwen25_7b",
    "qwen3": "qwen3_8b",
    "phi3": "phi3_mini_4k",
    "gemma3_text": "gemma3_1b",
    "gpt_oss": "gpt_oss_20b",
    "mixtral": "mixtral_8x7b",
    "qwen3_moe": "qwen3_30b_a3b",
    "deepseek_v3": "deepseek_v3",
    "glm4_moe": "glm_4_5",
    "olmo2": "olmo2_32b",
    "olmo3": "olmo3_7b",
    "exaone4": "exaone4_32b",
    "smollm3": "smollm3_3b",
    "seed_oss": "seed_oss_36b",
    "hunyuan_v1_dense": "hunyuan_7b",
    "ernie4_5": "ernie45_0_3b",
    "glm": "glm4_9b_chat",
    "glm4": "glm4_32b_0414",
    "gemma2": "gemma2_9b",
}
"""A public configuration of each family that ranks train."""


def document(name: str) -> dict:
    return json.loads((CONFIGS / f"{name}.json").read_text())


def read(name: str) -> ConfigShape:
    return shape_of(document(name), name, f"{name}.json")


def small(name: str, sp: int = 1, **changes) -> Preset:
    """The preset that `verify` makes of a configuration on a few GPUs."""
    preset = a_preset("llama3_8b_8k", f"parallel.sp={sp}")
    return small_preset(replace(preset, model=read(name).shape))


def small_shape(name: str, sp: int = 1) -> ModelShape:
    return small(name, sp).model
