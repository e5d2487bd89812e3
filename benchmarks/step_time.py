"""A step of tgsbench against a step of its peers: `python -m benchmarks.step_time [--only alst,native,…]`.

Two gloo ranks each, sp 2, one thread a rank. All systems of a row live at once and take turns (A B A B …), so
that a busy machine slows them alike; who waits sleeps. A row's ratio is the median over its rounds. The ratio
of processor time stands beside it: it counts no waiting, so it says on a busy machine what the wall clock
cannot.

- alst, native: engines fsdp2 and `deepspeed` with native attention against the stock ALST recipe
  (benchmarks/alst_rank.py): same shapes, seeded weights, packs, dtype, AdamW, accumulation 1 and no
  checkpointing, as the tutorial's loop has it; the losses are printed and must agree. The bf16 rows are
  the recipe's dtype; the fp32 rows are the control in which both sides run the very same matrix kernels.
- checkpointed: the ALST recipe with transformers' own checkpointing of whole layers, which long sequences
  need, against fsdp2's selective one, which keeps attention's outputs and does not attend twice; its peak
  memory, printed beside the time, must be the recipe's or less.
- xtuner: fsdp2 against XTuner 0.2.0's own training on the same packs, accumulation = sp and full
  checkpointing, as its configurations have it (`make peers` makes its environment); and once more with
  selective checkpointing.
- selective: full over selective checkpointing of fsdp2, and what a profiled step predicts for it: without
  the attention and all-to-alls that a full checkpoint runs again, the step is that much shorter.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from benchmarks.pairs import Ratio, ratio, store
from benchmarks.turns import Ranks
from tgsbench import presets
from tgsbench.external.process import ExternalProcess, peer_environment
from tgsbench.external.xtuner import XTuner
from tgsbench.system.build_locks import remove_abandoned
from tgsbench.system.lifetime import die_with_parent_argv
from tgsbench.systems import environments

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = ("alst", "native", "checkpointed", "xtuner", "selective")
BOUNDS = {
    "alst": {"bfloat16": "to reach: >= 2.0", "float32": "to reach: >= 1.15"},
    "native": {"bfloat16": "to reach: >= 1.1", "float32": "to reach: >= 1.1"},
    "xtuner": {"bfloat16": "to reach: >= 2.0", "float32": "to reach: >= 1.25"},
}
"""Of bf16 most is the matrix kernels that this CPU lacks; fp32 is the control with equal kernels."""
LOSS_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3}
"""Relative: the stock recipe rounds its logits to bf16, 8 bits of mantissa."""
SHAPES = {
    "h128 L1": {"num_layers": 1, "hidden_size": 128, "intermediate_size": 344, "head_dim": 16},
    "h256 L1": {"num_layers": 1},
    "h256 L2": {"num_layers": 2},
    "h512 L1": {"num_layers": 1, "hidden_size": 512, "intermediate_size": 1376, "head_dim": 64},
}
"""The preset's tiny shape but for these: 8 query and 4 KV heads, 2,048 tokens of vocabulary."""
OURS = {
    "fsdp2": ["engine.name=fsdp2"],
    "deepspeed native": ["engine.name=deepspeed", "engine.attention=native"],
}


@dataclass(frozen=True)
class Case:
    """One row: what is trained, and for how long."""

    shape: str
    seq_len: int
    dtype: str
    rounds: int
    steps: int = 1
    """Steps of a turn."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.shape}, {self.seq_len // 1024}k, {self.dtype}"

    def sets(self, *more: str) -> list[str]:
        """What is changed in the preset tiny_cpu."""
        shape = [f"model.{name}={value}" for name, value in SHAPES[self.shape].items()]
        own = [f"workload.seq_len={self.seq_len}", f"training.compute_dtype={self.dtype}"]
        return [*shape, *own, "measure.warmup=0", "measure.steps=256", *more]


PEER_CASES = [
    Case("h256 L2", 2048, "bfloat16", rounds=3),
    Case("h512 L1", 2048, "bfloat16", rounds=3),
    Case("h256 L1", 8192, "bfloat16", rounds=3),
    Case("h128 L1", 8192, "bfloat16", rounds=3),
    Case("h256 L2", 2048, "float32", rounds=7),
    Case("h512 L1", 2048, "float32", rounds=7),
    Case("h256 L1", 8192, "float32", rounds=5),
    Case("h128 L1", 8192, "float32", rounds=5),
]
SELECTIVE_CASES = [Case("h256 L2", 8192, "float32", rounds=5), Case("h256 L1", 16384, "float32", rounds=3)]


def main() -> None:
    """Run the chosen sections and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"unknown section {sorted(unknown)}; there are {', '.join(SECTIONS)}")
    ratios: list[Ratio] = []
    try:
        for row in rows(chosen):
            ratios += row
    finally:  # a row that fails takes no finished one with it
        store(args.json, ratios)


