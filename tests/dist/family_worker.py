"""Loss and whole gradients of one step of every family that is trained, saved by rank 0."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from msgspec.structs import replace

from tests.dist.parity_worker import one_step
from tests.unit.family_shapes import TRAINED, small
from tgsbench.schema.preset import Preset
from tgsbench.training.model import fused_layers

FAMILIES = ("mistral", "qwen2", "gemma3_text", "gpt_oss", "mixtral", "qwen3_moe", "deepseek_v3", "olmo3")
ROUTER = "qwen3_moe, its router another one on rank 1"
MIXTURES = ("gpt_oss", "mixtral", "qwen3_moe", "deepseek_v3")
MODES = ("selective", "full", "none")
"""Of checkpointing."""
SHARED_BY = ("zero 1", "zero 2", "ring", "ring, zero 1")
"""What else experts on several ranks go with."""
NUM_MICRO_STEPS = 2
"""That experts on several ranks accumulate over."""


WINDOWED = ("mistral", "gemma3_text", "gpt_oss")


def family_preset(
    family: str, world: int, ep: int = 1, mode: str = "selective", ring: int = 0, masked: bool = True
) -> Preset:
    """The same small shape whatever sp = world is, 256 tokens, documents masked."""
    preset = small(TRAINED[family], sp=2)
    checkpointing = mode if mode in MODES else "selective"
    times = NUM_MICRO_STEPS if ep > 1 else 1
    return replace(
        preset,
        hardware=replace(preset.hardware, num_gpus=world),
        parallel=replace(preset.parallel, sp=world, ep=ep, ring=ring or (2 if "ring" in mode else 0)),
        workload=replace(preset.workload, seq_len=256, document_mask=masked),
        training=replace(preset.training, checkpointing=checkpointing, micro_batch=1, accumulation=times),
        engine=replace(preset.engine, zero_stage=int(mode[-1]) if "zero" in mode else 3),
    )


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    results = {family: run_family(family_preset(family, world)) for family in FAMILIES}
    for name, ring_preset in ring_presets(world).items():
        results[name] = run_family(ring_preset)
    for family, ep, mode in shared_out(world):
        results[f"{family}, ep {ep}, {mode}"] = run_family(family_preset(family, world, ep, mode))
    if dist.get_rank() == 1:
        differ_in_routing()
    if world > 1:
        results[ROUTER] = run_family(family_preset("qwen3_moe", world))
    if dist.get_rank() == 0:
        torch.save(results, out)
    dist.destroy_process_group()


def ring_presets(world: int) -> dict[str, Preset]:
    """Families with windows round a ring of all ranks, each way of checkpointing and masking once."""
    ways = (("selective", True), ("full", False), ("none", True))
    return {
        f"{family}, ring": family_preset(family, world, mode=mode, ring=world, masked=masked)
        for family, (mode, masked) in zip(WINDOWED, ways, strict=True)
    }


def shared_out(world: int) -> list[tuple[str, int, str]]:
    """Mixtures whose experts lie on several ranks: their family, on how many, and what else is done."""
    found = [(family, ep, "selective") for family in MIXTURES for ep in (2, 4) if ep <= world]
    beside = [("qwen3_moe", ep, mode) for ep in (2, 4) for mode in SHARED_BY if ep <= world]
    latent = [("deepseek_v3", 2, "ring, zero 1")] if world > 1 else []
    return found + beside + latent + [("qwen3_moe", 2, mode) for mode in MODES[1:] if world > 1]


def run_family(preset: Preset) -> dict[str, object]:
    found = one_step(preset)
    fused_layers.unfuse()
    return found


def differ_in_routing() -> None:
    """Tokens of this rank go to the experts beside those that the router chose."""
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

    route = Qwen3MoeTopKRouter.forward

    def beside(self, hidden_states):
        logits, scores, indices = route(self, hidden_states)
        return logits, scores, (indices + 1) % self.num_experts

    Qwen3MoeTopKRouter.forward = beside


if __name__ == "__main__":
    main(Path(sys.argv[1]))
