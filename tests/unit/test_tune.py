"""Tuning by replay: a truth that the planner does not know, noise, failures, budgets."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.planner.machine import Machine
from tgsbench.planner.plan import estimate, machine_of
from tgsbench.tune.belief import Measured, beliefs
from tgsbench.tune.candidates import Candidate, Space, space_of
from tgsbench.tune.halving import Outcome, Tuner

SHORT_S, LONG_S = 20.0, 50.0


def small_space(sets=("hardware.num_gpus=8",)) -> tuple[Space, Machine]:
    preset = presets.resolve("llama2_7b_32k", [*sets]).preset
    machine = machine_of(preset)
    return space_of(preset, machine), machine


def truth_of(space: Space, machine: Machine, seed: int) -> dict[str, float]:
    """TGS on a machine whose constants are others, with effects that no constant explains."""
    rng = random.Random(seed)
    off = {name: math.exp(rng.gauss(0, 0.15)) for name in ("gemm_share", "stream_share", "nvlink_share")}
    known = machine.constants
    other = replace(known, **{name: getattr(known, name) * factor for name, factor in off.items()})
    real = replace(machine, constants=other)
    effects: dict[str, float] = {}
    found = {}
    for candidate in space.candidates:
        log = math.log(estimate(candidate.preset, real).tgs) + rng.gauss(0, 0.01)
        for knob in candidate.change:
            log += effects.setdefault(knob, rng.gauss(0, 0.04))
        found[candidate.key] = math.exp(log)
    return found


def replay(
    space: Space, truth: dict[str, float], budget_s: float, seed: int = 0, noise: float = 0.01, failing=()
) -> Tuner:
    """A tune on stored figures: each run is off by noise, the shorter ones by twice as much."""
    rng, tuner, spent = random.Random(seed), Tuner(candidates=list(space.candidates)), 0.0
    while (trial := tuner.ask(spent / budget_s)) is not None:
        cost = SHORT_S if trial.rung == "short" else LONG_S
        if spent + cost > budget_s:
            break
        spent += cost
        off = math.exp(rng.gauss(0, noise * (2 if trial.rung == "short" else 1)))
        fields = {"key": trial.key, "rung": trial.rung, "repeat": trial.repeat, "seconds": cost}
        if trial.key in failing:
            tuner.tell(Outcome(**fields, status=failing[trial.key], reason="it failed"))
        else:
            tuner.tell(Outcome(**fields, status="ok", tgs=truth[trial.key] * off, spread=noise))
    return tuner


def test_candidates_are_planned_and_what_is_left_out_says_why():
    space, _ = small_space()
    assert space.num_planned > 500
    assert len(space.candidates) + sum(space.dropped.values()) == space.num_planned
    assert any("memory" in why for why in space.dropped)
    assert all(c.card_share <= 1.06 for c in space.candidates)
    planned = [c.forecast.estimate for c in space.candidates]
    assert planned == sorted(planned, reverse=True)
    only, _ = small_space()
    assert {c.knobs["engine.name"] for c in only.candidates} <= {"fsdp2", "deepspeed"}


def test_one_measurement_moves_the_forecasts_of_settings_that_share_its_knobs_most():
    space, _ = small_space()
    first = space.candidates[0]
    slower = math.log(first.forecast.estimate * 0.8)
    before, after = (
        beliefs(space.candidates, found) for found in ({}, {first.key: Measured(slower, 0.01)})
    )
    shifts = {c.key: after[c.key].mean - before[c.key].mean for c in space.candidates}
    assert shifts[first.key] == pytest.approx(math.log(0.8), abs=0.03)
    assert all(shift < 0 for shift in shifts.values())

    def shared(candidate: Candidate) -> int:
        return len(set(candidate.change) & set(first.change))

    near, far = max(space.candidates[1:], key=shared), min(space.candidates, key=shared)
    assert shifts[near.key] < shifts[far.key]
    assert after[near.key].sd < before[near.key].sd


def test_within_3_percent_of_the_best_at_a_quarter_of_the_cost_in_9_of_10_seeds():
    space, machine = small_space()
    budget_s = 0.25 * LONG_S * len(space.candidates)
    regrets, of_plan, of_chance = [], [], []
    for seed in range(10):
        truth = truth_of(space, machine, seed)
        most = max(truth.values())
        tuner = replay(space, truth, min(budget_s, 20 * LONG_S), seed)
        regrets.append(1 - truth[tuner.best.candidate.key] / most)
        of_plan.append(1 - truth[space.candidates[0].key] / most)
        tried = random.Random(seed).sample(sorted(truth), round(min(budget_s, 20 * LONG_S) / LONG_S))
        of_chance.append(1 - max(truth[key] for key in tried) / most)
    assert sum(regret <= 0.03 for regret in regrets) >= 9, regrets
    assert statistics.mean(regrets) < statistics.mean(of_plan)
    assert statistics.mean(regrets) < statistics.mean(of_chance)


@pytest.mark.parametrize("seed", range(4))
def test_what_failed_is_never_recommended_and_memory_teaches(seed):
    space, machine = small_space()
    truth = truth_of(space, machine, seed)
    rng = random.Random(seed)
    worst_memory = statistics.quantiles([c.memory_gib for c in space.candidates], n=4)[2]
    failing = {c.key: "oom" for c in space.candidates if c.memory_gib > worst_memory}
    failing |= {key: "failed" for key in rng.sample(sorted(truth), 20)}
    tuner = replay(space, truth, 20 * LONG_S, seed, failing=failing)
    assert tuner.best.candidate.key not in failing
    out = [o for o in tuner.outcomes if o.status == "oom"]
    assert len({o.key for o in out}) == len(out)
    leanest = min((c.memory_gib for c in space.candidates if c.key in {o.key for o in out}), default=math.inf)
    ruled_out = [why for why in tuner.failures().values() if "ran out of it" in why]
    assert not out or leanest == math.inf or ruled_out


def test_more_budget_never_ends_worse_without_noise():
    space, machine = small_space()
    for seed in range(3):
        truth = truth_of(space, machine, seed)
        ends = [truth[replay(space, truth, n * LONG_S, noise=0.0).best.candidate.key] for n in (2, 5, 10, 20)]
        assert ends == sorted(ends)


def test_the_same_outcomes_ask_the_same_trials():
    space, machine = small_space()
    truth = truth_of(space, machine, 1)
    whole = replay(space, truth, 12 * LONG_S)
    again, spent = Tuner(candidates=list(space.candidates)), 0.0
    for outcome in whole.outcomes:
        trial = again.ask(spent / (12 * LONG_S))
        assert (trial.key, trial.rung, trial.repeat) == (outcome.key, outcome.rung, outcome.repeat)
        again.tell(outcome)
        spent += outcome.seconds
    assert again.best == whole.best


def test_a_disturbed_trial_is_made_again_and_counts_nothing():
    space, _ = small_space()
    tuner = Tuner(candidates=list(space.candidates))
    first = tuner.ask()
    tuner.tell(Outcome(key=first.key, rung=first.rung, status="disturbed", tgs=1.0))
    again = tuner.ask()
    assert (again.key, again.repeat) == (first.key, 1)
    assert tuner.measured() == {}
    for repeat in (1, 2):
        tuner.tell(Outcome(key=first.key, rung=first.rung, repeat=repeat, status="disturbed"))
    assert tuner.ask().key != first.key