def rows(chosen: list[str]) -> Iterator[list[Ratio]]:
    """Every row of the chosen sections, measured when it is asked for."""
    if "alst" in chosen or "native" in chosen:
        yield from (against_alst(case, chosen) for case in PEER_CASES)
    if "checkpointed" in chosen:
        yield from (against_checkpointed_alst(case) for case in PEER_CASES if case.dtype == "float32")
    if "xtuner" in chosen:
        yield from (against_xtuner(case) for case in PEER_CASES)
    if "selective" in chosen:
        yield from (selective(case) for case in SELECTIVE_CASES)


def against_alst(case: Case, chosen: list[str]) -> list[Ratio]:
    """The stock recipe's step over ours; TGS are the inverse, since the tokens are the same."""
    ours = {name: own for name, own in OURS.items() if _section(name) in chosen}
    times = _beside_alst(case, "training.checkpointing=none", ours)
    return [times.over("stock ALST", name, BOUNDS[_section(name)][case.dtype]) for name in ours]


def against_checkpointed_alst(case: Case) -> list[Ratio]:
    """The same where the recipe checkpoints whole layers and fsdp2 selectively."""
    name, own = "fsdp2 selective", [*OURS["fsdp2"], "training.checkpointing=selective"]
    times = _beside_alst(case, "training.checkpointing=full", {name: own})
    return [times.over("stock ALST", name, BOUNDS["alst"][case.dtype])]


def _beside_alst(case: Case, checkpointing: str, ours: dict[str, list[str]]) -> Times:
    """Rounds of the recipe and of our engines, whose first losses must agree."""
    sets = case.sets("training.accumulation=1", checkpointing)
    with ExitStack() as stack:
        systems = {"stock ALST": stack.enter_context(_python("benchmarks.alst_rank", sets))}
        for name, own in ours.items():
            systems[name] = stack.enter_context(_python("benchmarks.step_time_rank", [*sets, *own]))
        losses = {name: _loss(ranks.turn("1")) for name, ranks in systems.items()}
        stock, tolerance = losses["stock ALST"], LOSS_TOLERANCE[case.dtype]
        assert all(math.isclose(loss, stock, rel_tol=tolerance) for loss in losses.values()), losses
        times = Times(case, systems)
    times.tell(f"first loss {', '.join(f'{name} {loss:.4f}' for name, loss in losses.items())}")
    return times


def against_xtuner(case: Case) -> list[Ratio]:
    """XTuner's step over ours: both checkpoint whole layers, and ours keeps attention's outputs too."""
    sets = case.sets("training.checkpointing=full")
    ours = {
        name: [*sets, *OURS["fsdp2"], f"training.checkpointing={mode}"]
        for name, mode in (("fsdp2", "full"), ("fsdp2 selective", "selective"))
    }
    with ExitStack() as stack:
        theirs = _xtuner([*sets, "engine.name=xtuner", "engine.cpu_shim=true"])
        systems = {"XTuner": stack.enter_context(theirs)}
        for name, own in ours.items():
            systems[name] = stack.enter_context(_python("benchmarks.step_time_rank", own))
        for ranks in systems.values():
            ranks.turn("1")
        times = Times(case, systems)
    times.tell()
    return [times.over("XTuner", name, BOUNDS["xtuner"][case.dtype]) for name in ours]


