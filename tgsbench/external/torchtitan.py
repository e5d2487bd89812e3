"""torchtitan: its configuration from a preset, our packs by a loader of ours, its log lines as steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tgsbench.external import training_data
from tgsbench.external.adapter import OwnTgs, Say, StepReport, log_text, num_steps
from tgsbench.external.process import PEER, ExternalProcess
from tgsbench.schema.events import Data, Warn
from tgsbench.schema.preset import Preset
from tgsbench.systems.engines.torchtitan import ENGINE, TorchtitanOptions
from tgsbench.systems.log_formats import torchtitan_steps
from tgsbench.systems.spec import options_of


class Torchtitan:
    """See `adapter.Adapter`."""

    name = ENGINE.name

    def files(self, preset: Preset, folder: Path) -> dict[str, str]:
        """titan.json, from which our script builds its configuration."""
        return {"titan.json": json.dumps(self.settings(preset, folder), indent=2) + "\n"}

    def settings(self, preset: Preset, folder: Path) -> dict[str, Any]:
        """What differs from its defaults, by the tables of its own configuration."""
        training, sp = preset.training, preset.parallel.sp
        by = options_of(preset, TorchtitanOptions).sp_by
        return {
            "folder": str(folder),
            "on_cpu": preset.hardware.device == "cpu",
            "model": self.model(preset),
            "checkpointing": training.checkpointing,
            "optimizer": {
                "lr": training.lr,
                "betas": [training.beta1, training.beta2],
                "weight_decay": training.weight_decay,
            },
            "lr_scheduler": {
                "warmup_steps": max(1, round(training.lr_warmup_ratio * num_steps(preset))),
                "decay_type": "cosine",
            },
            "training": {
                "local_batch_size": training.micro_batch,
                "global_batch_size": preset.packs_per_step,
                "seq_len": preset.workload.seq_len,
                "max_norm": training.clip_norm,
                "steps": num_steps(preset),
                "mixed_precision_param": training.compute_dtype,
                "disable_cuda_graphs": True,
            },
            "parallelism": {
                "context_parallel_degree": sp if by == "context" else 1,
                "tensor_parallel_degree": sp if by == "tensor" else 1,
                "spmd_backend": "partial_dtensor",
            },
            "seed": training.seed % 2**32,
        }

    def model(self, preset: Preset) -> dict[str, Any]:
        """The preset's shape in its words; the embedding is not tied to the head."""
        shape = preset.model
        return {
            "dim": shape.hidden_size,
            "hidden_dim": shape.intermediate_size,
            "n_layers": shape.num_layers,
            "n_heads": shape.num_query_heads,
            "n_kv_heads": shape.num_kv_heads,
            "vocab_size": shape.vocab_size,
            "theta": shape.rope_theta,
        }

    def prepare(
        self, preset: Preset, folder: Path, peer: ExternalProcess, say: Say
    ) -> tuple[Data, list[Warn]]:
        """The very packs that our own engines train on."""
        return training_data.write_packs(preset, folder, say)

    def program(self, preset: Preset) -> list[str]:
        """Our script: its command takes configurations that are Python."""
        return [str(PEER / "titan_train.py")]

    def kernel(self, preset: Preset) -> str:
        """Flex attention; on a CPU, where that has no backward, PyTorch's own stands in for it."""
        return "sdpa" if preset.hardware.device == "cpu" else "flex"

    def clean(self, folder: Path) -> None:
        """Remove the packs."""
        training_data.remove_packs(folder)

    def arguments(self, preset: Preset, folder: Path) -> list[str]:
        """The path of its settings."""
        return [str(folder / "titan.json")]

    def environment(self, preset: Preset) -> dict[str, str]:
        """Log lines of rank 0 alone, without colours."""
        return {"NO_COLOR": "1", "LOG_RANK": "0"}

    def read_log(self, folder: Path) -> str:
        """What rank 0 printed of its steps."""
        return log_text(folder / "titan.log")

    def steps(self, log: str, preset: Preset) -> list[StepReport]:
        """Its tps is of one rank over the time since the line before: time = tokens a rank / tps."""
        share = preset.tokens_per_step / preset.world_size
        return [
            StepReport(
                tokens=preset.tokens_per_step,
                step_s=share / step.tgs,
                loss=step.loss or 0.0,
                mem_gib=0.0 if preset.hardware.device == "cpu" else step.mem_gib or 0.0,
            )
            for step in torchtitan_steps(log, preset.world_size, preset.workload.seq_len)
            if step.tgs
        ]

    def claims(self, log: str, preset: Preset) -> dict[str, float]:
        """The mean of its tps and MFU after warm-up."""
        rows = torchtitan_steps(log, preset.world_size, preset.workload.seq_len)[preset.measure.warmup :]
        tps = [row.tgs for row in rows if row.tgs]
        mfu = [row.mfu_percent for row in rows if row.mfu_percent]
        found = {"tps, mean over steps": sum(tps) / len(tps)} if tps else {}
        return found | ({"mfu, percent": sum(mfu) / len(mfu)} if mfu else {})

    def own_tgs(self, log: str, preset: Preset) -> OwnTgs | None:
        """The mean of its tps, which is of one GPU."""
        tps = self.claims(log, preset).get("tps, mean over steps")
        return (
            OwnTgs(tps, "a mean of rates in whole tokens/s, where ours is tokens over time") if tps else None
        )


ADAPTER = Torchtitan()
