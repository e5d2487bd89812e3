"""ms-swift: its arguments from a preset, our packs by a template of ours, and its logging.jsonl as steps."""

from __future__ import annotations

import json
import shutil
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
    trainer_arguments,
)
from tgsbench.external.process import PEER, ExternalProcess, is_on_virtual_gpu
from tgsbench.schema.events import Data, Warn
from tgsbench.schema.preset import Preset
from tgsbench.systems.engines.swift import ENGINE, KERNELS, SwiftOptions
from tgsbench.systems.log_lines import typed_lines
from tgsbench.systems.spec import options_of


class Swift:
    """See `adapter.Adapter`."""

    name = ENGINE.name

    def files(self, preset: Preset, folder: Path) -> dict[str, str]:
        """DeepSpeed's JSON, and one row a pack, in the order of training, for the template of ours."""
        rows = (json.dumps(_row(folder, index)) for index in range(training_data.num_packs_of(preset)))
        return {"packs.jsonl": "\n".join(rows) + "\n", "deepspeed.json": deepspeed_config(preset)}

    def prepare(
        self, preset: Preset, folder: Path, peer: ExternalProcess, say: Say
    ) -> tuple[Data, list[Warn]]:
        """The very packs that our own engines train on, and random weights of the preset's shape."""
        saying = "writing random weights for ms-swift"
        return training_data.write_packs_and_weights(preset, folder, peer, "swift_prepare.py", say, saying)

    def program(self, preset: Preset) -> list[str]:
        """The module behind `swift sft`, which would choose the number of ranks itself."""
        return ["-m", "swift.cli.sft"]

    def kernel(self, preset: Preset) -> str:
        """As its configuration asks; `auto` is PyTorch's."""
        return "sdpa" if preset.engine.kernel == "auto" else preset.engine.kernel

    def clean(self, folder: Path) -> None:
        """Remove the packs and the trained model."""
        training_data.remove_packs(folder)
        for path in (folder / "out").glob("checkpoint-*"):
            shutil.rmtree(path, ignore_errors=True)

    def arguments(self, preset: Preset, folder: Path) -> list[str]:
        """Its options, each as --NAME VALUE."""
        return [word for name, value in self.options(preset, folder).items() for word in _words(name, value)]

    def options(self, preset: Preset, folder: Path) -> dict[str, Any]:
        """Every option that is not its default."""
        training, on_cpu = preset.training, preset.hardware.device == "cpu"
        stage = options_of(preset, SwiftOptions).zero_stage
        found = {
            **trainer_arguments(preset),
            "model": str(training_data.weights_dir(preset)),
            "model_type": "llama",
            "template": "tgsbench_packs",
            "external_plugins": str(PEER / "swift_packs.py"),
            "tuner_type": "full",
            "dataset": str(folder / "packs.jsonl"),
            "lazy_tokenize": True,
            # Else a row that cannot be read is replaced by another one, with a line in the log.
            "strict": True,
            "dataset_shuffle": False,
            "train_dataloader_shuffle": False,
            "split_dataset_ratio": 0,
            "load_from_cache_file": False,
            "torch_dtype": training.compute_dtype,
            # Without this it trains float32 weights in fp16 mixed precision.
            "fp16": False,
            "attn_impl": KERNELS[preset.engine.kernel],
            "use_liger_kernel": preset.engine.liger,
            "max_length": preset.workload.seq_len,
            "sequence_parallel_size": preset.parallel.sp,
            "gradient_checkpointing": training.checkpointing != "none",
            "warmup_ratio": training.lr_warmup_ratio,
            "dataset_num_proc": 1,
            "ddp_backend": "gloo" if on_cpu else "nccl",
            "eval_strategy": "no",
            "add_version": False,
            "output_dir": str(folder / "out"),
            "seed": training.seed % 2**32,
            "data_seed": training.seed % 2**32,
            "use_hf": True,
        }
        if is_on_virtual_gpu():
            # It would choose labelled tokens by two masks that agree only where somebody computed them.
            found["use_logits_to_keep"] = False
        return found | ({"deepspeed": str(folder / "deepspeed.json")} if stage else {})

    def environment(self, preset: Preset) -> dict[str, str]:
        """Keeps it from asking ModelScope's hub."""
        return {"USE_HF": "1", "MODELSCOPE_OFFLINE": "1"}

    def read_log(self, folder: Path) -> str:
        """The text of logging.jsonl."""
        return log_text(folder / "out" / "logging.jsonl")

    def steps(self, log: str, preset: Preset) -> list[StepReport]:
        """Losses and times of its rows: it counts no tokens, and logs the mean time since it began."""
        found: list[StepReport] = []
        clock_s = 0.0
        for index, row in enumerate(_rows(log), start=1):
            now_s = row.train_speed * index
            found.append(
                StepReport(tokens=0.0, step_s=now_s - clock_s, loss=row.loss, mem_gib=row.memory_gib)
            )
            clock_s = now_s
        return found

    def claims(self, log: str, preset: Preset) -> dict[str, float]:
        """Its last `train_speed(s/it)`, a mean that includes warm-up, as it words it and as a TGS."""
        rows = _rows(log)
        return {"train_speed(s/it)": rows[-1].train_speed} if rows and rows[-1].train_speed else {}

    def own_tgs(self, log: str, preset: Preset) -> OwnTgs | None:
        """The tokens that a step was asked to have over its `train_speed(s/it)`."""
        speed = self.claims(log, preset).get("train_speed(s/it)")
        if not speed:
            return None
        basis = "the mean since training began, warm-up included; it counts no tokens"
        return OwnTgs(preset.tokens_per_step / speed / preset.world_size, basis)


ADAPTER = Swift()


class _Row(msgspec.Struct):
    loss: float
    train_speed: float = msgspec.field(name="train_speed(s/it)", default=0.0)
    memory_gib: float = msgspec.field(name="memory(GiB)", default=0.0)


def _rows(log: str) -> list[_Row]:
    return list(typed_lines(log, _Row))


def _row(folder: Path, index: int) -> dict[str, Any]:
    """A row that names a pack where a conversation would be."""
    place = json.dumps({"folder": str(folder), "pack": index})
    return {"messages": [{"role": "user", "content": place}, {"role": "assistant", "content": "."}]}


def _words(name: str, value: Any) -> list[str]:
    return [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
