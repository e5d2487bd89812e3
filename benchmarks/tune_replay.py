"""How near `tgsbench tune` comes to the best setting, at what cost: replayed, so nothing is run.

    python -m benchmarks.tune_replay                            # on what benchmarks/tune_table.py measured
    python -m benchmarks.tune_replay --preset llama2_7b_32k     # on truths that the planner does not know

A made-up truth is the planner's own formulas with other constants (15 % off each), an effect of 4 % of every
knob that no constant explains, and 1 % of each setting's own. Each replayed run is off by noise.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from benchmarks.tune_table import FAMILY
from tgsbench import api
from tgsbench.planner.machine import Machine
from tgsbench.planner.plan import estimate
from tgsbench.tune.candidates import Space, TunedSetting, setting_of, space_of
from tgsbench.tune.halving import Status, TrialOutcome, Tuner

TABLE = Path(__file__).with_name("data") / "tune_cpu_ranks.csv"

SHORT_S, LONG_S = 20.0, 50.0
"""What a short and a long run cost in a replay."""
SEEDS = 10


def truth_of(space: Space, machine: Machine, seed: int) -> dict[str, float]:
    """TGS on a machine whose constants are others, with effects that no constant explains."""
    rng, known = random.Random(seed), machine.fitted
    off = {name: math.exp(rng.gauss(0, 0.15)) for name in ("gemm_share", "stream_share", "nvlink_share")}
    other = replace(known, **{name: getattr(known, name) * factor for name, factor in off.items()})
    real, effects, found = replace(machine, constants=other), dict[str, float](), dict[str, float]()
    for candidate in space.candidates:
        planned = estimate(candidate.preset, real).tgs
        assert planned is not None
        log = math.log(planned) + rng.gauss(0, 0.01)
        log += sum(effects.setdefault(knob, rng.gauss(0, 0.04)) for knob in candidate.change)
        found[candidate.key] = math.exp(log)
    return found


def replay(
    space: Space,
    truth: Mapping[str, float],
    budget_s: float,
    seed: int = 0,
    noise: float = 0.01,
    failing: Mapping[str, Status] | None = None,
) -> Tuner:
    """A tune on stored figures: each long run is off by noise, each short one by twice as much."""
    rng, tuner, spent = random.Random(seed), Tuner(candidates=list(space.candidates)), 0.0
    while (trial := tuner.ask(spent / budget_s)) is not None:
        cost = SHORT_S if trial.rung == "short" else LONG_S
        if spent + cost > budget_s:
            break
        spent += cost
        off = math.exp(rng.gauss(0, noise * (2 if trial.rung == "short" else 1)))
        status = (failing or {}).get(trial.key, "ok")
        tuner.tell(
            TrialOutcome(
                key=trial.key,
                rung=trial.rung,
                repeat=trial.repeat,
                seconds=cost,
                status=status,
                tgs=truth[trial.key] * off if status == "ok" else None,
                spread=noise,
                reason="" if status == "ok" else "it failed",
            )
        )
    return tuner


def judge(space: Space, truth: Mapping[str, float], budget_s: float, seed: int) -> tuple[float, ...]:
    """Shares of the best TGS that are missed by tune, the planner's first choice and a random search."""
    most, key = max(truth.values()), space.candidates[0].key
    tuner = replay(space, truth, budget_s, seed)
    chosen = truth[tuner.best.candidate.key] if tuner.best else 0.0
    tried = random.Random(seed).sample(sorted(truth), min(len(truth), max(1, round(budget_s / LONG_S))))
    return tuple(1 - figure / most for figure in (chosen, truth[key], max(truth[k] for k in tried)))


def table(space: Space, truths: Sequence[Mapping[str, float]], name: str = "") -> None:
    """One line a budget: what each way of choosing misses."""
    exhaustive_s = LONG_S * len(space.candidates)
    print(
        f"{name}{len(space.candidates)} settings, {len(truths)} seeds; share of the best TGS that is missed"
    )
    heads = f"{'tune':>16} {'within 3 %':>10} {'plan first':>10} {'random':>8}"
    print(f"  {'long runs':>9} {'of all':>7}  {heads}")
    for runs in (4, 8, 12, 20, 40):
        if runs > len(space.candidates):
            break
        found = [judge(space, truth, runs * LONG_S, seed) for seed, truth in enumerate(truths)]
        tuned, planned, chance = zip(*found, strict=True)
        print(
            f"  {runs:>9} {runs * LONG_S / exhaustive_s:7.1%}  {statistics.mean(tuned):7.2%} "
            f"(<={max(tuned):5.2%}) {sum(x <= 0.03 for x in tuned):>6} of {len(tuned)}"
            f" {statistics.mean(planned):10.2%} {statistics.mean(chance):8.2%}"
        )


def measured_families(path: Path = TABLE) -> dict[str, tuple[Space, dict[str, float]]]:
    """Of each family in a table of benchmarks/tune_table.py its settings as tune knows them, and their TGS.

    TGS: tokens over the median processor seconds of a rank's steps, the best of the passes. What failed, or
    was not measured, is no candidate.
    """
    found: dict[str, dict[str, float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            truth = found.setdefault(row["family"], {})
            if row["status"] == "ok":
                tgs = int(row["tokens"]) / statistics.median(map(float, row["cpu_s"].split()))
                truth[row["change"]] = max(tgs, truth.get(row["change"], 0.0))
    return {family: (_space(family, truth), truth) for family, truth in found.items()}


def _space(family: str, truth: Mapping[str, float]) -> Space:
    candidates = []
    for change in truth:
        preset = api.load_preset("tiny_cpu", [*FAMILY[family], *change.split()])
        setting = setting_of(preset, api.planned_machine(preset))
        assert isinstance(setting, TunedSetting), setting
        assert setting.key == change
        candidates.append(setting)
    candidates.sort(key=lambda setting: -setting.counted_log)
    return Space(candidates=candidates, dropped={}, num_planned=len(candidates))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", help="made-up truths of this preset; without it, what was measured")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="hold a value fast")
    parser.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args()
    if not args.preset:
        for family, (space, truth) in measured_families(args.table).items():
            table(space, [truth] * SEEDS, f"{family}: ")
        return
    preset = api.load_preset(args.preset, args.sets)
    machine = api.planned_machine(preset)
    space = space_of(preset, machine, fixed=[text.partition("=")[0] for text in args.sets])
    table(space, [truth_of(space, machine, seed) for seed in range(SEEDS)])


if __name__ == "__main__":
    sys.exit(main())
