"""The longest sequence of a tune: asked for within its budget, gone on with, told when it is interrupted."""

from __future__ import annotations

import json
from functools import partial

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.stored import store_run
from tests.unit.test_tune import tiny_space
from tgsbench import api
from tgsbench.cli.tune import tune
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch.preflight import LocalMachine
from tgsbench.presets import resolve
from tgsbench.results.results import load_result
from tgsbench.tune import campaign, state, trials
from tgsbench.tune.halving import RUNS, TrialOutcome
from tgsbench.tune.journal import Asked, Journal
from tgsbench.tune.longest import PlannedLength, length_of
from tgsbench.tune.text import verdict_lines
from tgsbench.tune.trials import make_trials

ASKED = Asked(base="tiny_cpu", assignments=["workload.seq_len=1024"], objective="longest")
START_S = 5.0


def planned(own=1024, step_s=None, longest=1 << 20):
    preset = resolve("tiny_cpu").preset
    at = replace(preset, workload=replace(preset.workload, seq_len=longest))
    return PlannedLength(preset=at, own=own, step_s=step_s)


class Machine:
    """Runs on a clock that they alone advance: a step takes as the square of its length, memory ends."""

    def __init__(self, root, longest=1 << 30, killed_at=0, step_s=0.1, end=KeyboardInterrupt):
        self.root, self.longest, self.killed_at, self.step_s = root, longest, killed_at, step_s
        self.now_s, self.started, self.names, self.end = 0.0, [], [], end

    def monotonic(self):
        return self.now_s

    def __call__(self, preset, root, name, tag, say, **how):
        length = preset.workload.seq_len
        if len(self.started) + 1 == self.killed_at and self.end is not KilledAfterStoring:
            raise self.end
        self.names.append(name)
        self.started.append((length, preset.measure.warmup + preset.measure.steps))
        step_s = self.step_s * (length / 1024) ** 2
        self.now_s += START_S + (preset.measure.warmup + preset.measure.steps) * step_s
        tgs = preset.tokens_per_step / preset.world_size / step_s
        held = length <= self.longest
        samples = [tgs] * preset.measure.steps if held else []
        run = store_run(root, name, preset, device="cpu", samples=samples, status="ok" if held else "oom")
        if len(self.started) == self.killed_at:
            raise self.end
        return load_result(run)


class Killed(BaseException):
    """The process is gone before its run is stored: nothing that the tune catches."""


class KilledAfterStoring(BaseException):
    """It is gone after that, before its journal knows."""


@pytest.fixture
def clock(monkeypatch):
    """Trials' seconds are those of this machine."""

    def of(machine):
        monkeypatch.setattr(trials, "time", machine)
        return machine

    return of


def longest(machine, budget_s, said=None, plan=None):
    made = campaign.Campaign(
        root=machine.root, name="t", budget_s=budget_s, say=(said or []).append, run=machine
    )
    return campaign.measure_longest(made, planned(), plan or _plan, ASKED)


def _plan(asked):
    length = int(asked.assignments[-1].partition("=")[2])
    space = tiny_space()
    at = [replace(c, preset=resolve("tiny_cpu", [*c.change, f"workload.seq_len={length}"]).preset)
          for c in space.candidates]  # fmt: skip
    return replace(space, candidates=at), RUNS


def test_memory_bounds_it_and_settings_at_that_length_are_compared(tmp_path, clock):
    machine, said = clock(Machine(tmp_path, longest=5000, step_s=0.01)), []
    answer = longest(machine, 1e4, said)
    seen = answer.verdict.longest
    assert (seen.seq_len, seen.too_long, seen.why) == (4096, 5120, "5k: out of memory")
    assert answer.asked.assignments == ["workload.seq_len=4096"]
    assert answer.verdict.best.rests_on == "measured"
    tried = [length for length, _ in machine.started]
    assert tried[:5] == [1024, 2048, 4096, 8192, 6144] and set(tried[6:]) == {4096}
    assert answer.verdict.num_trials == len(machine.started)
    assert "longest sequence: 4,096 tokens, trained with" in "\n".join(verdict_lines(answer.verdict))
    last = state.read_state(tmp_path, "t")
    assert last.is_over and last.asked == answer.asked and last.verdict == answer.verdict
    assert [outcome.rung for outcome in last.outcomes][:6] == ["length"] * 6


