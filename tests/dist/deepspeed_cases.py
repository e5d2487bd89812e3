"""Cases in which the DeepSpeed engine must train what fsdp2 trains on one rank."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from tgsbench import presets
from tgsbench.schema.preset import Preset

_MODEL = {
    "num_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 192, "head_dim": 16,
    "num_query_heads": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model's KV heads and the settings that differ from the engine's defaults."""

    kv_heads: int = 4
    world: int = 2
    sets: dict[str, object] = field(default_factory=dict)
    engine: str = "deepspeed"


CASES: dict[str, Case] = {
    "alst": Case(),
    "alst-mha": Case(8),
    "alst-kv_below_sp": Case(1),
    "alst-documents": Case(sets={"workload.document_mask": True}),
    "alst-full": Case(sets={"training.checkpointing": "full"}),
    "alst-none": Case(sets={"training.checkpointing": "none"}),
    "alst-zero1": Case(sets={"engine.zero_stage": 1}),
    "alst-zero2": Case(sets={"engine.zero_stage": 2}),
    "alst-bf16": Case(sets={"training.compute_dtype": "bfloat16"}),
    "alst-accumulation": Case(sets={"training.accumulation": 3}),
    "alst-dp2": Case(world=4),
    "alst-rows": Case(sets={"training.micro_batch": 2}),
    "native": Case(sets={"engine.attention": "native"}),
    "native-documents": Case(sets={"engine.attention": "native", "workload.document_mask": True}),
    "native-kv_below_sp": Case(1, sets={"engine.attention": "native"}),
    "native-zero1": Case(sets={"engine.attention": "native", "engine.zero_stage": 1}),
    "native-zero2": Case(sets={"engine.attention": "native", "engine.zero_stage": 2}),
    "native-dp2": Case(world=4, sets={"engine.attention": "native"}),
    "tiled": Case(sets={"engine.tiled_mlp": True, "engine.tiled_loss": True}),
    "tiled-odd": Case(
        sets={"engine.tiled_mlp": True, "engine.tiled_loss": True, "engine.loss_chunk_tokens": 7}
    ),
    "tiled-zero2": Case(
        sets={"engine.tiled_mlp": True, "engine.tiled_loss": True, "engine.zero_stage": 2}
    ),
    "offload-optimizer": Case(sets={"engine.offload": "optimizer"}),
    "offload-all": Case(sets={"engine.offload": "all"}),
    "offload-zero2": Case(sets={"engine.offload": "optimizer", "engine.zero_stage": 2}),
    "offload-activations": Case(sets={"engine.activation_offload": True}),
}  # fmt: skip


def ds_preset(name: str) -> Preset:
    """The preset of a case at sp 2."""
    case = CASES[name]
    return _resolved(case, case.world, 2, {"engine.name": "deepspeed"})


def peer_preset(name: str) -> Preset:
    """The same training by fsdp2 on one rank."""
    case = CASES[name]
    shared = {key: value for key, value in case.sets.items() if not key.startswith("engine.")}
    plain = Case(case.kv_heads, 1, shared)
    return _resolved(plain, 1, 1, {"engine.name": "fsdp2"})


def _resolved(case: Case, world: int, sp: int, more: dict[str, object]) -> Preset:
    values: dict[str, object] = {
        "workload.seq_len": 64,
        "training.accumulation": 1,
        "engine.loss_chunk_tokens": 16,
        "hardware.num_gpus": world,
        "parallel.sp": sp,
        "model": {**_MODEL, "num_kv_heads": case.kv_heads},
        **more,
        **case.sets,
    }
    model = values.pop("model")
    assert isinstance(model, dict)
    values.update({f"model.{key}": value for key, value in model.items()})
    sets = [f"{key}={msgspec.json.encode(value).decode()}" for key, value in values.items()]
    return presets.resolve("tiny_cpu", sets).preset
