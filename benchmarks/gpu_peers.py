"""The same step by others on one GPU: transformers alone, and DeepSpeed's stock ALST recipe.

`python -m benchmarks.gpu_peers` is one turn of the recipe: a preset's document on stdin, seconds of a step on
stdout. On one GPU Ulysses has nothing to do, so the recipe is ZeRO-3 around the transformers model.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator

import torch
from msgspec.structs import replace
from transformers import LlamaForCausalLM

from benchmarks.gpu_rank import Json, Rank, attempt, device_of, ratio_of_pairs, single_rank_group
from tgsbench import presets
from tgsbench.schema.preset import Preset
from tgsbench.training.device import synchronised_clock
from tgsbench.training.model.build import decoder_config
from tgsbench.training.model.fused_layers import unfuse

_STEPS = 3
_RECIPE_S = 120.0
OURS, TRANSFORMERS, ALST = "tgsbench", "transformers", "DeepSpeed ALST"


def against_peers(preset: Preset, rounds: int) -> Iterator[Json]:
    """All sides in turns, told after each turn; one that fails or is missing is named and not tried again."""
    turns: dict[str, Callable[[Preset], float]] = {OURS: _ours, TRANSFORMERS: _plain, ALST: _recipe}
    tgs: dict[str, list[float]] = {name: [] for name in turns}
    left_out: dict[str, str] = {}
    if importlib.util.find_spec("deepspeed") is None:
        left_out[ALST] = "deepspeed is not installed"
    for _ in range(rounds):
        for name, turn in turns.items():
            if name in left_out:
                continue
            found = attempt(lambda turn=turn: {"step_s": turn(preset)})
            if "error" in found:
                left_out[name] = found["error"]
            else:
                tgs[name].append(preset.workload.seq_len / found["step_s"])
            yield {"tgs": tgs, "ratios": _ratios(tgs), "left_out": left_out}


def _ratios(tgs: dict[str, list[float]]) -> dict[str, float]:
    """Ours over each peer's, round by round."""
    theirs = {name: found for name, found in tgs.items() if found and tgs[OURS] and name != OURS}
    rounds = {name: min(len(found), len(tgs[OURS])) for name, found in theirs.items()}
    return {name: ratio_of_pairs(tgs[OURS][:n], theirs[name][:n]) for name, n in rounds.items()}


def _ours(preset: Preset) -> float:
    with single_rank_group(preset):
        rank = Rank(preset)
        rank.step()
        return statistics.median(rank.timed() for _ in range(_STEPS))


def _plain(preset: Preset) -> float:
    """LlamaForCausalLM with SDPA, every layer checkpointed, bf16 autocast over fp32 weights, fused AdamW."""
    unfuse()
    device = device_of(preset.hardware.device == "cpu")
    with device:
        model = LlamaForCausalLM(decoder_config(preset.model, preset.workload.seq_len, "sdpa"))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=preset.training.lr, fused=True)
    ids = torch.randint(0, preset.model.vocab_size, (1, preset.workload.seq_len), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), preset.training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _median_s(step, device)


def _median_s(step: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a step, after one that warms up."""
    step()
    times_s = []
    for _ in range(_STEPS):
        begin_s = synchronised_clock(device)
        step()
        times_s.append(synchronised_clock(device) - begin_s)
    return statistics.median(times_s)


def _recipe(preset: Preset) -> float:
    """Seconds of a step of the recipe, in a process of its own: ALST changes transformers for good."""
    full = replace(preset, training=replace(preset.training, checkpointing="full"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    env = {**os.environ, **place, "MASTER_PORT": str(port), "DS_ACCELERATOR": preset.hardware.device}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_peers"],
        input=presets.to_toml(full),
        env=env,
        capture_output=True,
        text=True,
        timeout=_RECIPE_S,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    return float(json.loads(done.stdout.splitlines()[-1])["step_s"])


def main() -> None:
    """One turn of the recipe."""
    import deepspeed

    from benchmarks.alst_rank import Recipe

    # DeepSpeed 0.19 calls renamed names of torch.distributed hundreds of times a step; each would print.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    # On a CPU it would be compiled first, and is never called.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    preset = presets.from_document(tomllib.loads(sys.stdin.read()))
    device = device_of(preset.hardware.device == "cpu")
    step_s = _median_s(Recipe(preset, device, torch_adam=True).step, device)
    print("\n" + json.dumps({"step_s": step_s}), flush=True)
    os._exit(0)  # DeepSpeed's own exit handlers may wait for ranks that there are not


if __name__ == "__main__":
    main()
