"""Train our packs by torchtitan: `torchrun FILE titan.json`.

FOLDER of the settings holds tokens.npy and labels.npy [packs, S] and starts.json with the document starts of
each pack (empty without a document mask). Rank 0 writes its log lines to titan.log too.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


def main() -> None:
    """Build what the settings say, and train."""
    settings = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    if settings["on_cpu"]:
        answer_for_a_cpu()
    name_what_torch_has()
    from torchtitan.tools.logging import init_logger, logger

    init_logger()
    if os.environ["RANK"] == "0":
        handler = logging.FileHandler(Path(settings["folder"]) / "titan.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
    trainer = configuration(settings).build()
    try:
        trainer.train()
    finally:
        trainer.close()
    torch.distributed.destroy_process_group()


def name_what_torch_has() -> None:
    """torchtitan 0.3.0 calls torch.distributed.set_timeout after a step; torch 2.13 has no such name."""
    distributed: Any = torch.distributed
    if not hasattr(distributed, "set_timeout"):
        distributed.set_timeout = distributed.distributed_c10d._set_pg_timeout


def configuration(settings: dict[str, Any]) -> Any:
    """torchtitan's own configuration; its classes check names and values."""
    from torchtitan.components.checkpoint import CheckpointManager
    from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
    from torchtitan.components.metrics import MetricsProcessor
    from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
    from torchtitan.config import DebugConfig, ParallelismConfig, TrainingConfig
    from torchtitan.distributed.activation_checkpoint import FullAC
    from torchtitan.trainer import Trainer

    model = settings["model"]
    optimizer = {**settings["optimizer"], "betas": tuple(settings["optimizer"]["betas"])}
    return Trainer.Config(
        loss=ChunkedLossWrapper.Config(
            loss_fn=CrossEntropyLoss.Config(global_vocab_size=model["vocab_size"])
        ),
        model_spec=model_spec(model, settings["training"]["seq_len"]),
        optimizer=default_adamw(**optimizer),
        lr_scheduler=LRSchedulersContainer.Config(**settings["lr_scheduler"]),
        training=TrainingConfig(**settings["training"]),
        parallelism=ParallelismConfig(**settings["parallelism"]),
        dataloader=packs_of(Path(settings["folder"])),
        tokenizer=no_tokenizer(),
        metrics=MetricsProcessor.Config(log_freq=1, disable_color_printing=True),
        checkpoint=CheckpointManager.Config(enable=False),
        activation_checkpoint=None if settings["checkpointing"] == "none" else FullAC.Config(),
        debug=DebugConfig(seed=settings["seed"]),
        dump_folder=str(Path(settings["folder"]) / "out"),
    )


def model_spec(model: dict[str, Any], seq_len: int) -> Any:
    """A Llama 3 of this shape, with torchtitan's own layers and its flex attention."""
    from torchtitan.models import llama3
    from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
    from torchtitan.protocols.model_spec import ModelSpec

    dim, vocab = model["dim"], model["vocab_size"]
    rope = ComplexRoPE.Config(
        dim=dim // model["n_heads"], max_seq_len=seq_len, theta=model["theta"], scaling="none"
    )
    layers = llama3._build_llama3_layers(
        fuse_qkv=True,
        n_layers=model["n_layers"],
        dim=dim,
        n_heads=model["n_heads"],
        n_kv_heads=model["n_kv_heads"],
        hidden_dim=model["hidden_dim"],
        rope=rope,
        attn_backend="flex",
    )
    config = llama3.Llama3Model.Config(
        dim=dim,
        vocab_size=vocab,
        tok_embeddings=Embedding.Config(
            num_embeddings=vocab, embedding_dim=dim, param_init=llama3._EMBEDDING_INIT
        ),
        norm=RMSNorm.Config(normalized_shape=dim, param_init=llama3._NORM_INIT),
        lm_head=Linear.Config(
            in_features=dim, out_features=vocab, param_init=llama3._output_linear_init(dim)
        ),
        layers=layers,
    )
    return ModelSpec(
        name="llama3",
        flavor="tgsbench",
        model=config,
        parallelize_fn=llama3.parallelize_llama,
        pipelining_fn=None,
        post_optimizer_build_fn=None,
        state_dict_adapter=None,
    )


