"""Root causes that need several hosts, a kernel's word or a stack; tests/dist provokes those of one run."""

from __future__ import annotations

import pytest

from tgsbench.metrics import stacks
from tgsbench.metrics.failure import root_cause
from tgsbench.metrics.observe import fold_events
from tgsbench.schema.events import Bye, Error, Hello, Step
from tgsbench.schema.run import LauncherReport, Outcome, RankExit

MAIN = '  File "/opt/tgsbench/training/__main__.py", line 63 in <module>'
WAITING = f"""Thread 0x00007fdc595146c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait

Current thread 0x00007fdc7da07b80 (most recent call first):
  File "/venv/lib/python3.11/site-packages/torch/distributed/c10d.py", line 10 in all_to_all_single
  File "/opt/tgsbench/training/parallel/ulysses.py", line 99 in forward
{MAIN}
"""
LOADING = f"""Current thread 0x00007fdc7da07b80 (most recent call first):
  Garbage-collecting
  File "/opt/tgsbench/training/engines/batches.py", line 12 in batch
  File "/opt/tgsbench/training/loop.py", line 40 in step
{MAIN}
"""


def hellos(*hosts: str, **offsets: float) -> list[Hello]:
    """One rank a host; a host's monotonic clock starts `offsets[host]` seconds after the epoch."""
    return [
        Hello(
            rank=rank, world=len(hosts), host=host, device="cpu", t=10.0, unix_t=10.0 + offsets.get(host, 0.0)
        )
        for rank, host in enumerate(hosts)
    ]


def test_errors_of_two_hosts_are_ordered_on_one_clock():
    """b was started 1,000 s before a, so its monotonic clock is ahead: its error is the earlier one."""
    stream = [
        *hellos("a", "b", a=2000.0, b=1000.0),
        Error(rank=0, t=500.0, kind="exception", msg="ValueError: second"),
        Error(rank=1, t=1490.0, kind="exception", msg="ValueError: first"),
    ]
    failure = root_cause(fold_events(stream), Outcome(exit_code=8), None, 2)
    assert (failure.reason, failure.host) == ("ValueError: first", "b")


def test_a_wall_clock_that_jumped_between_two_hellos_of_a_host_does_not_reorder_it():
    first, second = hellos("a", "a")
    second.t, second.unix_t = 11.0, 11.0 + 3600.0
    stream = [
        first,
        second,
        Error(rank=1, t=20.0, kind="exception", msg="ValueError: first"),
        Error(rank=0, t=21.0, kind="exception", msg="ValueError: second"),
    ]
    assert root_cause(fold_events(stream), Outcome(exit_code=8), None, 2).reason == "ValueError: first"


@pytest.mark.parametrize(("oom_kills", "kind"), [(1, "host_oom"), (0, "killed")])
def test_the_kernels_out_of_memory_killer_is_told_from_another_kill(oom_kills, kind):
    report = LauncherReport(exits=[RankExit(rank=1, exit_code=-9, signal="SIGKILL", t=3)])
    stream = [*hellos("a", "a"), Step(rank=1, step=0, mem_peak=7)]
    failure = root_cause(fold_events(stream), Outcome(exit_code=8, oom_kills=oom_kills), report, 2)
    assert (failure.kind, failure.rank) == (kind, 1)
    assert failure.bytes_in_use == (7 if oom_kills else 0)


def test_a_host_that_is_gone_is_named_with_its_ranks():
    stream = [*hellos("a", "a", "b", "b"), Bye(rank=0, status="cancelled"), Bye(rank=1, status="cancelled")]
    failure = root_cause(fold_events(stream), Outcome(exit_code=8), None, 4)
    assert failure.reason == "ranks 2, 3 on b ended without a word"
    assert failure.host == "b"


def test_nodes_that_did_not_come_together_say_where():
    report = LauncherReport(problem="the nodes did not come together at h1:29400: timed out")
    failure = root_cause(fold_events([]), Outcome(exit_code=8), report, 4)
    assert failure.reason == report.problem
    assert "doctor" in failure.hint


def test_the_rank_that_does_not_wait_is_named_with_its_innermost_call():
    outcome = Outcome(status="stalled", reason="no rank made progress for 600 s")
    failure = root_cause(fold_events(hellos("a", "b")), outcome, None, 2, {0: WAITING, 1: LOADING})
    assert (failure.rank, failure.host) == (1, "b")
    assert failure.reason.endswith(
        "rank 1 not where the others wait: in batch (tgsbench/training/engines/batches.py:12)"
    )
    assert failure.traceback.startswith("rank 1 (b)")
    assert "all_to_all_single (torch/distributed/c10d.py:10)" in failure.traceback


def test_a_rank_that_never_came_up_explains_a_stall():
    outcome = Outcome(status="stalled", reason="no rank made progress for 600 s")
    failure = root_cause(fold_events(hellos("a", "b")[:1]), outcome, None, 2, {0: WAITING})
    assert failure.reason.endswith("rank 1 never came up")


def test_where_all_wait_nobody_is_blamed():
    assert stacks.elsewhere({0: stacks.main_thread(WAITING), 1: stacks.main_thread(WAITING)}) == []
    assert stacks.elsewhere({0: stacks.main_thread(LOADING), 1: stacks.main_thread(LOADING)}) == []


@pytest.mark.parametrize(
    "text", ["", "garbage", "Thread 0x12 (most recent call first):\n  File", "\x00" * 100]
)
def test_a_damaged_dump_has_no_frames(text):
    assert stacks.main_thread(text) == []


def test_a_run_that_was_done_before_it_was_stopped_is_no_failure():
    done = [*hellos("a", "a"), Bye(rank=0), Bye(rank=1)]
    assert root_cause(fold_events(done), Outcome(status="cancelled", exit_code=130), None, 2) is None
