"""The longest sequence that trains in a card's memory on the virtual GPU: fsdp2 beside DeepSpeed's full ALST.

python -m benchmarks.virtual_longest [--case NAME …] [--side ours] [--side alst] [--step SHARE] [--json FILE]

Both sides checkpoint every layer into host memory and run MLP and loss in tiles; fsdp2 keeps parameters,
gradients and optimizer states on the host, ALST gradients and states, and on one GPU the parameters. Lengths
are tried until one trains and one that is `--step` longer runs out of memory; torch's own allocator decides.
A try is one warm-up and one measured step of one rank. Needs `make virtual-gpu`.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import tgsbench
from tgsbench.planner.memory import CONTEXT_BYTES
from tgsbench.presets.catalog import find_gpu
from tgsbench.schema.run import Result
from tgsbench.units import GIB

BOTH = (
    "workload.corpus=lengths", "workload.concat=1", "training.accumulation=1", "training.checkpointing=full",
    "engine.tiled_mlp=true", "engine.activation_offload=true", "measure.steps=1", "measure.warmup=1",
    "engine.loss_chunk_tokens=2048",
)  # fmt: skip
SIDES = {
    "ours": ("engine.name=fsdp2", "engine.offload=all"),
    "alst": ("engine.name=deepspeed", "engine.tiled_loss=true", "engine.offload=optimizer"),
}
CASES = {
    "llama3_8b on 1": ("llama3_8b_8k", 1, 1),
    "llama3_8b on 8": ("llama3_8b_8k", 8, 8),
    "llama2_70b on 64": ("llama2_70b_8k", 64, 64),
}
"""Preset, GPUs and sequence-parallel ranks."""
GPU = "H100-SXM5-80GB"
TOKENS = 8192
"""A rank's part of the sequence is a multiple of this."""
_FIRST = 16
_LONGER = 2.0


def main() -> None:
    """Search each case for each side, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", default=[], choices=CASES)
    parser.add_argument("--side", action="append", default=[], choices=SIDES)
    parser.add_argument("--step", type=float, default=0.05)
    parser.add_argument("--first", type=int, default=_FIRST, help="tiles of a rank's first length")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for case in args.case or CASES:
        longest = {}
        for side in args.side or SIDES:
            fits = functools.partial(try_length, case, side)
            longest[side] = search(fits, args.first, args.step)
            found = longest[side] * TOKENS * CASES[case][2]
            print(f"{case}, {side}: {found:,} tokens", flush=True)
            if args.json:
                with args.json.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"case": case, "side": side, "tokens": found}) + "\n")
        if longest.get("alst"):
            print(f"{case}: {longest.get('ours', 0) / longest['alst']:.2f} x ALST's (1.3 asked)", flush=True)


def search(fits: Callable[[int], float | None], first: int, step: float) -> int:
    """Most tiles that fit, to a share of `step`; 0: none. `fits` gives the share of the card that is used.

    What a length takes is nearly linear in it, so the next guess comes from the two last ones that fitted.
    """
    below, above, shares = 0, 0, dict[int, float]()
    tiles = first
    while above == 0 or above - below > max(1, round(step * below)):
        share = fits(tiles)
        if share is None:
            above = tiles
        else:
            below, shares[tiles] = max(below, tiles), share
        tiles = _next(below, above, shares, step)
        if tiles <= below:
            break
    return below


def _next(below: int, above: int, shares: dict[int, float], step: float) -> int:
    """The next length: where the last two lie on a line to the whole card, or between what is known."""
    margin = max(1, round(step * below))
    guess = int(below * _LONGER) if below else above // 2
    if len(shares) > 1:
        (a, share_a), (b, share_b) = sorted(shares.items())[-2:]
        slope = (share_b - share_a) / (b - a)
        guess = int(a + (1.0 - share_a) / slope) if slope > 0 else guess
    guess = max(guess, below + margin)
    return guess if not above or guess < above else (below + above) // 2


def try_length(case: str, side: str, tiles: int) -> float | None:
    """Share of the card that tensors took at most; None where it ran out."""
    preset, num_gpus, sp = CASES[case]
    length = tiles * TOKENS * sp
    sets = [*BOTH, *SIDES[side], f"hardware.num_gpus={num_gpus}", f"parallel.sp={sp}", f"hardware.gpu={GPU}"]
    sets.append(f"workload.seq_len={length}")
    if side == "alst" and num_gpus == 1:
        sets.append("engine.offload=all")
    with tempfile.TemporaryDirectory() as folder:
        result = tgsbench.run(preset, sets, virtual_gpu=GPU, root=folder)
    share = _share(result)
    held = f"{100 * share:.1f} % of the card" if share is not None else result.status
    print(f"  {case}, {side}: {length:,} tokens: {held}", flush=True)
    return share


def _share(result: Result) -> float | None:
    if result.status != "virtual" or result.virtual is None:
        assert result.status == "oom", result.failure
        return None
    gpu = find_gpu(GPU)
    assert gpu is not None
    allocated = max(peak.allocated_gib or 0.0 for peak in result.virtual.peaks)
    return allocated / (gpu.memory_gib - CONTEXT_BYTES / GIB)


if __name__ == "__main__":
    main()
