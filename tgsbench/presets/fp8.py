"""Rules of products in FP8: which GPUs, models and sizes have them."""

from __future__ import annotations

from tgsbench.presets.catalog import find_gpu, load_gpus
from tgsbench.schema.hardware import Fp8Recipe
from tgsbench.schema.preset import Preset
from tgsbench.systems import registry

MULTIPLE: dict[Fp8Recipe, int] = {"rowwise": 16, "tensorwise": 16, "mxfp8": 32}
"""What every size of a product must be a multiple of: bytes that a kernel loads at once, or a block."""


def fp8_problems(preset: Preset) -> list[str]:
    """Every rule that a preset with training.linear = "fp8" breaks, each with the nearest that can."""
    if preset.training.linear != "fp8":
        return []
    return [*_system_problems(preset), *_gpu_problems(preset), *_size_problems(preset)]


def _system_problems(preset: Preset) -> list[str]:
    named, problems = 'training.linear="fp8"', []
    if not preset.engine.has_fp8:
        able = ", ".join(spec.name for spec in registry.engines() if spec.options.has_fp8)
        problems.append(
            f'{named}: engine {preset.engine.name} has no FP8 products here; nearest: "plain", '
            f"or --engine {able}"
        )
    if preset.model.experts is not None:
        problems.append(f'{named}: products of experts are grouped, and run in bf16 alone; nearest: "plain"')
    if preset.engine.compile:
        problems.append(f"{named}: its products are not compiled here; nearest: engine.compile=false")
    if preset.hardware.device == "cuda" and preset.training.compute_dtype != "bfloat16":
        problems.append(f'{named}: GPU kernels give bf16; nearest: training.compute_dtype="bfloat16"')
    return problems


def _gpu_problems(preset: Preset) -> list[str]:
    """An unknown GPU is asked when the run starts."""
    gpu, recipe = find_gpu(preset.hardware.gpu), preset.training.fp8_recipe
    if preset.hardware.device != "cuda" or gpu is None or recipe in gpu.fp8_recipes:
        return []
    able = [other for other in load_gpus().values() if recipe in other.fp8_recipes]
    near = min(able, key=lambda other: abs(other.bf16_tflops - gpu.bf16_tflops)).name
    if gpu.fp8_recipes:
        others = ", ".join(gpu.fp8_recipes)
        return [
            f'training.fp8_recipe="{recipe}": {gpu.name} has none; nearest: {others}, or hardware.gpu={near}'
        ]
    return [
        f'training.linear="fp8": {gpu.name} has no FP8 products; nearest: "plain", or hardware.gpu={near}'
    ]


def _size_problems(preset: Preset) -> list[str]:
    model, multiple = preset.model, MULTIPLE[preset.training.fp8_recipe]
    tokens = preset.training.micro_batch * preset.local_seq_len // preset.engine.sequence_chunks
    sizes = {
        "model.hidden_size": model.hidden_size,
        "model.intermediate_size": model.intermediate_size,
        "model.head_dim": model.head_dim,
        "tokens of a rank (micro_batch · seq_len / sp / engine.sequence_chunks)": tokens,
    }
    return [
        f"{name}={size}: FP8 products take multiples of {multiple}; nearest: {_nearest(size, multiple)}"
        for name, size in sizes.items()
        if size % multiple
    ]


def _nearest(size: int, multiple: int) -> str:
    below = size - size % multiple
    return ", ".join(str(near) for near in (below, below + multiple) if near)
