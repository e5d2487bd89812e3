"""One rank of the stock DeepSpeed ALST recipe: `python -m benchmarks.alst_rank SETS`.

What DeepSpeed's tutorial "Arctic Long Sequence Training for HF Transformers integration" shows, call by call:
the transformers model with SDPA, `register_with_transformers`, `deepspeed.initialize` with ZeRO-3, the
optimizer named in the config (so DeepSpeed's own FusedAdam, compiled for this CPU) and the mpu that it
returns, `UlyssesSPDataLoaderAdapter`, `loss_function` on shift_labels, the losses of the ranks gathered and
weighted by their labels, `backward`, `step`. Its faster option is taken where it names two
(`seq_length_is_variable=False`). Added so that both sides do the same work: the preset's dtype, gradient
clipping, accumulation and checkpointing (transformers' own `gradient_checkpointing_enable`), the same seeded
weights, the same packs in the same order. `overlap_comm=False` on a CPU, as everywhere here: there is no
stream to overlap with. For benchmarks/gpu_peers.py torch's AdamW stands for DeepSpeed's, whose first use
compiles. With one rank ALST changes nothing: what is left is ZeRO-3 around the transformers model.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import deepspeed
import deepspeed.comm as dist
import numpy as np
import torch
from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF, UlyssesSPDataLoaderAdapter
from deepspeed.runtime.utils import move_to_device
from deepspeed.utils import groups
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlamaForCausalLM

from benchmarks.turns import take_turns
from tgsbench import presets
from tgsbench.schema.preset import Preset
from tgsbench.training.model.build import decoder_config, draw
from tgsbench.workload import IGNORE_INDEX, prepare


class Packs(IterableDataset):  # type: ignore[type-arg]
    """The packs that tgsbench trains on, whole, each rank every sp-th: the adapter deals them out again."""

    def __init__(self, preset: Preset, sp_rank: int) -> None:
        self._data = prepare(preset, preset.packs_per_step * 4, lambda _: None)
        self._sp, self._sp_rank = preset.parallel.sp, sp_rank

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        index = self._sp_rank
        while True:
            pack = self._data.pack(index)
            labels = np.concatenate([[IGNORE_INDEX], pack.labels[:-1]])
            yield {
                "input_ids": torch.from_numpy(pack.tokens.astype(np.int64)).unsqueeze(0),
                "position_ids": torch.arange(len(pack.tokens)).unsqueeze(0),
                "labels": torch.from_numpy(labels.astype(np.int64)).unsqueeze(0),
            }
            index += self._sp


class Recipe:
    """The tutorial's script, one optimizer step at a time."""

    def __init__(self, preset: Preset, device: torch.device, torch_adam: bool = False) -> None:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_distributed(dist_backend=backend, dist_init_required=True)
        self._accumulation = preset.accumulation
        dtype = getattr(torch, preset.training.compute_dtype)
        with device:
            model = LlamaForCausalLM(decoder_config(preset.model, preset.workload.seq_len, "sdpa"))
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                ours = name.replace("lm_head.", "head.")
                parameter.data = draw(ours, parameter.shape, preset.training.seed, parameter.device)
        model.to(dtype).train()
        if preset.training.checkpointing == "full":
            model.gradient_checkpointing_enable({"use_reentrant": False})
        mpu = UlyssesSPAttentionHF.register_with_transformers(
            model_name_or_path=model,
            core_attn_implementation="sdpa",
            sequence_parallel_size=preset.parallel.sp,
            micro_batch_size=preset.training.micro_batch,
            seq_length=preset.workload.seq_len,
            seq_length_is_variable=False,
        )
        self._model, _, _, _ = deepspeed.initialize(
            config=config(preset, device, torch_adam),
            model=model,
            model_parameters=model.parameters(),
            mpu=mpu,
        )
        self._sp = preset.parallel.sp
        if self._sp == 1:
            self._batches = iter(DataLoader(Packs(preset, 0), batch_size=None))
            return
        self._sp_group = groups._get_sequence_parallel_group()
        sp_rank = groups._get_sequence_parallel_rank()
        self._batches = UlyssesSPDataLoaderAdapter(
            DataLoader(Packs(preset, sp_rank), batch_size=None),
            sp_rank=sp_rank,
            sp_group=self._sp_group,
            sp_world_size=self._sp,
            device=self._model.device,
        )

    def step(self) -> float:
        """One optimizer step; the loss of its last micro-step."""
        return [self._micro_step() for _ in range(self._accumulation)][-1]

    def _micro_step(self) -> float:
        loss = self.forward_backward(self.batch())
        self.optimizer_step()
        return float(loss)

    def batch(self) -> dict[str, Any]:
        """The next micro-batch, on the device."""
        moved: dict[str, Any] = move_to_device(next(self._batches), self._model.device)
        return moved

    def forward_backward(self, batch: dict[str, Any]) -> Tensor:
        """Loss and gradients of a micro-batch."""
        loss = self._loss(batch)
        self._model.backward(loss)
        return loss

    def optimizer_step(self) -> None:
        """DeepSpeed's own step, which does nothing before the last micro-step."""
        self._model.step()

    def _loss(self, batch: dict[str, Any]) -> Tensor:
        outputs = self._model(**batch)
        if self._sp == 1:
            whole: Tensor = outputs.loss
            return whole
        labels = batch["shift_labels"]
        loss = self._model.module.loss_function(
            logits=outputs.logits,
            labels=None,
            shift_labels=labels,
            vocab_size=self._model.module.config.vocab_size,
        )
        gather = torch.distributed.nn.functional.all_gather
        losses = gather(loss, group=self._sp_group)
        counts = gather((labels != IGNORE_INDEX).view(-1).sum(), group=self._sp_group)
        weighted = sum(losses[rank] * counts[rank] for rank in range(self._sp))
        total: Tensor = weighted / max(sum(counts), 1)
        return total


def config(preset: Preset, device: torch.device, torch_adam: bool) -> dict[str, Any]:
    """The tutorial's configuration with the preset's optimizer settings, dtype, clipping and accumulation."""
    training = preset.training
    options: dict[str, Any] = {"torch_adam": True, "fused": True} if torch_adam else {}
    options |= {
        "lr": training.lr,
        "betas": [training.beta1, training.beta2],
        "weight_decay": training.weight_decay,
    }
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch,
        "gradient_accumulation_steps": preset.accumulation,
        "gradient_clipping": training.clip_norm,
        "bf16": {"enabled": training.compute_dtype == "bfloat16"},
        "zero_optimization": {"stage": 3, "overlap_comm": device.type == "cuda"},
        "optimizer": {"type": "AdamW", "params": options},
        "sequence_parallel_size": preset.parallel.sp,
    }


if __name__ == "__main__":
    # DeepSpeed 0.19 calls renamed names of torch.distributed hundreds of times a step; each would print.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    tiny = presets.resolve("tiny_cpu", json.loads(sys.argv[1])).preset
    take_turns(Recipe(tiny, torch.device("cpu")).step)
