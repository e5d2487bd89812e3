"""The watch over a run's ranks, on a clock of the test's own: what counts as progress, and as a stall."""

from __future__ import annotations

import functools
import os
import signal

import msgspec
import pytest

from tgsbench import presets
from tgsbench.launch import stacks, watch
from tgsbench.launch.departures import Departures
from tgsbench.launch.patience import Patience
from tgsbench.launch.watch import StopSignals, Watch
from tgsbench.schema.events import Bye, Gpu, Heartbeat, Hello, Step
from tgsbench.schema.run import Manifest
from tgsbench.store import run_dir
from tgsbench.system.awake import AwakeClock
from tgsbench.system.environment import host_name


class Machine:
    """A clock, and ranks that write a heartbeat with every look of the watch."""

    def __init__(self, run, look_s=1.0):
        self.run, self.look_s = run, look_s
        self.now_s, self.looks, self.exit_code, self.num_lines = 0.0, 0, None, 0
        self.on_look = lambda look: None

    def now(self):
        return self.now_s

    def sleep(self, _seconds):
        self.now_s += self.look_s
        self.looks += 1
        self.on_look(self.looks)

    def write(self, *events):
        with (self.run.events_dir / "rank00000.jsonl").open("ab") as file:
            for event in events:
                event.seq, self.num_lines = self.num_lines, self.num_lines + 1
                file.write(msgspec.json.encode(event) + b"\n")

    def poll(self):
        return self.exit_code

    def stop(self):
        return 1 if self.exit_code is None else self.exit_code


@pytest.fixture
def machine(tmp_path, monkeypatch):
    sets = ["measure.stall_s=20", "hardware.num_gpus=1", "parallel.sp=1"]
    preset = presets.resolve("tiny_cpu", sets).preset
    run = run_dir.create(tmp_path, preset, "r")
    manifest = Manifest(
        run_id="r", preset="tiny_cpu", engine="fsdp2", created_unix=0.0, world_size=1, device="cpu"
    )
    run.write("run.json", manifest)
    machine = Machine(run)
    monkeypatch.setattr(watch, "AwakeClock", functools.partial(AwakeClock, now=machine.now))
    monkeypatch.setattr(watch.time, "sleep", machine.sleep)
    monkeypatch.setattr(stacks, "collect", lambda run, child: [])
    return machine


def _outcome(machine):
    nothing = lambda *_: None  # noqa: E731
    return Watch(machine.run, machine.run.preset(), nothing, nothing, nothing).follow(machine, StopSignals())


def test_a_step_of_hours_is_no_stall_while_the_rank_gets_further_inside_it(machine):
    def look(number):
        if number == 7200:
            machine.write(Bye())
            machine.exit_code = 0
        else:
            machine.write(
                Heartbeat(step=1, micro_step=number // 100, num_micro_steps=100, ticks=number // 10)
            )

    machine.write(Step(step=0))
    machine.on_look = look
    assert _outcome(machine).status == "exited"
    assert machine.looks == 7200


def test_a_rank_that_beats_without_getting_further_is_stalled(machine):
    machine.write(Step(step=0))
    machine.on_look = lambda number: machine.write(Heartbeat(step=1, ticks=5), Gpu(util=100.0))
    outcome = _outcome(machine)
    assert outcome.status == "stalled"
    assert machine.looks == 22, "one tick was new, then 20 s without one"


def test_a_machine_that_slept_for_an_hour_is_not_stalled(machine):
    def look(number):
        machine.look_s = 3600.0 if number == 10 else 1.0
        if number == 15:  # five looks after it woke up
            machine.write(Step(step=1))
        if number == 16:
            machine.exit_code = 0

    machine.write(Step(step=0))
    machine.on_look = look
    assert _outcome(machine).status == "exited"


def test_a_clock_of_waking_time_counts_a_pause_as_one_look():
    times = iter([0.0, 1.0, 5000.0, 5001.5])
    clock = AwakeClock(2.0, now=lambda: next(times))
    assert [clock.read() for _ in range(3)] == [1.0, 3.0, 4.5]


def test_the_limit_grows_with_the_waits_that_ended_in_progress():
    preset = presets.resolve("tiny_cpu", ["hardware.num_gpus=1", "parallel.sp=1"]).preset
    patience = Patience(preset, None, 0.0)
    assert patience.limit_s() == 180.0, "before the first step"
    patience.hear([Step(step=0)], 1.0)
    assert patience.limit_s() == preset.measure.stall_s == 120.0
    patience.hear([Heartbeat(step=1, ticks=1)], 101.0)
    assert patience.limit_s() == 300.0


def test_a_disk_that_takes_nothing_is_no_stall(machine, monkeypatch):
    monkeypatch.setattr(watch, "why_unwritable", lambda path: "r cannot be written any more: No space left")
    machine.write(Step(step=0))
    told = []
    nothing = lambda *_: None  # noqa: E731
    follower = Watch(machine.run, machine.run.preset(), told.extend, nothing, nothing)
    outcome = follower.follow(machine, StopSignals())
    assert (outcome.status, outcome.disk) == ("exited", "r cannot be written any more: No space left")
    (warning,) = (event for event in told if event.rank < 0)
    assert warning.msg == "nothing is recorded any more: r cannot be written any more: No space left"


def _hello(pid: int) -> Hello:
    return Hello(rank=1, world=2, host=host_name(), device="cpu", pid=pid)


def test_a_rank_that_is_gone_without_a_word_is_noticed_once_the_agent_had_its_time():
    departures = Departures()
    departures.hear([_hello(2**22 + 1)])  # above the kernel's largest process number
    assert not departures.look(0.0)
    assert departures.look(20.0)
    assert departures.ranks() == [1]


def test_a_rank_that_lives_or_said_goodbye_is_not_missed():
    departures = Departures()
    departures.hear([_hello(os.getpid())])
    assert not departures.look(0.0)
    assert not departures.look(10.0)
    departures.hear([_hello(2**22 + 1)])
    departures.look(20.0)
    departures.hear([Bye(rank=1)])
    assert not departures.look(30.0)
    assert departures.ranks() == []


@pytest.mark.parametrize(
    ("sent", "status"),
    [("SIGINT", "cancelled"), ("SIGQUIT", "cancelled"), ("SIGHUP", "cancelled"), ("SIGTERM", "preempted"),
     ("SIGUSR1", "preempted"), ("SIGUSR2", "preempted"), ("SIGXCPU", "preempted")],
)  # fmt: skip
def test_every_signal_that_asks_to_end_gives_the_run_a_status(machine, sent, status):
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.Signals[sent])
        nothing = lambda *_: None  # noqa: E731
        outcome = Watch(machine.run, machine.run.preset(), nothing, nothing, nothing).follow(machine, stop)
    assert outcome.status == status
    assert outcome.reason.startswith(sent)
    assert stop.caught == signal.Signals[sent]
