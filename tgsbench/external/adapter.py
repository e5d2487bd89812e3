"""What one system needs to be run: files, command, environment, and how its log is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from tgsbench.external.process import ExternalProcess
from tgsbench.models.registry import find_family
from tgsbench.safe_files import read_regular
from tgsbench.schema.events import Data, Warn
from tgsbench.schema.preset import Preset

_MAX_LOG = 64 << 20
Say = Callable[[str], None]


class StepReport(Struct, frozen=True, kw_only=True):
    """One optimizer step as a system's log tells it, over all ranks."""

    tokens: float
    """As the system counts them: padding included."""
    step_s: float
    loss: float = 0.0
    mem_gib: float = 0.0
    mem_by_rank_gib: list[float] = []
    """Where somebody looked into every rank; empty: `mem_gib` stands for all."""
    reserved_by_rank_gib: list[float] = []
    """What CUDA's allocator held, where somebody looked."""
    num_all_to_alls: int | None = None
    """That its process groups did, counted from outside; None where nothing counts them."""


class OwnTgs(NamedTuple):
    """A system's own speed, tokens per GPU per second."""

    tgs: float
    basis: str
    """What it is made of, where ours is made otherwise."""


class Adapter(Protocol):
    """How tgsbench runs one other training system and reads its log."""

    name: str

    def files(self, preset: Preset, folder: Path) -> dict[str, str]:
        """Configuration files by name, to be written into `folder`."""
        ...

    def prepare(
        self, preset: Preset, folder: Path, peer: ExternalProcess, say: Say
    ) -> tuple[Data, list[Warn]]:
        """Write the data that the system trains on; returns what packing did to it, and warnings."""
        ...

    def program(self, preset: Preset) -> list[str]:
        """What torchrun starts in every rank: a script, or -m and a module."""
        ...

    def kernel(self, preset: Preset) -> str:
        """Name of the attention kernel that the system uses for this preset."""
        ...

    def clean(self, folder: Path) -> None:
        """Remove data and weights of a run, which are large and never read again."""
        ...

    def arguments(self, preset: Preset, folder: Path) -> list[str]:
        """Command-line arguments of the program."""
        ...

    def environment(self, preset: Preset) -> dict[str, str]:
        """Environment variables that the system's ranks need beside those of every run."""
        ...

    def read_log(self, folder: Path) -> str:
        """The text of the system's own log so far; empty while there is none."""
        ...

    def steps(self, log: str, preset: Preset) -> list[StepReport]:
        """Whole optimizer steps of the log, in order."""
        ...

    def claims(self, log: str, preset: Preset) -> dict[str, float]:
        """The system's own figures, as it words them."""
        ...

    def own_tgs(self, log: str, preset: Preset) -> OwnTgs | None:
        """The system's own figure that is meant as TGS is; None while it says none."""
        ...


def log_text(path: Path) -> str:
    """A system's own log as far as it is written; empty while there is none."""
    try:
        return read_regular(path, _MAX_LOG).decode("utf-8", "replace")
    except OSError:
        return ""


def num_steps(preset: Preset) -> int:
    """Optimizer steps to train: warm-up and measured."""
    return preset.measure.warmup + preset.measure.steps


def model_config(preset: Preset) -> dict[str, Any]:
    """The model's config.json; positions reach at least the sequence's end."""
    settings = find_family(preset.model.family).config(preset.model, preset.workload.seq_len)
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return settings | tokens | {"torch_dtype": preset.training.compute_dtype}


def trainer_arguments(preset: Preset) -> dict[str, Any]:
    """What every system on transformers' Trainer is told alike, by the names of its TrainingArguments."""
    training = preset.training
    return {
        "per_device_train_batch_size": training.micro_batch,
        "gradient_accumulation_steps": preset.accumulation,
        "max_steps": num_steps(preset),
        "learning_rate": training.lr,
        "adam_beta1": training.beta1,
        "adam_beta2": training.beta2,
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.clip_norm,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_torch",
        "bf16": training.compute_dtype == "bfloat16",
        "dataloader_num_workers": 0 if preset.hardware.device == "cpu" else 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }


def deepspeed_config(preset: Preset) -> str:
    """DeepSpeed's JSON as these systems ship it, with the preset's stage, offload and dtype."""
    engine, on_cpu = preset.engine, preset.hardware.device == "cpu"
    zero: dict[str, Any] = {"stage": engine.zero_stage, "overlap_comm": not on_cpu}
    if engine.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if engine.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if engine.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    document = {
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": zero,
        "fp16": {"enabled": False},
        "bf16": {"enabled": preset.training.compute_dtype == "bfloat16"},
    }
    return json.dumps(document, indent=2) + "\n"