def packs_of(folder: Path) -> Any:
    """Its data loader's configuration: our packs in their order, dealt to the data-parallel ranks in turn."""
    from torchtitan.components.dataloader import BaseDataLoader

    class Packs(BaseDataLoader):  # type: ignore[misc]
        @dataclass(kw_only=True, slots=True)
        class Config(BaseDataLoader.Config):  # type: ignore[misc]
            pass

        def __init__(self, config: Any, *, dp_rank: int, dp_world_size: int, **named: Any) -> None:
            self._dealt = dp_rank, dp_world_size, named["local_batch_size"]

        def __iter__(self) -> Iterator[Any]:
            return batches(folder, *self._dealt)

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

    return Packs.Config()


def batches(folder: Path, rank: int, num_ranks: int, size: int) -> Iterator[Any]:
    """({input, positions}, labels) [size, S] each; labels stand beside the token that they follow."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy", mmap_mode="r")
    starts = json.loads((folder / "starts.json").read_text("utf-8"))
    length = tokens.shape[1]
    for first in range(rank * size, len(tokens) - size + 1, num_ranks * size):
        chosen = range(first, first + size)
        own = np.stack([tokens[i] for i in chosen]).astype(np.int64)
        next_ones = np.stack([np.append(labels[i, 1:], -100) for i in chosen]).astype(np.int64)
        edges = [[*starts[i], length] if starts else [0, length] for i in chosen]
        positions = np.stack([np.concatenate([np.arange(n) for n in np.diff(e)]) for e in edges])
        shown = {"input": torch.from_numpy(own), "positions": torch.from_numpy(positions)}
        yield shown, torch.from_numpy(next_ones)


def no_tokenizer() -> Any:
    """Its tokenizer's configuration: packs are made of ids, and nothing is tokenized."""
    from torchtitan.components.tokenizer import BaseTokenizer

    class NoTokenizer(BaseTokenizer):  # type: ignore[misc]
        @dataclass(kw_only=True, slots=True)
        class Config(BaseTokenizer.Config):  # type: ignore[misc]
            pass

        def __init__(self, config: Any, **_: Any) -> None:
            super().__init__()

        def encode(self, *_: Any, **__: Any) -> list[int]:
            raise NotImplementedError

        def decode(self, *_: Any, **__: Any) -> str:
            raise NotImplementedError

        def get_vocab_size(self) -> int:
            raise NotImplementedError

    return NoTokenizer.Config()


def answer_for_a_cpu() -> None:
    """Give torch.cpu what torchtitan asks of a device, and what gloo and flex attention lack there.

    The arithmetic of attention is PyTorch's own, causal over the whole pack; sums of gradients are sums.
    """
    import torch._utils

    torch._utils._get_available_device_type = lambda: "cpu"
    device: Any = torch.cpu
    device.get_device_name = lambda *_: "cpu"
    device.get_device_properties = lambda *_: SimpleNamespace(
        total_memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), name="cpu", gcnArchName=""
    )
    device.set_device = lambda *_: None
    # Every rank is on cpu:LOCAL_RANK.
    device.device_count = lambda: int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    device.memory_stats = lambda *_: {
        "active_bytes.all.peak": 0, "reserved_bytes.all.peak": 0, "num_alloc_retries": 0, "num_ooms": 0,
    }  # fmt: skip
    for name in ("reset_peak_memory_stats", "empty_cache"):
        setattr(device, name, lambda *_: None)
    for name in ("max_memory_allocated", "max_memory_reserved", "memory_allocated", "memory_reserved"):
        setattr(device, name, lambda *_: 0)
    _replace_attention()
    _replace_reductions()


def _replace_attention() -> None:
    import torch.nn.functional as F
    import torchtitan.models.common.attention as attention

    def causal(q: Any, k: Any, v: Any, *, scale: Any = None, enable_gqa: bool = False, **_: Any) -> Any:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=enable_gqa)
        return out, SimpleNamespace(lse=None)

    attention.FlexAttention.compiled_flex_attn = staticmethod(causal)


def _replace_reductions() -> None:
    """gloo has no sum that multiplies first, and no time-outs that are set later."""
    import torchtitan.distributed.utils as utils
    from torch.distributed.fsdp import FSDPModule

    divide = FSDPModule.set_gradient_divide_factor

    def divide_plainly(self: Any, factor: float) -> None:
        divide(self, factor)
        self.set_force_sum_reduction_for_comms(True)

    FSDPModule.set_gradient_divide_factor = divide_plainly  # type: ignore[method-assign]
    utils.set_pg_timeouts = lambda *_, **__: None


if __name__ == "__main__":
    main()
