"""LLaMA-Factory: its YAML from a preset, and its trainer_log.jsonl as steps."""

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
from tgsbench.external.process import PEER, ExternalProcess
from tgsbench.schema.events import Data, Warn
from tgsbench.schema.preset import Preset
from tgsbench.systems.engines.llamafactory import ENGINE
from tgsbench.systems.log_lines import typed_lines

_KERNELS = {"auto": "auto", "sdpa": "sdpa", "flash2": "fa2"}
FULL_PACK_BATCH = 25_000
"""Documents packed together: with the default 1,000 a 128k pack holds 27 % padding, a 1M pack 91 %."""
_STOCK_BATCH = 1_000
_THROUGHPUT = "throughput, tokens/s over all GPUs"


class LlamaFactory:
    """See `adapter.Adapter`."""

    name = ENGINE.name

    def files(self, preset: Preset, folder: Path) -> dict[str, str]:
        """train.yaml (JSON, which YAML reads), the data set's index, DeepSpeed's JSON."""
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
        index = {"corpus": {"file_name": "corpus.json", "columns": columns}}
        return {
            "train.yaml": json.dumps(self.settings(preset, folder), indent=2) + "\n",
            "dataset_info.json": json.dumps(index) + "\n",
            "deepspeed.json": deepspeed_config(preset),
        }

    def settings(self, preset: Preset, folder: Path) -> dict[str, Any]:
        """Every value of its configuration."""
        training, workload = preset.training, preset.workload
        stock = workload.packing == "xtuner_stock"
        return {
            **trainer_arguments(preset),
            "model_name_or_path": str(folder / "model"),
            "train_from_scratch": True,
            "trust_remote_code": False,
            "flash_attn": _KERNELS.get(preset.engine.kernel, "auto"),
            "enable_liger_kernel": preset.engine.liger,
            "disable_gradient_checkpointing": training.checkpointing == "none",
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full",
            "dataset": "corpus",
            "dataset_dir": str(folder),
            "tokenized_path": str(folder / "tokenized"),
            "template": "llama2",
            "cutoff_len": workload.seq_len,
            "packing": True,
            "neat_packing": workload.document_mask,
            "preprocessing_batch_size": _STOCK_BATCH if stock else FULL_PACK_BATCH,
            "preprocessing_num_workers": 1,
            "output_dir": str(folder / "out"),
            "overwrite_output_dir": True,
            "warmup_ratio": training.lr_warmup_ratio,
            "deepspeed": str(folder / "deepspeed.json"),
            "ddp_timeout": 180_000_000,
            "include_num_input_tokens_seen": True,
            "include_effective_tokens_per_second": True,
            "seed": training.seed,
        }

    def prepare(
        self, preset: Preset, folder: Path, peer: ExternalProcess, say: Say
    ) -> tuple[Data, list[Warn]]:
        """Write the corpus as text, which LLaMA-Factory tokenizes and packs itself before the run."""
        num_documents = training_data.write_documents(preset, folder, say)
        say(f"{self.name} packs {num_documents:,} documents")
        on_cpu = preset.hardware.device == "cpu"
        through = ["other_builds.py"] if on_cpu else []
        script = str(PEER / "llamafactory_prepare.py")
        counted = json.loads(peer.script(*through, script, str(folder / "train.yaml")))
        real = counted["num_tokens"] - counted["num_padded"]
        data = Data(
            corpus=preset.workload.corpus,
            num_documents=num_documents,
            num_tokens=real,
            num_full=counted["num_full"],
            num_short=counted["num_packs"] - counted["num_full"],
            mean_pack_tokens=real / max(1, counted["num_packs"]),
            tokens_lost=0,
            tokens_padded=counted["num_padded"],
            attended_len=counted["attended_len"] if preset.workload.document_mask else 0.0,
            note="packed by LLaMA-Factory",
        )
        return data, []

    def program(self, preset: Preset) -> list[str]:
        """LLaMA-Factory's module: its own command would choose the number of ranks itself."""
        if preset.hardware.device == "cpu":
            return [str(PEER / "other_builds.py"), str(PEER / "llamafactory_cpu.py")]
        return ["-m", "llamafactory.launcher"]

    def kernel(self, preset: Preset) -> str:
        """The kernel that its configuration names; `auto` is PyTorch's."""
        asked = _KERNELS.get(preset.engine.kernel, "auto")
        return "sdpa" if asked == "auto" else preset.engine.kernel

    def clean(self, folder: Path) -> None:
        """Remove the text, the tokens and the trained model."""
        for name in ("tokenized", "model"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "corpus.json").unlink(missing_ok=True)
        for pattern in ("*.safetensors", "tokenizer*", "training_args.bin", "*.pt"):
            for path in (folder / "out").glob(pattern):
                path.unlink()

    def arguments(self, preset: Preset, folder: Path) -> list[str]:
        """The path of its configuration file."""
        return [str(folder / "train.yaml")]

    def environment(self, preset: Preset) -> dict[str, str]:
        """Turns the hub and version checks off, and memory in the log on."""
        return {"DISABLE_VERSION_CHECK": "1", "RECORD_VRAM": "1"}

    def read_log(self, folder: Path) -> str:
        """The text of trainer_log.jsonl."""
        return log_text(folder / "out" / "trainer_log.jsonl")

    def steps(self, log: str, preset: Preset) -> list[StepReport]:
        """Differences of its cumulative figures: t = total_tokens / throughput, tokens = total_tokens.

        Its clock starts at the first step; the last row (no loss) sums the run up and is no step.
        """
        found: list[StepReport] = []
        tokens, clock_s = 0.0, 0.0
        for row in _rows(log):
            now_s = row.total_tokens / row.throughput
            report = StepReport(
                tokens=row.total_tokens - tokens,
                step_s=now_s - clock_s,
                loss=row.loss,
                mem_gib=row.vram_allocated,
            )
            tokens, clock_s = row.total_tokens, now_s
            if report.tokens > 0 and report.step_s > 0:
                found.append(report)
        return found

    def claims(self, log: str, preset: Preset) -> dict[str, float]:
        """Its last `throughput`: all GPUs, padding and warm-up included."""
        rows = _rows(log)
        return {_THROUGHPUT: rows[-1].throughput} if rows else {}

    def own_tgs(self, log: str, preset: Preset) -> OwnTgs | None:
        """Its last `throughput`, for one GPU."""
        throughput = self.claims(log, preset).get(_THROUGHPUT)
        if not throughput:
            return None
        basis = "tokens over time since the first step, warm-up and padding included"
        return OwnTgs(throughput / preset.world_size, basis)


ADAPTER = LlamaFactory()


class _Row(msgspec.Struct):
    total_tokens: float
    throughput: float
    loss: float
    vram_allocated: float = 0.0


def _rows(log: str) -> list[_Row]:
    return [row for row in typed_lines(log, _Row) if row.throughput > 0]
