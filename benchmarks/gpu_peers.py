"""The same step by others, in one process group of one rank."""

from __future__ import annotations

import gc
import importlib.util
import json
import statistics
import subprocess
import sys
from typing import Any

import torch
from transformers import LlamaForCausalLM

from benchmarks.gpu_rank import Rank, single_rank_group
from tgsbench.models.build import llama_config
from tgsbench.models.fused import unfuse
from tgsbench.schema.preset import Preset
from tgsbench.trainer.device import synchronised_clock

_STEPS = 3


def against_transformers(preset: Preset) -> dict[str, Any]:
    """LlamaForCausalLM with SDPA, every layer checkpointed, bf16 autocast over fp32 weights, fused AdamW."""
    tgs: dict[str, list[float]] = {"tgsbench": [], "transformers": []}
    for _ in range(2):
        for name, run in (("tgsbench", _ours), ("transformers", _plain)):
            tgs[name].append(preset.workload.seq_len / run(preset))
            gc.collect()
            torch.cuda.empty_cache()
    pairs = zip(tgs["tgsbench"], tgs["transformers"], strict=True)
    return {"tgs": tgs, "ratio": statistics.median(a / b for a, b in pairs)}


def _ours(preset: Preset) -> float:
    with single_rank_group(preset):
        rank = Rank(preset)
        rank.step()
        return statistics.median(rank.timed() for _ in range(_STEPS))


def _plain(preset: Preset) -> float:
    unfuse()
    device = (
        torch.device(preset.hardware.device, 0) if preset.hardware.device == "cuda" else torch.device("cpu")
    )
    with device:
        model = LlamaForCausalLM(llama_config(preset.model, preset.workload.seq_len, "sdpa"))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=preset.training.lr, fused=True)
    ids = torch.randint(0, preset.model.vocab_size, (1, preset.workload.seq_len), device=device)

    def step() -> float:
        begin_s = synchronised_clock(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), preset.training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return synchronised_clock(device) - begin_s

    step()
    return statistics.median(step() for _ in range(_STEPS))


def against_deepspeed(preset: Preset) -> dict[str, Any]:
    """DeepSpeed ZeRO-3 with ALST attention through `tgsbench run`, against fsdp2 the same way, A B."""
    if importlib.util.find_spec("deepspeed") is None:
        return {"skipped": "deepspeed is not installed"}
    tgs = {name: _run(preset, options) for name, options in _SIDES.items()}
    if any(isinstance(value, str) for value in tgs.values()):
        return {"skipped": next(value for value in tgs.values() if isinstance(value, str))}
    return {"tgs": tgs, "ratio": float(tgs["fsdp2"]) / float(tgs["deepspeed"])}


_SIDES = {
    "fsdp2": ["engine.name=fsdp2"],
    "deepspeed": ["engine.name=deepspeed", "engine.attention=alst", "training.checkpointing=full"],
}


def _run(preset: Preset, options: list[str]) -> float | str:
    """Median TGS of a run of its own, or why there is none."""
    sets = [*options, "workload.corpus=lengths", "workload.concat=1", "measure.steps=3", "measure.warmup=2"]
    if preset.hardware.device == "cpu":
        return "the run of DeepSpeed is for a GPU"
    argv = [sys.executable, "-m", "tgsbench", "run", "--preset", preset.name, "--headless", "--json"]
    done = subprocess.run(
        [*argv, *(arg for s in sets for arg in ("--set", s))], capture_output=True, text=True, timeout=240
    )
    try:
        result = json.loads(done.stdout)
        return float(result["tgs"]["median"])
    except (json.JSONDecodeError, TypeError, KeyError):
        return (
            done.stderr.strip().splitlines()[-1][:300] if done.stderr.strip() else f"exit {done.returncode}"
        )
