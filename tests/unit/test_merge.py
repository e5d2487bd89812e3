"""Many ranks in one live view: who straggles or is silent is named with its host in three of its steps."""

from __future__ import annotations

import msgspec
import pytest

from tgsbench.events.tail import poll_period_s
from tgsbench.live.fold import LiveRun
from tgsbench.live.follow import FollowFeed, poll
from tgsbench.live.stragglers import silence_limit_s, suspects
from tgsbench.schema.events import Bye, Gpu, Heartbeat, Hello, Step

_ENCODE = msgspec.json.Encoder().encode
STEP_S = 1.0


class Site:
    """Writes the ranks' files as simulated time goes by, and looks at them as a reader would."""

    def __init__(self, folder, world: int) -> None:
        self.folder, self.world, self.seq = folder, world, [0] * world
        self.live, self.feed = LiveRun(world), FollowFeed(folder)
        for rank in range(world):
            self.write(rank, Hello(world=world, host=f"host{rank // 8}", device="simulated"))

    def write(self, rank: int, *events) -> None:
        for event in events:
            event.rank, event.seq = rank, self.seq[rank]
            self.seq[rank] += 1
        with (self.folder / f"rank{rank:05d}.jsonl").open("ab") as file:
            file.write(b"".join(_ENCODE(event) + b"\n" for event in events))

    def look(self, now_s: float):
        poll(self.feed, self.live, now_s=now_s)
        return self.suspects(now_s)

    def suspects(self, now_s: float):
        return suspects(self.live, now_s, heartbeat_s=2.0)


def named_after(site: Site, next_event_s, onset_s: float, until_s: float = 60.0):
    """Seconds from the onset until somebody is suspected, looking once a second; and who."""
    due = [STEP_S] * site.world
    steps = [0] * site.world
    now_s = 0.0
    while now_s < until_s:
        now_s += poll_period_s(site.world)
        for rank in range(site.world):
            while due[rank] <= now_s:
                step_s = next_event_s(rank, due[rank])
                if step_s is None:
                    due[rank] = until_s * 2
                    break
                site.write(rank, Step(step=steps[rank], step_s=step_s, tokens=1, labels=1))
                steps[rank] += 1
                due[rank] += next_event_s(rank, due[rank]) or until_s * 2
        if found := site.look(now_s):
            return now_s - onset_s, found
    return None, []


@pytest.mark.parametrize("world", [64, 1024])
@pytest.mark.parametrize("slow_s", [1.6, 3.0])
def test_a_straggler_is_named_with_its_host_within_three_of_its_step_times(tmp_path, world, slow_s):
    odd, onset_s = world - 5, 10.0
    site = Site(tmp_path, world)

    def step_s(rank: int, at_s: float):
        return slow_s if rank == odd and at_s >= onset_s else STEP_S

    delay_s, found = named_after(site, step_s, onset_s)
    assert [(s.rank, s.host) for s in found] == [(odd, f"host{odd // 8}")]
    assert delay_s <= 3 * slow_s


@pytest.mark.parametrize("world", [64, 1024])
def test_a_silent_rank_is_named_with_its_host_within_three_of_its_step_times(tmp_path, world):
    odd, onset_s = 11, 10.0
    site = Site(tmp_path, world)
    delay_s, found = named_after(site, lambda r, t: None if r == odd and t >= onset_s else STEP_S, onset_s)
    assert [(s.rank, s.host) for s in found] == [(odd, "host1")]
    assert delay_s <= 3 * STEP_S
    assert "behind" in str(found[0])


def test_a_rank_that_dies_while_the_others_wait_for_it_is_named_by_its_missing_heartbeats(tmp_path):
    """In synchronous training nobody steps on without it; only the heartbeats tell who is gone."""
    site = Site(tmp_path, 8)
    for step in range(4):
        for rank in range(8):
            site.write(rank, Step(step=step, step_s=4.0, tokens=1, labels=1))
        site.look(4.0 * step)
    last_s = 12.0
    for tick in range(1, 13):
        now_s = last_s + tick
        for rank in range(8):
            if rank != 5 and tick % 2 == 0:
                site.write(rank, Heartbeat(step=4))
        if found := site.look(now_s):
            break
    assert [(s.rank, s.host) for s in found] == [(5, "host0")]
    assert now_s - last_s <= 3 * 4.0


def test_even_ranks_and_finished_ones_are_not_suspected(tmp_path):
    site = Site(tmp_path, 8)
    for step in range(20):
        for rank in range(8):
            site.write(
                rank, Step(step=step, step_s=1.0 + 0.08 * ((rank + step) % 3 == 0), tokens=1, labels=1)
            )
        assert site.look(float(step)) == []
    site.write(3, Bye())
    assert site.look(1000.0) == []


def test_a_gpu_with_a_slow_clock_is_named_though_every_rank_takes_as_long(tmp_path):
    site = Site(tmp_path, 4)
    for rank in range(4):
        site.write(rank, Step(step=0, step_s=1.0), Gpu(util=99, sm_mhz=900 if rank == 2 else 1410))
    (found,) = site.look(1.0)
    assert str(found) == "rank 2 (host0) runs its GPU at 64% of the median clock"


def test_a_straggler_is_found_in_a_run_so_long_that_its_history_is_merged(tmp_path):
    site = Site(tmp_path, 4)
    for rank in range(4):
        site.write(
            rank, *(Step(step=step, step_s=1.0 + 0.6 * (rank == 1 and step >= 3998)) for step in range(4000))
        )
    while poll(site.feed, site.live, now_s=0.0):
        pass
    assert site.live.grid.stride > 1
    assert [s.rank for s in site.suspects(0.0)] == [1]


@pytest.mark.parametrize(
    ("heartbeat_s", "step_s", "limit_s"),
    [(2.0, float("nan"), 6.0), (2.0, 0.05, 3.0), (2.0, 2.5, 5.0), (2.0, 100.0, 6.0), (0.1, 0.05, 1.5)],
)
def test_patience_is_two_steps_within_one_and_a_half_to_three_heartbeats(heartbeat_s, step_s, limit_s):
    assert silence_limit_s(heartbeat_s, step_s) == limit_s


def test_more_ranks_are_looked_at_less_often_but_once_a_second():
    assert [poll_period_s(world) for world in (2, 64, 320, 1024, 100_000)] == [0.1, 0.1, 0.5, 1.0, 1.0]


def test_ranks_whose_files_hold_fewer_steps_a_byte_lose_no_step(tmp_path):
    """Rank 0 also writes samples: read by bytes alone, 3,000 of its steps lie behind the others'."""
    site, num = Site(tmp_path, 2), 4000
    for step in range(num):
        done = [Step(step=step, step_s=STEP_S, tokens=1, labels=1) for _ in range(2)]
        site.write(0, *(Gpu(util=50.0, power_w=400.0) for _ in range(4)), done[0])
        site.write(1, done[1])
    while poll(site.feed, site.live, now_s=0.0):
        pass
    assert (site.live.num_complete, site.live.num_partial) == (num, 0)


def test_a_rank_that_says_nothing_more_holds_the_others_up_only_so_long(tmp_path):
    site, num = Site(tmp_path, 2), 3000
    site.write(1, *(Step(step=step, step_s=STEP_S, tokens=1, labels=1) for step in range(num)))
    for _ in range(100):
        poll(site.feed, site.live, now_s=0.0)
    assert site.feed.caught_up
    assert site.live.num_partial > num - 600
