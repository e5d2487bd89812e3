import pytest

from benchmarks.simulate import Scenario, write_events
from tgsbench.errors import TgsError
from tgsbench.events.replay import Replay
from tgsbench.events.tail import RunTail
from tgsbench.schema import events as ev

TWO_HOSTS = Scenario(world=4, ranks_per_host=2, steps=6, step_s=2.0, gpu_period_s=1, heartbeat_s=1)


@pytest.fixture
def events_dir(tmp_path):
    write_events(tmp_path, TWO_HOSTS)
    return tmp_path / "events"


def test_replay_hands_out_every_event_once(events_dir):
    replay, found = Replay(events_dir), []
    while not replay.at_end:
        found += replay.advance_to(replay.at_s + 1.0)
    key = lambda e: (e.rank, e.seq)  # noqa: E731
    assert sorted(map(key, found)) == sorted(map(key, RunTail(events_dir).poll()))


def test_hosts_with_other_clocks_are_lined_up(events_dir):
    replay = Replay(events_dir)
    first = replay.advance_to(1.0)
    assert {e.rank for e in first if isinstance(e, ev.Hello)} == {0, 1, 2, 3}
    assert replay.duration_s < 100


def test_events_come_in_order_of_time_and_not_before_their_time(events_dir):
    replay, at = Replay(events_dir), 0.0
    while not replay.at_end:
        events = replay.advance_to(replay.at_s + 2.5)
        at += 2.5
        assert all(e.t - (1000 if e.rank < 2 else 1517.25) <= at + 1e-6 for e in events)


def test_a_burst_is_handed_out_in_portions(events_dir):
    replay = Replay(events_dir)
    assert len(replay.advance_to(1e9, max_events=10)) == 10
    assert not replay.at_end
    assert replay.at_s < replay.duration_s


def test_a_run_without_events_is_refused(tmp_path):
    with pytest.raises(TgsError, match="no events"):
        Replay(tmp_path)
