"""Train our packs by Megatron-Bridge: `torchrun FILE bridge.json`, or `FILE bridge.json --check` alone.

FOLDER of the settings holds tokens.npy and labels.npy [packs, S]. `--check` builds the configuration, which
its own classes refuse where a name or a value is wrong, and trains nothing.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Build what the settings say, and train."""
    configuration = build(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    if sys.argv[2:] == ["--check"]:
        print("configuration understood")
        return
    from megatron.bridge.training.gpt_step import forward_step
    from megatron.bridge.training.pretrain import pretrain

    pretrain(configuration, forward_step)


def build(settings: dict[str, Any]) -> Any:
    """Megatron-Bridge's own configuration; its classes check names."""
    from megatron.bridge.models.llama.llama_provider import LlamaModelProvider
    from megatron.bridge.training import config
    from megatron.bridge.training.tokenizers.config import TokenizerConfig
    from megatron.core.transformer.enums import AttnBackend

    model = {**settings["model"], "attention_backend": AttnBackend[settings["attention_backend"]]}
    return config.ConfigContainer(
        model=LlamaModelProvider(**model),
        train=config.TrainingConfig(**settings["train"]),
        optimizer=config.OptimizerConfig(**settings["optimizer"]),
        scheduler=config.SchedulerConfig(**settings["scheduler"]),
        ddp=config.DistributedDataParallelConfig(**settings["ddp"]),
        dataset=packs_of(Path(settings["folder"]), settings["dataset"]),
        logger=config.LoggerConfig(**settings["logger"]),
        tokenizer=TokenizerConfig(**settings["tokenizer"]),
        checkpoint=config.CheckpointConfig(**settings["checkpoint"]),
        rng=config.RNGConfig(**settings["rng"]),
        mixed_precision=settings["mixed_precision"],
    )


def packs_of(folder: Path, settings: dict[str, Any]) -> Any:
    """Its data set's configuration: our packs in their order."""
    from megatron.bridge.training.config import DatasetProvider

    @dataclass
    class PacksProvider(DatasetProvider):  # type: ignore[misc]
        seq_length: int = 0

        def build_datasets(self, context: Any) -> tuple[Any, None, None]:
            return PackSamples(folder), None, None

    return PacksProvider(**settings)


class PackSamples(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """One pack as one sample; labels stand beside the token that they follow."""

    def __init__(self, folder: Path) -> None:
        self._tokens = np.load(folder / "tokens.npy", mmap_mode="r")
        self._labels = np.load(folder / "labels.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = torch.from_numpy(np.append(self._labels[index, 1:], -100).astype(np.int64))
        is_trained = labels != -100
        return {
            "tokens": torch.from_numpy(self._tokens[index].astype(np.int64)),
            "labels": labels.where(is_trained, 0),
            "loss_mask": is_trained.float(),
            "position_ids": torch.arange(len(labels)),
        }


if __name__ == "__main__":
    main()
