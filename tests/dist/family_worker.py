"""Loss and whole gradients of one step of every family that is trained, saved by rank 0."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from msgspec.structs import replace

from tests.dist.parity_worker import make_batch, whole
from tests.unit.family_shapes import TRAINED, small
from tgsbench.schema.preset import Preset
from tgsbench.training.engines.fsdp2 import Fsdp2Engine
from tgsbench.training.model import fused_layers
from tgsbench.training.model.build import plain_name
from tgsbench.training.parallel.mesh import build_mesh
from tgsbench.training.parallel.traffic import ALL_TO_ALL_COUNTER

FAMILIES = ("mistral", "qwen2", "gemma3_text", "gpt_oss", "mixtral", "qwen3_moe", "deepseek_v3")
ROUTER = "qwen3_moe, its router another one on rank 1"


def family_preset(family: str, world: int) -> Preset:
    """The same small shape whatever sp = world is, 256 tokens, documents masked."""
    preset = small(TRAINED[family], sp=2)
    return replace(
        preset,
        hardware=replace(preset.hardware, num_gpus=world),
        parallel=replace(preset.parallel, sp=world),
        workload=replace(preset.workload, seq_len=256, document_mask=True),
        training=replace(preset.training, checkpointing="selective", micro_batch=1),
    )


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    results = {family: run_family(family) for family in FAMILIES}
    if dist.get_rank() == 1:
        differ_in_routing()
    if dist.get_world_size() > 1:
        results[ROUTER] = run_family("qwen3_moe")
    if dist.get_rank() == 0:
        torch.save(results, out)
    dist.destroy_process_group()


def run_family(family: str) -> dict[str, object]:
    preset = family_preset(family, dist.get_world_size())
    mesh = build_mesh("cpu", preset.parallel.sp)
    engine = Fsdp2Engine(preset, mesh, torch.device("cpu"))
    ALL_TO_ALL_COUNTER.take()
    batch, num_labels = make_batch(preset, mesh)
    loss = engine.forward_backward(batch, num_labels)
    calls, num_bytes = ALL_TO_ALL_COUNTER.take()
    grads = {name: grad.clone() for name, grad in engine.gradients()}
    dist.all_reduce(loss)
    fused_layers.unfuse()
    return {"loss": loss / num_labels, "grads": grads, "a2a": torch.tensor([calls, num_bytes])}


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
