"""Rank files folded in pieces show what the same events show when they are folded one at a time."""

from __future__ import annotations

import os
import random
import select
import signal
import sys

import msgspec
import pytest

from benchmarks.simulate import Scenario, write_events
from tgsbench.events.tail import RunTail
from tgsbench.live import backlog
from tgsbench.live.fold import LiveRun
from tgsbench.live.follow import FollowFeed, poll
from tgsbench.live.pending import MAX_PENDING_STEPS
from tgsbench.schema import events as ev

WORLD = 4
LONG = MAX_PENDING_STEPS + 100
MAX_ROUNDS = 1000
RUNS = {
    "even": Scenario(world=WORLD, steps=80, step_s=3.0, gpu_period_s=1, heartbeat_s=1),
    "straggler": Scenario(
        world=WORLD, steps=80, step_s=3.0, gpu_period_s=5, heartbeat_s=1, straggler=3, straggles_from=9
    ),
    "fails": Scenario(world=WORLD, steps=80, step_s=3.0, fails_at_step=50, heartbeat_s=1),
    "long": Scenario(world=WORLD, steps=LONG, step_s=1.0, gpu_period_s=1, heartbeat_s=2, straggler=2),
}


def one_at_a_time(folder, world):
    """Every event is decoded whole and folded by itself, in the order in which ranks wrote them."""
    live, tail = LiveRun(world), RunTail(folder / "events")
    for event in sorted(tail.read_all(), key=lambda event: event.t):
        live.add_events([event])
    return live, tail.skipped


def in_pieces(folder, world):
    """The tail reads alone, as of a run that began a moment ago."""
    live, feed = LiveRun(world), FollowFeed(folder / "events")
    feed._backlog = iter(())
    catch_up(live, feed)
    return live, feed.skipped


def with_readers(folder, world):
    """As the UI opens a long run: other processes read what is there, the tail goes on behind them."""
    live, feed = LiveRun(world), FollowFeed(folder / "events")
    catch_up(live, feed)
    return live, feed.skipped


def catch_up(live, feed):
    for _ in range(MAX_ROUNDS):
        if not poll(feed, live):
            return
    raise AssertionError("it never catches up")


def shown(live):
    """Everything a screen reads."""
    rows = [(r.first_step, r.last_step, *r.step_s, *r.data_s, *r.mem_peak, *r.loss) for r in live.grid.rows]
    trends = [(t.x, t.y, t.low, t.high) for t in (live.tgs, live.step_s, live.mem_peak, live.loss)]
    ranks = [
        (
            s.phase,
            s.step,
            s.mem_peak,
            s.last_t,
            s.gpu,
            list(s.gpu_utils),
            s.error,
            s.bye,
        )
        for s in live.ranks
    ]
    counts = (live.num_events, live.num_complete, live.num_partial, live.num_ignored, live.last_closed_step)
    measured = (live.measured_tokens, live.measured_s, *live.tgs_samples, *live.step_samples)
    once = [live.data, live.kernel, *sorted(live.notes, key=repr)]
    return "\n".join(map(repr, [*rows, *trends, *ranks, counts, measured, *once]))  # texts, as NaN != NaN


def check(folder, world=WORLD):
    single, single_skipped = one_at_a_time(folder, world)
    for way in (in_pieces, with_readers):
        bulk, bulk_skipped = way(folder, world)
        assert bulk.num_events > 0
        assert shown(bulk).splitlines() == shown(single).splitlines()
        assert bulk_skipped == single_skipped
    return bulk


@pytest.fixture(autouse=True)
def readers(monkeypatch):
    """Two readers for runs of any length; those that were started."""
    started = []

    class Listed(backlog._Reader):
        def __init__(self, tails):
            super().__init__(tails)
            started.append(self._process)

    monkeypatch.setattr(backlog, "_WORTH_BYTES", 1)
    monkeypatch.setattr(backlog, "free_cores", lambda: 2)
    monkeypatch.setattr(backlog, "_Reader", Listed)
    yield started
    assert all(process.returncode is not None for process in started), "no reader is left behind"


