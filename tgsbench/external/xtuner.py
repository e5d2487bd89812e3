"""XTuner: its Python configuration from a preset, and its scalars.json as steps."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

from tgsbench.external import training_data
from tgsbench.external.adapter import OwnTgs, Say, StepReport, deepspeed_config, log_text, num_steps
from tgsbench.external.process import PEER, ExternalProcess
from tgsbench.schema.events import Data, Warn
from tgsbench.schema.preset import Preset
from tgsbench.systems.engines.xtuner import ENGINE, xtuner_steps
from tgsbench.systems.log_lines import LoggedStep

_RATE = "tokens_per_sec, mean over micro-batches"


class XTuner:
    """See `adapter.Adapter`."""

    name = ENGINE.name

    def files(self, preset: Preset, folder: Path) -> dict[str, str]:
        """config.py and DeepSpeed's JSON."""
        return {"config.py": self.config(preset, folder), "deepspeed.json": deepspeed_config(preset)}

    def config(self, preset: Preset, folder: Path) -> str:
        """Its configuration; values of the preset enter as Python literals only."""
        training, on_cpu = preset.training, preset.hardware.device == "cpu"
        iterations = num_steps(preset) * preset.accumulation
        values = {
            "model_path": str(training_data.weights_dir(preset)),
            "data_path": str(folder / "packs"),
            "use_varlen_attn": preset.workload.document_mask,
            "sequence_parallel_size": preset.parallel.sp,
            "batch_size": training.micro_batch,
            "accumulative_counts": preset.accumulation,
            "max_iters": iterations,
            "warmup_iters": max(1, round(training.lr_warmup_ratio * iterations)),
            "lr": training.lr,
            "betas": (training.beta1, training.beta2),
            "weight_decay": training.weight_decay,
            "max_norm": training.clip_norm,
            "use_activation_checkpointing": training.checkpointing != "none",
            "dataloader_num_workers": 0 if on_cpu else 4,
            "backend": "gloo" if on_cpu else "nccl",
            "seed": training.seed,
        }
        lines = [f"{name} = {value!r}" for name, value in values.items()]
        return _IMPORTS + "\n".join(lines) + "\n" + _BODY

    def prepare(
        self, preset: Preset, folder: Path, peer: ExternalProcess, say: Say
    ) -> tuple[Data, list[Warn]]:
        """Write the packs that tgsbench's own engines train on, and random weights of the preset's shape."""
        saying = "writing packs and random weights for XTuner"
        return training_data.write_packs_and_weights(preset, folder, peer, "xtuner_prepare.py", say, saying)

    def program(self, preset: Preset) -> list[str]:
        """Its training script; the `xtuner` command ends with exit code 0 even when it fails."""
        if preset.hardware.device == "cpu":
            return [str(PEER / "xtuner_cpu.py")]
        return ["-m", "xtuner.tools.train"]

    def kernel(self, preset: Preset) -> str:
        """flash-attn where it trains on GPUs; the CPU shim leaves PyTorch's."""
        return "sdpa" if preset.hardware.device == "cpu" else "flash2"

    def clean(self, folder: Path) -> None:
        """Remove both copies of the packs: tgsbench's arrays and XTuner's data set."""
        shutil.rmtree(folder / "packs", ignore_errors=True)
        training_data.remove_packs(folder)

    def arguments(self, preset: Preset, folder: Path) -> list[str]:
        """Options for configuration, launcher, DeepSpeed and the folder of logs."""
        argv = [str(folder / "config.py"), "--launcher", "pytorch"]
        argv += ["--deepspeed", str(folder / "deepspeed.json")]
        return [*argv, "--work-dir", str(folder / "out"), "--seed", str(preset.training.seed)]

    def environment(self, preset: Preset) -> dict[str, str]:
        """None: XTuner needs no variables beside those of every run."""
        return {}

    def read_log(self, folder: Path) -> str:
        """The text of the newest scalars.json."""
        found = sorted((folder / "out").glob("*/vis_data/scalars.json"))
        return log_text(found[-1]) if found else ""

    def steps(self, log: str, preset: Preset) -> list[StepReport]:
        """Whole accumulation windows; its tokens_per_sec is of one GPU and one micro-batch."""
        micro, n = xtuner_steps(log), preset.accumulation
        windows = [micro[i : i + n] for i in range(0, len(micro) - n + 1, n)]
        return [_window(window, preset.world_size) for window in windows]

    def claims(self, log: str, preset: Preset) -> dict[str, float]:
        """The plain mean over micro-batches after warm-up, as its page reports it: biased upward."""
        micro = xtuner_steps(log)[preset.measure.warmup * preset.accumulation :]
        found = {_RATE: _mean([m.tgs for m in micro])}
        found["tflops, mean over micro-batches"] = _mean([m.tflops for m in micro])
        return {name: value for name, value in found.items() if value is not None}

    def own_tgs(self, log: str, preset: Preset) -> OwnTgs | None:
        """That mean of rates."""
        rate = self.claims(log, preset).get(_RATE)
        return (
            OwnTgs(rate, "the mean of the rates of micro-batches, where ours is tokens over time")
            if rate
            else None
        )


ADAPTER = XTuner()


def _window(window: list[LoggedStep], world_size: int) -> StepReport:
    step_s = sum(m.step_s or 0.0 for m in window)
    return StepReport(
        tokens=sum((m.tgs or 0.0) * (m.step_s or 0.0) for m in window) * world_size,
        step_s=step_s,
        loss=statistics.fmean(m.loss or 0.0 for m in window),
        mem_gib=max(m.mem_gib or 0.0 for m in window),
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


_IMPORTS = """\
from datasets import load_from_disk
from mmengine.dataset import DefaultSampler
from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
from torch.optim import AdamW
from transformers import AutoModelForCausalLM

from xtuner.dataset.collate_fns import default_collate_fn
from xtuner.engine.hooks import ThroughputHook, VarlenAttnArgsToMessageHubHook
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune
from xtuner.parallel.sequence import SequenceParallelSampler

"""

_BODY = """
model = dict(
    type=SupervisedFinetune,
    use_varlen_attn=use_varlen_attn,
    use_activation_checkpointing=use_activation_checkpointing,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=model_path,
        trust_remote_code=False,
    ),
)
sampler = SequenceParallelSampler if sequence_parallel_size > 1 else DefaultSampler
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=dataloader_num_workers,
    dataset=dict(type=load_from_disk, dataset_path=data_path),
    sampler=dict(type=sampler, shuffle=True, seed=seed),
    collate_fn=dict(type=default_collate_fn, use_varlen_attn=use_varlen_attn),
)
optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=lr, betas=betas, weight_decay=weight_decay),
    clip_grad=dict(max_norm=max_norm, error_if_nonfinite=False),
    accumulative_counts=accumulative_counts,
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-5, by_epoch=False, begin=0, end=warmup_iters),
    dict(type=CosineAnnealingLR, eta_min=0.0, by_epoch=False, begin=warmup_iters, end=max_iters),
]
train_cfg = dict(type=TrainLoop, max_iters=max_iters)
custom_hooks = [dict(type=ThroughputHook)]
if use_varlen_attn:
    custom_hooks += [dict(type=VarlenAttnArgsToMessageHubHook)]
default_hooks = dict(
    checkpoint=None,
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, log_metric_by_epoch=False, interval=1),
    param_scheduler=dict(type=ParamSchedulerHook),
    sampler_seed=dict(type=DistSamplerSeedHook),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend=backend),
)
visualizer = None
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=seed, deterministic=False)
log_processor = dict(by_epoch=False, window_size=1)
"""
