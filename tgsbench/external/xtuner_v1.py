"""XTuner's v1 trainer: its configuration from a preset, our packs by a loader of ours, its ranks' logs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tgsbench.external import training_data
from tgsbench.external.adapter import OwnTgs, Say, StepReport, log_text, num_steps
from tgsbench.external.process import PEER, ExternalProcess
from tgsbench.schema.events import Data, Warn
from tgsbench.schema.preset import Preset
from tgsbench.systems.engines.xtuner_v1 import ENGINE, KERNELS
from tgsbench.systems.log_formats import xtuner_v1_steps

_STEP = re.compile(r"\bStep \d+/\d+ ")
_RATE = "tgs, mean over steps and ranks"


class XTunerV1:
    """See `adapter.Adapter`."""

    name = ENGINE.name

    def files(self, preset: Preset, folder: Path) -> dict[str, str]:
        """xtuner_v1.json, from which our script builds its configuration."""
        return {"xtuner_v1.json": json.dumps(self.settings(preset, folder), indent=2) + "\n"}

    def settings(self, preset: Preset, folder: Path) -> dict[str, Any]:
        """What differs from its defaults, by the classes of its own configuration."""
        training, on_cpu = preset.training, preset.hardware.device == "cpu"
        return {
            "folder": str(folder),
            "on_cpu": on_cpu,
            "model": self.model(preset),
            "optim_cfg": {
                "lr": training.lr,
                "betas": [training.beta1, training.beta2],
                "weight_decay": training.weight_decay,
                "max_grad_norm": training.clip_norm,
            },
            "lr_cfg": {"lr_type": "cosine", "warmup_ratio": training.lr_warmup_ratio, "lr_min": 0.0},
            "loss_cfg": self.loss(preset),
            "fsdp_cfg": {
                "torch_compile": False,
                "param_dtype": training.compute_dtype,
                "reduce_dtype": preset.reduce_dtype,
                "recompute_ratio": 0.0 if training.checkpointing == "none" else 1.0,
            },
            "trainer": {
                "global_batch_size": preset.packs_per_step,
                "total_step": num_steps(preset),
                "sp_size": preset.parallel.sp,
                "work_dir": str(folder / "out"),
                "log_dir": str(folder / "logs"),
                "debug_skip_save": True,
                "seed": training.seed % 2**32,
                **({"dist_backend": "gloo"} if on_cpu else {}),
            },
        }

    def loss(self, preset: Preset) -> dict[str, Any]:
        """In chunks as ours, by Liger's kernel, or whole."""
        chunk = preset.engine.loss_chunk_tokens
        if preset.engine.liger:
            return {"mode": "liger"}
        return {"mode": "chunk", "chunk_size": chunk} if chunk else {"mode": "eager"}

    def model(self, preset: Preset) -> dict[str, Any]:
        """The preset's shape in its words."""
        shape, on_cpu = preset.model, preset.hardware.device == "cpu"
        return {
            "vocab_size": shape.vocab_size,
            "hidden_size": shape.hidden_size,
            "intermediate_size": shape.intermediate_size,
            "num_hidden_layers": shape.num_layers,
            "max_window_layers": shape.num_layers,
            "max_position_embeddings": preset.workload.seq_len,
            "rms_norm_eps": shape.rms_norm_eps,
            "hidden_act": "silu",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": None,
            "tie_word_embeddings": shape.tie_word_embeddings,
            "compile_cfg": False,
            "rope_theta": shape.rope_theta,
            "attention": {
                "num_attention_heads": shape.num_query_heads,
                "num_key_value_heads": shape.num_kv_heads,
                "head_dim": shape.head_dim,
                "attn_impl": "eager_attention" if on_cpu else KERNELS[preset.engine.kernel],
            },
        }

    def prepare(
        self, preset: Preset, folder: Path, peer: ExternalProcess, say: Say
    ) -> tuple[Data, list[Warn]]:
        """The very packs that our own engines train on."""
        return training_data.write_packs(preset, folder, say)

    def program(self, preset: Preset) -> list[str]:
        """Our script: its command takes configurations that are Python."""
        script = str(PEER / "xtuner_v1_train.py")
        return [str(PEER / "other_builds.py"), script] if preset.hardware.device == "cpu" else [script]

    def kernel(self, preset: Preset) -> str:
        """flash-attn where it trains on GPUs, its own eager attention on a CPU."""
        if preset.hardware.device == "cpu":
            return "eager"
        return "flash3" if preset.engine.kernel == "flash3" else "flash2"

    def clean(self, folder: Path) -> None:
        """Remove the packs."""
        training_data.remove_packs(folder)

    def arguments(self, preset: Preset, folder: Path) -> list[str]:
        """The path of its settings."""
        return [str(folder / "xtuner_v1.json")]

    def environment(self, preset: Preset) -> dict[str, str]:
        """FlashAttention 3 is asked for by a variable."""
        return {"XTUNER_USE_FA3": "1"} if preset.engine.kernel == "flash3" else {}

    def read_log(self, folder: Path) -> str:
        """The lines of steps of every rank's log, whose figures are of one rank each."""
        texts = [log_text(path) for path in sorted((folder / "logs").glob("rank*.log"))]
        return "\n".join(line for text in texts for line in text.splitlines() if _STEP.search(line))

    def steps(self, log: str, preset: Preset) -> list[StepReport]:
        """Each rank counts its own piece of a sequence: tokens are summed over all ranks."""
        return [
            StepReport(
                tokens=step.tgs * step.step_s * preset.world_size,
                step_s=step.step_s,
                loss=step.loss or 0.0,
                mem_gib=0.0 if preset.hardware.device == "cpu" else step.mem_gib or 0.0,
            )
            for step in xtuner_v1_steps(log, preset.world_size, preset.workload.seq_len)
            if step.tgs and step.step_s
        ]

    def claims(self, log: str, preset: Preset) -> dict[str, float]:
        """The mean of its tgs after warm-up."""
        rows = xtuner_v1_steps(log, preset.world_size, preset.workload.seq_len)[preset.measure.warmup :]
        tgs = [row.tgs for row in rows if row.tgs]
        return {_RATE: sum(tgs) / len(tgs)} if tgs else {}

    def own_tgs(self, log: str, preset: Preset) -> OwnTgs | None:
        """That mean: what the ranks of a sequence say of their pieces, summed and shared among them."""
        tgs = self.claims(log, preset).get(_RATE)
        return OwnTgs(tgs, "a mean of rates whose clock leaves out data and logging") if tgs else None


ADAPTER = XTunerV1()