@pytest.fixture(params=RUNS, ids=str)
def folder(tmp_path, request):
    write_events(tmp_path, RUNS[request.param])
    return tmp_path


def path(folder, rank):
    return folder / "events" / f"rank{rank:05}.jsonl"


def test_whole_runs(folder):
    assert check(folder).num_complete > 0


def test_a_rank_without_a_file(folder):
    path(folder, 3).unlink()
    assert check(folder).num_complete == 0


def test_a_rank_that_stops_early_in_the_middle_of_a_line(folder):
    whole = path(folder, 1).read_bytes()
    path(folder, 1).write_bytes(whole[: len(whole) // 2])
    live = check(folder)
    assert live.num_complete > 0
    assert live.ranks[1].step < live.front_step


def test_ranks_beyond_the_world(folder):
    assert check(folder, WORLD - 2).num_foreign > 0


@pytest.mark.parametrize("seed", range(3))
def test_damaged_unknown_missing_doubled_and_foreign_lines(folder, seed):
    chance = random.Random(seed)
    for rank in range(WORLD):
        lines = path(folder, rank).read_bytes().splitlines(keepends=True)
        for at in sorted(chance.sample(range(2, len(lines)), 12), reverse=True):
            lines[at : at + 1] = _harm(lines[at], lines[at - 1], chance)
        path(folder, rank).write_bytes(b"".join(lines))
    check(folder)


def _harm(line, before, chance):
    """What stands in the file in place of a line."""
    torn = line[: chance.randrange(1, len(line) - 1)] + b"\n"
    unknown = b'{"type":"weather","rain":[1,2],"v":1,"t":1.0,"rank":0,"seq":0}\n'
    of_another = line.replace(b'"rank":', b'"rank":9')
    odd = line.replace(b'"step_s":', b'"step_s":-')
    more = line.replace(b'"v":1', b'"mood":{"good":[true,null]},"v":1')
    choices = [
        [torn],
        [unknown, line],
        [],
        [line, line],
        [line, before],
        [of_another],
        [odd],
        [more],
        [b"\xff\n", line],
    ]
    return chance.choice(choices)


def test_counts_of_a_glance_are_as_exact_as_whole_ones(tmp_path):
    step = ev.Step(step=0, tokens=2**53 - 1, labels=2**40 + 1, step_s=1.0, mem_peak=2**52 + 1)
    (tmp_path / "events").mkdir()
    path(tmp_path, 0).write_bytes(msgspec.json.encode(step) + b"\n")
    live = check(tmp_path, 1)
    assert live.measured_tokens == 2**53 - 1
    assert live.ranks[0].mem_peak == 2**52 + 1


def test_a_reader_that_is_killed_costs_nothing(tmp_path, readers, monkeypatch):
    monkeypatch.setattr(backlog, "_PIPE_BYTES", 1 << 12)
    monkeypatch.setattr(backlog, "_MAX_AHEAD_BYTES", 1 << 12)
    write_events(tmp_path, RUNS["long"])
    live, feed = LiveRun(WORLD), FollowFeed(tmp_path / "events")
    live.add_batch(next(iter(feed.batches(live.is_ahead))))
    readers[0].kill()
    catch_up(live, feed)
    assert readers[0].returncode == -signal.SIGKILL
    assert shown(live).splitlines() == shown(one_at_a_time(tmp_path, WORLD)[0]).splitlines()


def test_without_room_for_a_second_reader_the_tail_reads_alone(tmp_path, readers, monkeypatch):
    write_events(tmp_path, RUNS["even"])
    listed = backlog._Reader

    def second_fails(tails):
        if readers:
            raise BlockingIOError("no more processes")
        return listed(tails)

    monkeypatch.setattr(backlog, "_Reader", second_fails)
    check(tmp_path)
    assert len(readers) == 1


def test_what_is_written_behind_the_readers_is_read_too(tmp_path):
    write_events(tmp_path, RUNS["even"])
    files = [path(tmp_path, rank) for rank in range(WORLD)]
    whole = [file.read_bytes() for file in files]
    for file, data in zip(files, whole, strict=True):
        file.write_bytes(data[: len(data) * 2 // 3])
    live, feed = LiveRun(WORLD), FollowFeed(tmp_path / "events")
    catch_up(live, feed)
    before = live.num_events
    for file, data in zip(files, whole, strict=True):
        file.write_bytes(data)
    catch_up(live, feed)
    assert before < live.num_events
    assert shown(live).splitlines() == shown(one_at_a_time(tmp_path, WORLD)[0]).splitlines()


def test_readers_end_with_the_feed_that_wanted_them(tmp_path, monkeypatch):
    monkeypatch.setattr(backlog, "_PIPE_BYTES", 1 << 12)
    monkeypatch.setattr(backlog, "_MAX_AHEAD_BYTES", 1 << 12)
    write_events(tmp_path, RUNS["long"])
    feed = FollowFeed(tmp_path / "events")
    next(iter(feed.batches(lambda rank: False)))
    del feed  # `readers` looks at them


@pytest.mark.parametrize(
    "harm", [b'{"type":"st\n', b'{"type":"step","step":1099511627776,"v":1,"rank":0,"seq":700}\n']
)
@pytest.mark.parametrize("world", [1, 4])
def test_one_bad_line_costs_a_long_run_one_step(tmp_path, world, harm):
    write_events(tmp_path, Scenario(world=world, steps=3000, step_s=1.0, gpu_period_s=0, heartbeat_s=0))
    lines = path(tmp_path, 0).read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if b'"seq":700}' in line)
    lines[at] = harm
    path(tmp_path, 0).write_bytes(b"".join(lines))
    live, _ = with_readers(tmp_path, world)
    assert (live.num_partial, live.num_complete) == ((0, 3002) if world == 1 else (1, 3002))


def test_a_feed_that_was_never_read_leaves_no_reader(tmp_path, readers):
    write_events(tmp_path, RUNS["long"])
    feed = FollowFeed(tmp_path / "events")
    assert readers
    del feed  # `readers` looks at them


def test_a_reader_goes_on_while_nobody_takes_its_parts():
    out, into = os.pipe()
    pipe = backlog._DrainedPipe(out)
    with os.fdopen(into, "wb") as stream:
        stream.write(bytes(4 << 20))  # a pipe holds 64 KiB: undrained, this never returns
    assert sum(map(len, iter(pipe.take, b""))) == 4 << 20
    pipe.close()
    os.close(out)


def test_parts_wait_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(backlog, "_MAX_AHEAD_BYTES", 1 << 16)
    out, into = os.pipe()
    os.set_blocking(into, False)
    pipe = backlog._DrainedPipe(out)
    written = 0
    with pytest.raises(BlockingIOError):
        while written < 1 << 26:
            wrote = select.select([], [into], [], 1.0)[1] and os.write(into, bytes(1 << 12))
            written += wrote or os.write(into, bytes(1 << 12))
    os.close(into)
    assert written < 1 << 20
    assert sum(map(len, iter(pipe.take, b""))) == written
    pipe.close()
    os.close(out)


@pytest.mark.parametrize("answer", ["hello, world", "\x04\x00\x00\x00abcd"])
def test_a_reader_that_raves_costs_nothing(tmp_path, monkeypatch, answer):
    program = f"import sys; sys.stdin.buffer.read(); print({answer!r}, end='')"
    monkeypatch.setattr(backlog, "module_argv", lambda *_: [sys.executable, "-c", program])
    write_events(tmp_path, RUNS["even"])
    check(tmp_path)


def test_a_module_in_the_current_folder_is_not_executed(tmp_path, monkeypatch):
    write_events(tmp_path, RUNS["even"])
    (tmp_path / "msgspec.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    check(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_path_that_is_no_text_is_read(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    write_events(folder, RUNS["even"])
    check(folder)