@settings(max_examples=25, deadline=None)
@given(budget_s=st.floats(20.0, 2000.0), step_s=st.floats(0.001, 3.0), limit=st.integers(1024, 1 << 18))
def test_the_search_takes_half_of_the_budget_at_most_and_leaves_time_for_two_settings(
    tmp_path_factory, budget_s, step_s, limit
):
    """The first run alone is made whatever it takes: nothing is known before."""
    root, patched = tmp_path_factory.mktemp("runs"), pytest.MonkeyPatch()
    machine = Machine(root, longest=limit, step_s=step_s)
    patched.setattr(trials, "time", machine)
    search, journal = planned().search(budget_s), Journal(root, "t")
    journal.open(ASKED)
    try:
        make_trials(search, journal, root, "t", budget_s, str, machine)
    finally:
        patched.undo()
    seen = search.seen
    if len(search.outcomes) > 1:
        last_length = length_of(search.outcomes[-1].key)
        setting_s = START_S + 4 * step_s * (last_length / 1024) ** 2
        assert machine.now_s <= budget_s / 2 + 1e-6
        assert budget_s - machine.now_s >= 2 * setting_s - 1e-6
    assert seen.seq_len is None or seen.seq_len <= limit
    again = planned().search(budget_s, search.outcomes)
    assert again.ask() is None and again.seen == seen


@pytest.mark.parametrize("killed_at", [2, 4, 7])
def test_an_interrupted_search_tells_the_longest_so_far_and_makes_no_run_twice(tmp_path, clock, killed_at):
    whole = longest(clock(Machine(tmp_path / "whole", longest=5000)), 1e4)
    machine = clock(Machine(tmp_path / "cut", longest=5000, killed_at=killed_at))
    answer = longest(machine, 1e4)
    so_far = max((length for length, _ in machine.started if length <= 5000))
    assert answer.is_interrupted and answer.verdict.longest.seq_len == so_far
    assert answer.asked.assignments == [f"workload.seq_len={so_far}"]
    assert f"{so_far:,} tokens, trained" in "\n".join(verdict_lines(answer.verdict))
    assert answer.verdict.chosen.change == answer.verdict.longest.change
    assert state.read_state(tmp_path / "cut", "t").is_over
    later = clock(Machine(tmp_path / "cut", longest=5000))
    end = longest(later, 1e4)
    assert [o.key for o in Journal(tmp_path / "cut", "t").open(ASKED)] == [
        o.key for o in Journal(tmp_path / "whole", "t").open(ASKED)
    ]
    assert len(machine.started) + len(later.started) == whole.verdict.num_trials
    assert (end.verdict.longest, end.asked) == (whole.verdict.longest, whole.asked)


@pytest.mark.parametrize("end", [Killed, KilledAfterStoring])
def test_a_tune_that_is_killed_in_any_stage_goes_on_and_measures_nothing_twice(tmp_path, clock, end):
    whole = longest(clock(Machine(tmp_path / "whole", longest=5000, step_s=0.01)), 1e4)
    rungs = [outcome.rung for outcome in state.read_state(tmp_path / "whole", "t").outcomes]
    firsts = {rung: rungs.index(rung) + 1 for rung in rungs}
    assert set(firsts) == {"length", "short", "long"}
    for at in sorted({*firsts.values(), len(rungs)}):
        root = tmp_path / str(at)
        first = clock(Machine(root, longest=5000, step_s=0.01, killed_at=at, end=end))
        with pytest.raises(end):
            longest(first, 1e4)
        later = clock(Machine(root, longest=5000, step_s=0.01))
        answer = longest(later, 1e4)
        made = first.names + later.names
        assert len(made) == len(set(made)) == len(rungs), (at, rungs[at - 1])
        assert answer.verdict.longest == whole.verdict.longest
        assert answer.verdict.best.change == whole.verdict.best.change


