"""TRL: our packs to its SFTTrainer, and what its callback wrote as steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from tgsbench.external import training_data
from tgsbench.external.adapter import (
    OwnTgs,
    Say,
    StepReport,
    deepspeed_config,
    log_text,
    model_config,
    num_steps,
    trainer_arguments,
)
from tgsbench.external.process import PEER, ExternalProcess
from tgsbench.schema.events import Data, Warn
from tgsbench.schema.preset import Preset
from tgsbench.systems.engines.trl import ENGINE, KERNELS
from tgsbench.systems.log_lines import typed_lines


class Trl:
    """See `adapter.Adapter`."""

    name = ENGINE.name

    def files(self, preset: Preset, folder: Path) -> dict[str, str]:
        """trl.json: its own arguments, the model's configuration, DeepSpeed's, and the mesh."""
        document = {
            "arguments": self.arguments_of(preset, folder),
            "model": model_config(preset),
            "attention": KERNELS[preset.engine.kernel],
            "sp": preset.parallel.sp,
            "seq_len": preset.workload.seq_len,
            "deepspeed": json.loads(deepspeed_config(preset)),
            "on_cpu": preset.hardware.device == "cpu",
            "folder": str(folder),
        }
        return {"trl.json": json.dumps(document, indent=2) + "\n"}

    def arguments_of(self, preset: Preset, folder: Path) -> dict[str, Any]:
        """Every value of its SFTConfig that is not its default."""
        training, on_cpu = preset.training, preset.hardware.device == "cpu"
        return {
            **trainer_arguments(preset),
            "output_dir": str(folder / "out"),
            "gradient_checkpointing": training.checkpointing != "none",
            "warmup_steps": round(training.lr_warmup_ratio * num_steps(preset)),
            "use_cpu": on_cpu,
            "use_liger_kernel": preset.engine.liger,
            "disable_tqdm": True,
            "include_num_input_tokens_seen": "all",
            "max_length": preset.workload.seq_len,
            "packing": False,
            # Its list of columns lacks position_ids, which sequence parallelism needs of every batch.
            "remove_unused_columns": False,
            "shuffle_dataset": False,
            "seed": training.seed % 2**32,
        }

    def prepare(
        self, preset: Preset, folder: Path, peer: ExternalProcess, say: Say
    ) -> tuple[Data, list[Warn]]:
        """The very packs that our own engines train on."""
        return training_data.write_packs(preset, folder, say)

    def program(self, preset: Preset) -> list[str]:
        """Our script: TRL has no command that takes packs."""
        return [str(PEER / "trl_train.py")]

    def kernel(self, preset: Preset) -> str:
        """As its configuration asks; `auto` is PyTorch's."""
        return "sdpa" if preset.engine.kernel == "auto" else preset.engine.kernel

    def clean(self, folder: Path) -> None:
        """Remove the packs."""
        training_data.remove_packs(folder)

    def arguments(self, preset: Preset, folder: Path) -> list[str]:
        """The path of its settings."""
        return [str(folder / "trl.json")]

    def environment(self, preset: Preset) -> dict[str, str]:
        """Nothing beside the usual."""
        return {}

    def read_log(self, folder: Path) -> str:
        """What the script's callback wrote."""
        return log_text(folder / "steps.jsonl")

    def steps(self, log: str, preset: Preset) -> list[StepReport]:
        """One row a step: tokens as they reached the embedding of all ranks, by the script's own clock."""
        return [
            StepReport(
                tokens=row.tokens,
                step_s=row.step_s,
                loss=row.loss,
                mem_gib=row.mem_gib,
                num_all_to_alls=row.num_all_to_alls,
            )
            for row in _rows(log)
        ]

    def claims(self, log: str, preset: Preset) -> dict[str, float]:
        """Its own throughput, and the all-to-alls that its process groups really did."""
        rows = _rows(log)
        if not rows:
            return {}
        seen = {"all-to-alls of a step, all ranks": float(rows[-1].num_all_to_alls)}
        seen["all-to-all MiB of a step, all ranks"] = rows[-1].all_to_all_bytes / 2**20
        own = rows[-1].own_tokens_per_s
        return seen | ({"train_tokens_per_second": own} if own else {})

    def own_tgs(self, log: str, preset: Preset) -> OwnTgs | None:
        """Its `train_tokens_per_second`, for one GPU; a run without its summary has none."""
        own = self.claims(log, preset).get("train_tokens_per_second")
        return OwnTgs(own / preset.world_size, "of all training so far, warm-up included") if own else None


ADAPTER = Trl()


class _Row(msgspec.Struct):
    tokens: float
    step_s: float
    loss: float = 0.0
    mem_gib: float = 0.0
    num_all_to_alls: int = 0
    all_to_all_bytes: float = 0.0
    own_tokens_per_s: float = 0.0


def _rows(log: str) -> list[_Row]:
    return [row for row in typed_lines(log, _Row) if row.step_s > 0 and row.tokens > 0]
