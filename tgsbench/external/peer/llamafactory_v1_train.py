"""Train our packs by LLaMA-Factory's v1 trainer: `torchrun FILE train.yaml`.

Beside train.yaml lie tokens.npy and labels.npy [packs, S] and starts.json with the document starts of each
pack (empty without a document mask). What is ours goes through its own registries of plug-ins: a template
that renders packs, an optimizer and a schedule; its defaults are AdamW's own and a constant rate.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


def main() -> None:
    """Register what is ours, and train."""
    if not torch.accelerator.is_available():
        # It waits for its accelerator at the end of every step.
        torch.accelerator.synchronize = lambda *_: None
    from llamafactory.v1.trainers import sft_trainer

    settings = Path(sys.argv[1])
    register_template(settings.parent)
    register_optimizer()
    keep_rotary_frequencies()
    draw_weights(json.loads(settings.read_text("utf-8"))["flash_attn"])
    sft_trainer.SFTTrainer.save_model = lambda self: None
    sft_trainer.run_sft()


def register_template(folder: Path) -> None:
    """Let a conversation that is the number of a pack be rendered as that pack."""
    from llamafactory.v1.plugins.model_plugins.rendering import RenderingPlugin

    def rendered(_processor: Any, messages: list[int], *_: Any, **__: Any) -> dict[str, Any]:
        return pack(folder, messages[0])

    RenderingPlugin("tgsbench_packs").register("render_messages")(rendered)
    RenderingPlugin._attempted_template_imports.add("tgsbench_packs")  # it is no file of theirs


def pack(folder: Path, index: int) -> dict[str, Any]:
    """Its model inputs [S]: positions begin anew with each document, which is all that tells them apart.

    An attention mask would hide that from transformers.
    """
    tokens, labels, starts = arrays(folder)
    edges = [*(starts[index] if starts else [0]), tokens.shape[1]]
    targets = labels[index].astype(np.int64)
    return {
        "input_ids": tokens[index].astype(np.int64),
        "labels": targets,
        "loss_weights": (targets != -100).astype(np.float32),
        "position_ids": np.concatenate([np.arange(length) for length in np.diff(edges)]),
    }


@cache
def arrays(folder: Path) -> tuple[Any, Any, list[list[int]]]:
    """Tokens, labels and document starts."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy", mmap_mode="r")
    return tokens, labels, json.loads((folder / "starts.json").read_text("utf-8"))


def register_optimizer() -> None:
    """The preset's AdamW and cosine."""
    from llamafactory.v1.plugins.trainer_plugins.lr_scheduler import LRSchedulerPlugin
    from llamafactory.v1.plugins.trainer_plugins.optimizer import OptimizerPlugin

    def adamw(model: Any, settings: dict[str, Any]) -> Any:
        rates = {name: settings[name] for name in ("lr", "betas", "weight_decay")}
        return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **rates)

    def cosine(optimizer: Any, num_steps: int, settings: dict[str, Any]) -> Any:
        warmup = round(settings["warmup_ratio"] * num_steps)
        return transformers.get_cosine_schedule_with_warmup(optimizer, warmup, num_steps)

    OptimizerPlugin("tgsbench_adamw").register()(adamw)
    LRSchedulerPlugin("tgsbench_cosine").register()(cosine)


def keep_rotary_frequencies() -> None:
    """Keep the buffers that no checkpoint has: with rank 0's weights 0.9.5 leaves them as memory was.

    It has the two functions for it, and calls them where no rank builds weights.
    """
    from llamafactory.v1.plugins.trainer_plugins.distributed.fsdp2 import FSDP2Engine

    sharded = FSDP2Engine.shard_model

    def with_buffers(self: Any, model: Any) -> Any:
        buffers = self._save_non_persistent_buffers(model)
        model = sharded(self, model)
        self._restore_non_persistent_buffers(model, buffers)
        return model

    FSDP2Engine.shard_model = with_buffers


def draw_weights(attention: str) -> None:
    """Random weights where it would read a checkpoint, and one attention in all ranks.

    It asks for the attention where it reads weights, on rank 0, and not where it builds without them.
    """
    model_of = transformers.AutoModelForCausalLM
    built = model_of.from_config

    def with_attention(config: Any, **named: Any) -> Any:
        return built(config, **{"attn_implementation": attention, **named})

    def drawn(_path: Any, *, config: Any, **_: Any) -> Any:
        torch.manual_seed(0)
        return with_attention(config)

    model_of.from_config, model_of.from_pretrained = with_attention, drawn


if __name__ == "__main__":
    main()
