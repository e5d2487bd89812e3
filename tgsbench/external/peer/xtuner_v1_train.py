"""Train our packs by XTuner's v1 trainer: `torchrun FILE xtuner_v1.json`.

FOLDER of the settings holds tokens.npy and labels.npy [packs, S] and starts.json with the document starts of
each pack (empty without a document mask).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def main() -> None:
    """Build what the settings say, and train."""
    settings = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    if settings["on_cpu"]:
        answer_for_a_cpu()
    norm_tensors_one_by_one()
    if "TGSBENCH_VGPU_LOG" in os.environ:
        attend_by_torch()
    from xtuner.v1.train import Trainer

    Trainer.from_config(configuration(settings)).fit()
    dist.destroy_process_group()


def configuration(settings: dict[str, Any]) -> Any:
    """XTuner's own configuration; its classes check names and values."""
    from xtuner.v1.config import AdamWConfig, FSDPConfig, LRConfig
    from xtuner.v1.loss import CELossConfig
    from xtuner.v1.train import TrainerConfig

    return TrainerConfig(
        model_cfg=model(settings["model"]),
        optim_cfg=AdamWConfig(**settings["optim_cfg"]),
        lr_cfg=LRConfig(**settings["lr_cfg"]),
        loss_cfg=CELossConfig(**settings["loss_cfg"]),
        fsdp_cfg=FSDPConfig(**settings["fsdp_cfg"]),
        dataloader_cfg=packs_of(Path(settings["folder"])),
        **settings["trainer"],
    )


def model(settings: dict[str, Any]) -> Any:
    """Its Qwen2 without biases, which computes what a Llama of this shape does.

    Raises ModuleNotFoundError where XTuner would attend by another kernel than the one asked for.
    """
    from xtuner.v1.model.base import RopeParametersConfig
    from xtuner.v1.model.dense.qwen2 import Qwen2DenseConfig
    from xtuner.v1.module.attention import MHAConfig

    rope = RopeParametersConfig(rope_theta=settings["rope_theta"])
    attention = MHAConfig(**settings["attention"])
    asked = settings["attention"]["attn_impl"]
    if attention.attn_impl != asked:  # it says so in its log, and goes on
        taken = f"XTuner would take {attention.attn_impl} for {asked}"
        raise ModuleNotFoundError(f"{taken}: install flash-attn in this environment")
    shape = {name: value for name, value in settings.items() if name not in ("rope_theta", "attention")}
    return Qwen2DenseConfig(**shape, rope_parameters_cfg=rope, attention=attention)


def packs_of(folder: Path) -> Any:
    """Its data loader's configuration: our packs in their order, dealt to the data-parallel ranks in turn."""
    from xtuner.v1.datasets.config import BaseDataloaderConfig
    from xtuner.v1.datasets.dataloader import BaseDataloader

    class Packs(BaseDataloader):  # type: ignore[misc]
        def __init__(self, rank: int, num_ranks: int, size: int) -> None:
            self._dealt = rank, num_ranks, size

        def __iter__(self) -> Iterator[Any]:
            for packs in batches(folder, *self._dealt):
                yield [as_item(*pack) for pack in packs]

        def get_state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

    class PacksConfig(BaseDataloaderConfig):  # type: ignore[misc]
        pad_token_id: int | None = None
        pack_to_max_length: bool = True

        def build(self, *, dp_mesh: Any, micro_batch_size: int, **_: Any) -> Packs:
            return Packs(dp_mesh.get_local_rank(), dp_mesh.size(), micro_batch_size)

    return PacksConfig()


def batches(folder: Path, rank: int, num_ranks: int, size: int) -> Iterator[list[tuple[Any, Any, list[int]]]]:
    """`size` packs a step: tokens [S], labels [S] beside the token that they follow, edges of documents."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy", mmap_mode="r")
    starts = json.loads((folder / "starts.json").read_text("utf-8"))
    length = tokens.shape[1]
    for first in range(rank * size, len(tokens) - size + 1, num_ranks * size):
        yield [
            (
                tokens[i].astype(np.int64),
                np.append(labels[i, 1:], -100).astype(np.int64),
                [*starts[i], length] if starts else [0, length],
            )
            for i in range(first, first + size)
        ]


def as_item(tokens: Any, labels: Any, edges: list[int]) -> dict[str, Any]:
    """What its collator makes of a pack, which would drop the last token and pad in its place."""
    from xtuner.v1.data_proto import SequenceContext

    longest = int(np.diff(edges).max())
    context = SequenceContext(
        input_ids=torch.from_numpy(tokens)[None],
        cu_seq_lens_q=torch.tensor(edges, dtype=torch.int32),
        cu_seq_lens_k=torch.tensor(edges, dtype=torch.int32),
        max_length_q=longest,
        max_length_k=longest,
    )
    return {"seq_ctx": context, "shifted_labels": torch.from_numpy(labels)[None]}


def answer_for_a_cpu() -> None:
    """Answer what XTuner asks of an accelerator; its eager attention and gloo do the rest."""
    device: Any = torch.cpu
    torch.accelerator.set_device_index = lambda *_: None
    torch.accelerator.current_accelerator = lambda *_, **__: torch.device("cpu")
    for name in ("empty_cache", "reset_peak_memory_stats"):
        setattr(device, name, lambda *_: None)
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"):
        setattr(device, name, lambda *_: 0)
    device.device_count = lambda: int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def attend_by_torch() -> None:
    """torch's own flash attention on a virtual GPU, which knows the kernels of torch alone."""
    import xtuner.v1.module.attention.mha as mha
    import xtuner.v1.ops.attn_imp as ops
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    def attend(q: Any, k: Any, v: Any, **named: Any) -> Any:
        return varlen_attn(
            q, k, v, named["cu_seqlens_q"], named["cu_seqlens_k"],
            named["max_seqlen_q"], named["max_seqlen_k"],
            scale=named["softmax_scale"], window_size=(-1, 0),
            enable_gqa=q.shape[1] != k.shape[1], return_aux=AuxRequest(lse=True),
        )  # fmt: skip

    mha.is_installed = lambda _: True
    ops.flash_attn_varlen_func, ops.flash_attn_exception = attend, None


def norm_tensors_one_by_one() -> None:
    """torch 2.14's distributed tensors refuse a norm of many at once with a dtype, which XTuner asks for."""
    import xtuner.v1.utils.grad_norm as norms

    at_once = norms.cal_total_norm

    def one_by_one(grads: Any, **named: Any) -> Any:
        return at_once(grads, **{**named, "foreach": False})

    norms.cal_total_norm = one_by_one


if __name__ == "__main__":
    main()
