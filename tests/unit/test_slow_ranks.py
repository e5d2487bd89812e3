"""A slow rank is named by how little it waits, in simulated runs of 2 to 1,024 ranks; no healthy one is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributed.distributed_c10d import Work
from torch.distributed.fsdp._fully_shard._fsdp_collectives import (
    AllGatherResult,
    foreach_all_gather_copy_out,
)

from tgsbench.live.fold import LiveRun
from tgsbench.live.heatmap import OWN_TIME, heatmap, rows_of
from tgsbench.live.stragglers import suspects
from tgsbench.metrics.observe import RunTotals
from tgsbench.metrics.result import _slow_rank
from tgsbench.metrics.slow_ranks import WINDOW, WaitTable, table_of
from tgsbench.report.summary import _slow_rank as slow_rank_line
from tgsbench.schema.events import Hello, Step, Waits
from tgsbench.training.parallel.waits import CollectiveClock

PARTS = ("data", "forward", "backward", "optimizer")


def simulated(
    world: int, sp: int = 1, num_steps: int = 12, slow: int | None = None, delay_s: float = 0.0,
    where: str = "forward", since: int = 0, seed: int = 0, jitter: float = 0.02, accumulation: int = 2,
) -> list[Waits]:  # fmt: skip
    """Ranks with noisy clocks that meet in the all-to-alls of their sp group and in FSDP's calls.

    A step is data, forward, backward for each micro-step, and the optimizer; about 1 s in all.
    """
    noise = np.random.default_rng(seed)
    clock, found = np.zeros(world), []
    for step in range(num_steps):
        began, waits = (
            clock.copy(),
            {"sp": np.zeros(world), "fsdp": np.zeros(world), "world": np.zeros(world)},
        )

        def work(seconds: float, part: str, clock: np.ndarray = clock, step: int = step) -> None:
            clock += seconds * noise.normal(1.0, jitter, world).clip(0.5)
            if slow is not None and step >= since and part == where:
                clock[slow] += delay_s / (1 if part == "optimizer" else accumulation)

        def meet(group: str, waits: dict[str, np.ndarray] = waits, clock: np.ndarray = clock) -> None:
            size = sp if group == "sp" else world
            over = np.repeat(clock.reshape(-1, size).max(axis=1), size) + 0.002
            waits[group] += over - clock
            clock[:] = over

        for _ in range(accumulation):
            work(0.01, "data")
            meet("fsdp")
            work(0.15, "forward")
            meet("sp")
            work(0.3, "backward")
            meet("fsdp")
        work(0.05, "optimizer")
        meet("world")
        for rank in range(world):
            each = {group: float(seconds[rank]) for group, seconds in waits.items()}
            found.append(Waits(rank=rank, step=step, step_s=float(clock[rank] - began[rank]), wait_s=each))
    return found


@pytest.mark.parametrize("where", PARTS)
@pytest.mark.parametrize(("world", "sp"), [(2, 2), (4, 2), (64, 8), (1024, 16)])
def test_a_slow_rank_is_named_within_five_steps_with_what_it_costs(world, sp, where):
    rank, since = world // 2 + 1 if world > 2 else 1, 6
    events = simulated(world, sp, slow=rank, delay_s=0.25, where=where, since=since, num_steps=since + WINDOW)
    assert table_of([e for e in events if e.step < since], world).slow is None
    found = table_of(events, world).slow
    assert found is not None
    assert found.rank == rank
    assert found.delay_s == pytest.approx(0.25, rel=0.15)


def test_no_rank_is_named_in_healthy_runs():
    alarms = 0
    for seed in range(200):
        world = (2, 4, 8, 64)[seed % 4]
        events = simulated(world, 2, num_steps=40, seed=seed, jitter=0.03, accumulation=1)
        alarms += table_of(events, world).worst() is not None
    assert alarms <= 1


def test_a_rank_that_is_late_now_and_then_is_not_named():
    events = simulated(4, 2, num_steps=20)
    for event in events:
        if event.rank == 3 and event.step % 4 == 0:
            event.wait_s = dict.fromkeys(event.wait_s, 0.0)
    assert table_of(events, 4).worst() is None


def test_what_it_cost_the_run_is_counted_from_the_first_slow_step():
    events = simulated(4, 2, num_steps=20, slow=2, delay_s=0.3, since=10)
    rank, lost_s, share = table_of(events, 4).worst()
    assert rank == 2
    assert lost_s == pytest.approx(10 * 0.3, rel=0.15)
    assert share == pytest.approx(3.0 / (10 * 1.0 + 10 * 1.3), rel=0.15)


def test_ranks_may_be_read_one_after_the_other():
    events = sorted(simulated(4, 2, slow=1, delay_s=0.3), key=lambda event: event.rank)
    assert table_of(events, 4).slow.rank == 1


class _Unscanned(dict):
    """Rows that may be thousands, of which no row's end looks at all."""

    def __iter__(self):
        raise AssertionError("all open rows were looked at")