def selective(case: Case) -> list[Ratio]:
    """Full over selective, and the same as a profiled step of the full one predicts it."""
    sets = case.sets("training.accumulation=1", *OURS["fsdp2"])
    with ExitStack() as stack:
        systems = {
            mode: stack.enter_context(
                _python("benchmarks.step_time_rank", [*sets, f"training.checkpointing={mode}"])
            )
            for mode in ("full", "selective")
        }
        for ranks in systems.values():
            ranks.turn("1")
        profiled = [systems["full"].turn("profile") for _ in range(2)]
        times = Times(case, systems)
    share = statistics.median(r["recomputed_attention"] / r["seconds"] for step in profiled for r in step)
    times.tell(f"recomputed attention and its all-to-alls are {share:.1%} of a full step")
    return [times.over("full", "selective", f"predicted {1 / (1 - share):.3f}, to reach: within 10 %")]


def _section(name: str) -> str:
    return "alst" if name == "fsdp2" else "native"


@contextmanager
def _python(module: str, sets: list[str]) -> Iterator[Ranks]:
    """Ranks of a module of this folder, in this environment."""
    with tempfile.TemporaryDirectory() as folder:
        # Ops that DeepSpeed compiles (a minute, once) must not mix with those of another environment's torch.
        ops = ROOT / ".peers" / "ops"
        remove_abandoned(ops, print)
        env = dict(os.environ, PYTHONPATH=str(ROOT), TORCH_EXTENSIONS_DIR=str(ops))
        argv = die_with_parent_argv([sys.executable, "-m", module, json.dumps(sets)])
        ranks = Ranks(argv, Path(folder) / "log", env, ROOT)
        with _closing(ranks):
            yield ranks


@contextmanager
def _xtuner(sets: list[str]) -> Iterator[Ranks]:
    """XTuner's ranks as `tgsbench run --engine xtuner` starts them, in its own environment."""
    python = environments.require("xtuner").python
    preset, adapter = presets.resolve("tiny_cpu", sets).preset, XTuner()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, text in adapter.files(preset, folder).items():
            (folder / file).write_text(text, "utf-8")
        env = peer_environment(preset, adapter.environment(preset), os.environ)
        peer = ExternalProcess(python, env, folder / "prepare.log", SimpleNamespace(asked=False))
        adapter.prepare(preset, folder, peer, lambda _: None)
        argv = [python, "-m", "benchmarks.xtuner_rank", str(preset.accumulation)]
        argv += [*adapter.program(preset), *adapter.arguments(preset, folder)]
        ranks = Ranks(die_with_parent_argv(argv), folder / "log", env | {"PYTHONPATH": str(ROOT)}, folder)
        with _closing(ranks):
            yield ranks


@contextmanager
def _closing(ranks: Ranks) -> Iterator[None]:
    try:
        yield
    finally:
        ranks.close()


class Times:
    """Seconds of a step of each system, round by round, on the wall and of the processors; peak memory."""

    def __init__(self, case: Case, systems: dict[str, Ranks]) -> None:
        self._case = case
        self.wall_s: dict[str, list[float]] = {name: [] for name in systems}
        self.cpu_s: dict[str, list[float]] = {name: [] for name in systems}
        self.peak_mib: dict[str, float] = {}
        for index in range(case.rounds):
            # Every other round goes backwards, so that nobody always follows the same system.
            for name in list(systems)[:: 1 if index % 2 == 0 else -1]:
                wall_s, cpu_s = systems[name].steps(case.steps)
                self.wall_s[name].append(wall_s)
                self.cpu_s[name].append(cpu_s)
                self.peak_mib[name] = systems[name].peak_mib

    def over(self, a: str, b: str, bound: str) -> Ratio:
        """a / b of the wall clock; the bound is printed beside it, and the ratio of processor time."""
        cpu = statistics.median(x / y for x, y in zip(self.cpu_s[a], self.cpu_s[b], strict=True))
        note = f"{cpu:.3f} in processor time; {bound}"
        return ratio(self._case.name, a, b, self.wall_s[a], self.wall_s[b], note)

    def tell(self, note: str = "") -> None:
        """Medians, what the larger rank held at most, and the machine's load."""
        medians = ", ".join(
            f"{name} {statistics.median(seconds):.3f} s {self.peak_mib[name]:.0f} MiB"
            for name, seconds in self.wall_s.items()
        )
        told = f"# {self._case.name}: {medians}; load {os.getloadavg()[0]:.1f}"
        print(f"{told}; {note}" if note else told, flush=True)


def _loss(replies: list[dict[str, float]]) -> float:
    return statistics.fmean(reply["loss"] for reply in replies)


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"took {time.monotonic() - started:.0f} s")
