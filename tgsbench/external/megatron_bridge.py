"""Megatron-Bridge: its configuration from a preset, our packs by a data set of ours, its printed lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tgsbench.external import training_data
from tgsbench.external.adapter import OwnTgs, Say, StepReport, log_text, num_steps
from tgsbench.external.process import PEER, ExternalProcess
from tgsbench.schema.events import Data, Warn
from tgsbench.schema.preset import Preset
from tgsbench.systems.engines.megatron_bridge import ENGINE, KERNELS, MegatronBridgeOptions
from tgsbench.systems.log_formats import megatron_steps
from tgsbench.systems.log_lines import LoggedStep
from tgsbench.systems.spec import options_of

_SCRIPT = "bridge_train.py"
_TFLOPS = "MODEL_TFLOP/s/GPU, mean over steps"


class MegatronBridge:
    """See `adapter.Adapter`."""

    name = ENGINE.name

    def files(self, preset: Preset, folder: Path) -> dict[str, str]:
        """bridge.json, from which our script builds its configuration."""
        return {"bridge.json": json.dumps(self.settings(preset, folder), indent=2) + "\n"}

    def settings(self, preset: Preset, folder: Path) -> dict[str, Any]:
        """What differs from its defaults, by the classes of its own configuration."""
        training, steps = preset.training, num_steps(preset)
        is_bf16 = training.compute_dtype == "bfloat16"
        return {
            "folder": str(folder),
            "attention_backend": KERNELS[preset.engine.kernel],
            "model": self.model(preset),
            "train": {
                "micro_batch_size": training.micro_batch,
                "global_batch_size": preset.packs_per_step,
                "train_iters": steps,
                "eval_iters": 0,
            },
            "optimizer": {
                "lr": training.lr,
                "min_lr": 0.0,
                "weight_decay": training.weight_decay,
                "adam_beta1": training.beta1,
                "adam_beta2": training.beta2,
                "clip_grad": training.clip_norm,
                "bf16": is_bf16,
                "use_distributed_optimizer": True,
            },
            "scheduler": {
                "lr_decay_style": "cosine",
                "lr_decay_iters": steps,
                "lr_warmup_iters": round(training.lr_warmup_ratio * steps),
                "start_weight_decay": training.weight_decay,
                "end_weight_decay": training.weight_decay,
            },
            "ddp": {
                "use_distributed_optimizer": True,
                "grad_reduce_in_fp32": preset.reduce_dtype == "float32",
                "overlap_grad_reduce": True,
                "overlap_param_gather": True,
            },
            "dataset": {
                "seq_length": preset.workload.seq_len,
                "dataloader_type": "single",
                "num_workers": 4,
            },
            "logger": {"log_interval": 1},
            # Some releases add an end token of their own to this; the model's must not be less.
            "tokenizer": {"tokenizer_type": "NullTokenizer", "vocab_size": preset.model.vocab_size - 1},
            "checkpoint": {"save": None, "load": None},
            "rng": {"seed": training.seed % 2**31},
            "mixed_precision": "bf16_mixed" if is_bf16 else None,
        }

    def model(self, preset: Preset) -> dict[str, Any]:
        """The preset's shape in its words, and how ranks share a sequence."""
        shape, sp = preset.model, preset.parallel.sp
        found: dict[str, Any] = {
            "num_layers": shape.num_layers,
            "hidden_size": shape.hidden_size,
            "ffn_hidden_size": shape.intermediate_size,
            "num_attention_heads": shape.num_query_heads,
            "num_query_groups": shape.num_kv_heads,
            "kv_channels": shape.head_dim,
            "vocab_size": shape.vocab_size,
            "seq_length": preset.workload.seq_len,
            "rotary_base": shape.rope_theta,
            "layernorm_epsilon": shape.rms_norm_eps,
            "share_embeddings_and_output_weights": shape.tie_word_embeddings,
            "context_parallel_size": sp,
        }
        if sp > 1:
            found["cp_comm_type"] = options_of(preset, MegatronBridgeOptions).cp_comm_type
        if preset.training.checkpointing == "full":
            found |= {
                "recompute_granularity": "full",
                "recompute_method": "uniform",
                "recompute_num_layers": 1,
            }
        return found

    def prepare(
        self, preset: Preset, folder: Path, peer: ExternalProcess, say: Say
    ) -> tuple[Data, list[Warn]]:
        """The very packs that our own engines train on; a configuration that it refuses ends here."""
        say("checking the configuration by its own classes")
        peer.script(_SCRIPT, str(folder / "bridge.json"), "--check")
        return training_data.write_packs(preset, folder, say)

    def program(self, preset: Preset) -> list[str]:
        """Our script: its recipes are Python."""
        return [str(PEER / _SCRIPT)]

    def kernel(self, preset: Preset) -> str:
        """As its configuration asks; `auto` is Transformer Engine's choice."""
        return "transformer_engine" if preset.engine.kernel == "auto" else preset.engine.kernel

    def clean(self, folder: Path) -> None:
        """Remove the packs."""
        training_data.remove_packs(folder)

    def arguments(self, preset: Preset, folder: Path) -> list[str]:
        """The path of its settings."""
        return [str(folder / "bridge.json")]

    def environment(self, preset: Preset) -> dict[str, str]:
        """Collectives wait their turn on the device, as its own launchers ask."""
        return {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}

    def read_log(self, folder: Path) -> str:
        """What its ranks printed, which is the run's log."""
        return log_text(folder.parent / "log" / f"{self.name}.log")

    def steps(self, log: str, preset: Preset) -> list[StepReport]:
        """Its lines: the batch that it counts, times the sequence, by its own clock."""
        return [
            StepReport(
                tokens=step.tokens_all_gpus or preset.tokens_per_step,
                step_s=step.step_s,
                loss=step.loss or 0.0,
            )
            for step in self._logged(log, preset)
            if step.step_s
        ]

    def claims(self, log: str, preset: Preset) -> dict[str, float]:
        """The mean of its TFLOPs after warm-up; it says no tokens a second."""
        rates = [step.tflops for step in self._logged(log, preset)[preset.measure.warmup :] if step.tflops]
        return {_TFLOPS: sum(rates) / len(rates)} if rates else {}

    def own_tgs(self, log: str, preset: Preset) -> OwnTgs | None:
        """None: it says TFLOPs alone."""
        return None

    def _logged(self, log: str, preset: Preset) -> list[LoggedStep]:
        return megatron_steps(log, preset.world_size, preset.workload.seq_len)


ADAPTER = MegatronBridge()