def test_a_budget_that_is_spent_on_the_first_length_still_says_what_trained(tmp_path, clock):
    answer = longest(clock(Machine(tmp_path, step_s=30.0)), 60.0)
    assert answer.verdict.longest.seq_len == 1024 and answer.verdict.best is None
    assert "2k would leave too little of the budget" in answer.verdict.longest.why
    assert answer.verdict.chosen.change == answer.verdict.longest.change
    text = "\n".join(verdict_lines(answer.verdict))
    assert "1,024 tokens, trained with" in text and "no setting was measured at that length" in text


def test_no_length_that_trains_is_an_error_and_the_state_says_so(tmp_path, clock):
    with pytest.raises(TgsError, match="no length trains: 1k: out of memory") as raised:
        longest(clock(Machine(tmp_path, longest=0)), 100.0)
    assert raised.value.exit_code == ExitCode.DOES_NOT_FIT
    assert "no length trains" in state.read_state(tmp_path, "t").verdict.ended


def test_a_crash_is_not_taken_for_too_long_and_what_trained_before_counts():
    trained = TrialOutcome(key="workload.seq_len=1024", rung="length", status="ok", tgs=1e3, seconds=5.0)
    crashed = replace(trained, key="workload.seq_len=2048", status="failed", reason="rank 1 was killed")
    search = planned().search(1e4, [trained, crashed])
    assert search.ask() is None
    assert (search.seen.seq_len, search.seen.why) == (1024, "2k: rank 1 was killed")


def test_where_speed_is_planned_it_begins_where_a_run_is_planned_to_end_in_time():
    far = planned(step_s=900.0)
    assert far.search(7200.0).preset.workload.seq_len == 1 << 20
    assert far.search(900.0).preset.workload.seq_len == (1 << 20) // 2
    assert planned().search(900.0).preset.workload.seq_len == 1024


def test_only_what_is_asked_for_is_tried_at_lengths():
    sets = ["training.micro_batch=2", "training.checkpointing=none"]
    asked = Asked(base="tiny_cpu", assignments=sets, engines=["deepspeed"], objective="longest")
    change = api.longest_planned(asked).seen.change
    assert {"engine.name=deepspeed", *sets} <= set(change)
    assert not any("offload" in text for text in change)


@pytest.mark.parametrize("key", ["workload.seq_len=x", "workload.seq_len=-1", "engine.name=fsdp2", ""])
def test_a_journal_with_a_length_that_is_none_is_refused(tmp_path, key):
    journal = Journal(tmp_path, "t")
    journal.open(ASKED)
    journal.add(TrialOutcome(key=key, rung="length", status="ok", tgs=1.0))
    with pytest.raises(TgsError, match="a length's is workload"):
        journal.known(ASKED)


def test_the_command_looks_for_the_length_within_the_budget_and_names_it(tmp_path, monkeypatch, clock):
    monkeypatch.setattr("tgsbench.launch.preflight.this_machine", lambda: LocalMachine([], 2, 16 << 30))
    machine = clock(Machine(tmp_path, longest=5000, step_s=0.01))
    monkeypatch.setattr("tgsbench.cli.tune.Campaign", partial(campaign.Campaign, run=machine))
    words = ["--preset=tiny_cpu", "--objective=longest", "--engines=fsdp2", "--budget=10m", "--json"]
    done = CliRunner().invoke(tune, [*words, f"--output={tmp_path}"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["longest"]["seq_len"], found["longest"]["is_measured"]) == (4096, True)
    assert "--set workload.seq_len=4096" in found["command"] and found["best"]["runs"]
    assert found["spent_s"] == pytest.approx(machine.now_s)


def test_long_sequences_are_planned_in_chunks_unless_they_are_to_stay_whole():
    sets = ["hardware.gpu=A100-SXM4-40GB"]
    asked = Asked(base="llama3_8b_512k", assignments=sets, objective="longest")
    in_chunks = api.longest_planned(asked)
    whole = api.longest_planned(replace(asked, assignments=[*sets, "engine.sequence_chunks=1"]))
    assert in_chunks.preset.engine.sequence_chunks > 1 == whole.preset.engine.sequence_chunks
    assert in_chunks.preset.workload.seq_len > whole.preset.workload.seq_len
