"""LLaMA-Factory's v1 trainer: its YAML from a preset, our packs through a template of ours, its losses.

Its log has neither tokens nor a clock: both come from an observer in its ranks.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec

from tgsbench.external import training_data
from tgsbench.external.adapter import OwnTgs, Say, StepReport, log_text, num_steps
from tgsbench.external.process import PEER, ExternalProcess
from tgsbench.schema.events import Data, Warn
from tgsbench.schema.preset import Preset
from tgsbench.systems.engines.llamafactory import ENGINE, LlamaFactoryOptions
from tgsbench.systems.log_lines import typed_lines
from tgsbench.systems.spec import options_of
from tgsbench.workload import tokenizer

_SCRIPT = str(PEER / "llamafactory_v1_train.py")
_KERNELS = {"sdpa": "sdpa", "flash2": "flash_attention_2"}
_WORKERS = 4


class LlamaFactoryV1:
    """See `adapter.Adapter`."""

    name = ENGINE.name

    def files(self, preset: Preset, folder: Path) -> dict[str, str]:
        """train.yaml (JSON, which YAML reads), the data set's index, and one row a pack."""
        index = {"packs": {"path": str(folder / "packs.jsonl"), "source": "local"}}
        rows = (json.dumps({"messages": [i]}) for i in range(training_data.num_packs_of(preset)))
        return {
            "train.yaml": json.dumps(self.settings(preset, folder), indent=2) + "\n",
            "dataset.yaml": json.dumps(index) + "\n",
            "packs.jsonl": "\n".join(rows) + "\n",
        }

    def settings(self, preset: Preset, folder: Path) -> dict[str, Any]:
        """Every value of its configuration."""
        training = preset.training
        return {
            "model": str(folder / "model"),
            "flash_attn": _KERNELS[self.kernel(preset)],
            # Weights come from rank 0's host memory: no GPU holds them whole.
            "init_config": {"name": "init_on_rank0"},
            "template": "tgsbench_packs",
            "train_dataset": str(folder / "dataset.yaml"),
            "output_dir": str(folder / "out"),
            "micro_batch_size": training.micro_batch,
            "global_batch_size": preset.packs_per_step,
            "cutoff_len": preset.workload.seq_len,
            "max_steps": num_steps(preset),
            "learning_rate": training.lr,
            "max_grad_norm": training.clip_norm,
            "bf16": training.compute_dtype == "bfloat16",
            "batching_workers": 0 if preset.hardware.device == "cpu" else _WORKERS,
            "enable_activation_checkpointing": training.checkpointing != "none",
            "dist_config": self.sharding(preset),
            "optim_config": {
                "name": "tgsbench_adamw",
                "lr": training.lr,
                "betas": [training.beta1, training.beta2],
                "weight_decay": training.weight_decay,
            },
            "lr_scheduler_config": {"name": "tgsbench_cosine", "warmup_ratio": training.lr_warmup_ratio},
            "seed": training.seed % 2**32,
        }

    def sharding(self, preset: Preset) -> dict[str, Any]:
        """FSDP2 over all ranks, Ulysses among those of one sequence."""
        offloads = options_of(preset, LlamaFactoryOptions).offload == "all"
        return {
            "name": "fsdp2",
            "cp_mode": "ulysses",
            "cp_size": preset.parallel.sp,
            "offload_params": offloads,
        }

    def prepare(
        self, preset: Preset, folder: Path, peer: ExternalProcess, say: Say
    ) -> tuple[Data, list[Warn]]:
        """The very packs that our own engines train on, and a model's configuration."""
        training_data.write_shape(preset, folder / "model", tokenizer.special_alone())
        return training_data.write_packs(preset, folder, say)

    def program(self, preset: Preset) -> list[str]:
        """Our script, which hands packs to its trainer; on a CPU what is not for one is out of the way."""
        if preset.hardware.device == "cpu":
            return [str(PEER / "other_builds.py"), _SCRIPT]
        return [_SCRIPT]

    def kernel(self, preset: Preset) -> str:
        """As asked; `auto` is PyTorch's, and flash-attn's where ranks share a sequence: it has no other."""
        if preset.engine.kernel != "auto":
            return preset.engine.kernel
        return "flash2" if preset.parallel.sp > 1 else "sdpa"

    def clean(self, folder: Path) -> None:
        """Remove the packs and the model's folder."""
        training_data.remove_packs(folder)
        shutil.rmtree(folder / "model", ignore_errors=True)

    def arguments(self, preset: Preset, folder: Path) -> list[str]:
        """The path of its configuration file."""
        return [str(folder / "train.yaml")]

    def environment(self, preset: Preset) -> dict[str, str]:
        """What its own command asks for its v1 trainer by."""
        return {"USE_V1": "1", "DISABLE_VERSION_CHECK": "1"}

    def read_log(self, folder: Path) -> str:
        """The text of trainer_log.jsonl."""
        return log_text(folder / "out" / "trainer_log.jsonl")

    def steps(self, log: str, preset: Preset) -> list[StepReport]:
        """Its losses: it logs nothing else that is ours to compare."""
        return [StepReport(tokens=0.0, step_s=0.0, loss=row.loss) for row in typed_lines(log, _Row)]

    def claims(self, log: str, preset: Preset) -> dict[str, float]:
        """It says nothing of its speed."""
        return {}

    def own_tgs(self, log: str, preset: Preset) -> OwnTgs | None:
        """It says nothing of its speed."""
        return None


ADAPTER = LlamaFactoryV1()


class _Row(msgspec.Struct):
    step: int
    loss: float