def test_a_rank_that_is_read_far_ahead_costs_a_row_no_more():
    table, num_steps = WaitTable(2), 100
    table._open = _Unscanned()
    for rank in range(2):
        for step in range(num_steps):
            table.add(Waits(rank=rank, step=step, step_s=1.0, wait_s={"sp": 0.1}))
    assert (table.num_rows, len(table._open)) == (num_steps, 0)


def test_rows_end_alike_in_whatever_order_steps_come():
    order = [5, 3, 9, 1, 7]
    table = WaitTable(2)
    for step in order:
        table.add(Waits(rank=0, step=step, step_s=1.0, wait_s={}))
    ended = [row.step for step in (3, 1, 9) for row in table.add(Waits(rank=1, step=step, step_s=1.0))]
    assert ended == [3, 9], "step 1 was given up with step 3, and is begun anew"
    assert not table._open.keys() & {5, 7}


def test_damaged_reports_do_no_harm():
    events = simulated(4, 2, slow=1, delay_s=0.3)
    odd = [Waits(rank=9, step=1), Waits(rank=-1, step=1), Waits(rank=0, step=-5), Waits(rank=1, step=3)]
    assert table_of([*events, *odd], 4).slow.rank == 1


def test_the_live_view_names_it_and_its_host_and_the_heatmap_shows_it():
    live = LiveRun(4)
    live.add_events([Hello(rank=rank, world=4, host=f"node{rank // 2}", device="cpu") for rank in range(4)])
    events = simulated(4, 2, slow=3, delay_s=0.3)
    live.add_events(events)
    live.add_events([Step(rank=e.rank, step=e.step, step_s=e.step_s, tokens=1, labels=1) for e in events])
    (named,) = suspects(live, 0.0, 1.0)
    assert (named.rank, named.host) == (3, "node1")
    assert "holds the others up: they wait" in named.why
    shown = heatmap(rows_of(live, OWN_TIME), 4, OWN_TIME, 80, 20)
    assert [cell.level for cell in shown.rows[-1].cells] == [0, 0, 0, 4]
    times = heatmap(rows_of(live, "step time"), 4, "step time", 80, 20)
    assert {cell.level for cell in times.rows[-1].cells} == {0}


def test_the_result_names_it_with_its_host_and_its_share():
    observed = RunTotals(4)
    for event in [Hello(rank=2, world=4, host="node7", device="cpu"), *simulated(4, 2, slow=2, delay_s=0.3)]:
        observed.add(event)
    slow = _slow_rank(observed, 4)
    assert (slow.rank, slow.host) == (2, "node7")
    assert 0.15 < slow.share < 0.35
    assert slow_rank_line(SimpleNamespace(slow_rank=slow)).startswith("rank 2 (node7) held the others up: 3.")


def test_a_step_that_one_rank_never_reported_is_given_up():
    events = [e for e in simulated(4, 2, num_steps=200, slow=1, delay_s=0.3) if e.step % 7 or e.rank != 2]
    table = WaitTable(4)
    for event in events:
        table.add(event)
    assert table.slow.rank == 1
    assert len(table._open) <= 1


def test_of_short_steps_one_in_four_is_reported_in_the_end():
    clock = CollectiveClock()
    clock.install(torch.device("cpu"), {}, patch=False)

    def reported(step_s):
        found = []
        for index in range(100):
            clock.begin_step(index)
            found += [index] if clock.end_step(index, step_s) is not None else []
        return found

    assert reported(0.01) == [*range(64), *range(64, 100, 4)]
    assert reported(1.0) == list(range(100))


def test_a_timed_handle_is_one_that_fsdp_waits_for():
    class Handle(Work):
        waited = 0

        def wait(self, *args):
            self.waited += 1
            return True

    clock, handle = CollectiveClock(), Handle()
    clock.install(torch.device("cpu"), {}, patch=False)
    clock.begin_step(0)
    result = AllGatherResult(torch.empty(0), None, clock._watched(handle, "fsdp"), [], [], [])
    _wait_for_all_gather(result)
    assert handle.waited == 1
    assert clock.end_step(0, 1.0).wait_s.keys() == {"fsdp"}


def _wait_for_all_gather(result):
    """As FSDP does it before it copies the parameters out, which here are none."""
    group = SimpleNamespace(size=lambda: 1)
    foreach_all_gather_copy_out(result, [], group)
