"""How near `tgsbench tune` comes to the best setting, at what cost: replayed, so nothing is run.

    python -m benchmarks.tune_replay                              # on truths that the planner does not know
    python -m benchmarks.tune_replay --measure FILE --preset P    # measure every candidate once, resumable
    python -m benchmarks.tune_replay --table FILE --preset P      # replay on those measurements

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
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from tgsbench import api
from tgsbench.launch import sweep
from tgsbench.planner.machine import Machine
from tgsbench.planner.plan import estimate
from tgsbench.tune.candidates import Space, space_of
from tgsbench.tune.halving import Status, TrialOutcome, Tuner
from tgsbench.tune.trials import runnable

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


def table(space: Space, truths: list[dict[str, float]]) -> None:
    """One line a budget: what each way of choosing misses."""
    exhaustive_s = LONG_S * len(space.candidates)
    print(f"{len(space.candidates)} settings, {len(truths)} seeds; share of the best TGS that is missed")
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


def measure(space: Space, path: Path, root: Path) -> None:
    """Run every candidate that this machine can start once, and write its TGS; goes on where it was."""
    known = read_table(path) if path.exists() else {}
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if not known:
            writer.writerow(["key", "tgs", "status"])
        for candidate in runnable(space).candidates:
            if candidate.key in known:
                continue
            result, name = sweep.stored(root, "tune-table", sweep.digest_of(candidate.preset))
            result = result or sweep.run_named(candidate.preset, root, name, "tune-table", print)
            writer.writerow([candidate.key, result.tgs.median or "", result.status])
            file.flush()


def read_table(path: Path) -> dict[str, float]:
    """TGS by candidate; what failed has 0."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row["key"]: float(row["tgs"] or 0) for row in csv.DictReader(file)}


def main() -> None:
    """Print the table, or measure one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", default="llama2_7b_32k")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="hold a value fast")
    parser.add_argument("--engines", default="")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs"))
    args = parser.parse_args()
    preset = api.load_preset(args.preset, args.sets)
    machine = api.planned_machine(preset)
    fixed = [text.partition("=")[0] for text in args.sets]
    space = space_of(preset, machine, [name for name in args.engines.split(",") if name], fixed)
    if args.measure:
        measure(space, args.measure, args.output)
    elif args.table:
        truth = {key: tgs for key, tgs in read_table(args.table).items() if tgs}
        kept = [candidate for candidate in space.candidates if candidate.key in truth]
        table(replace(space, candidates=kept), [truth] * SEEDS)
    else:
        table(space, [truth_of(space, machine, seed) for seed in range(SEEDS)])


if __name__ == "__main__":
    sys.exit(main())
