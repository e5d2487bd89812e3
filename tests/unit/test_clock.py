"""A clock that a preloaded library changed is refused before anything is started, with its name."""

from __future__ import annotations

import errno
import math

import pytest

from tests.unit.stored import a_preset
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import preflight
from tgsbench.system import clock


@pytest.fixture(autouse=True)
def fresh():
    clock.preloaded_clock_problem.cache_clear()
    yield
    clock.preloaded_clock_problem.cache_clear()


class Clocks:
    """The kernel's uptime and this process' clock, which runs at a rate of its own and is read late."""

    def __init__(self, monkeypatch, rate, late_s=0.0):
        self.now_s, self.rate, self.late_s = 1000.0, rate, late_s
        monkeypatch.setenv("LD_PRELOAD", "/usr/lib/faketime/libfaketime.so.1")
        monkeypatch.setattr(clock, "_uptime_s", self.uptime_s)
        monkeypatch.setattr(clock.time, "monotonic", self.monotonic)

    def uptime_s(self):
        self.now_s += 0.003
        return math.floor(self.now_s * 100) / 100

    def monotonic(self):
        self.now_s, late_s = self.now_s + self.late_s, self.late_s
        self.late_s = 0.5 - late_s if late_s else 0.0
        return 5.0 + (self.now_s - 1000.0) * self.rate


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (0.0, "stands still"),
        (100.0, "times as fast"),
        (2.0, "runs 2 times as fast"),
        (1.15, "times as fast"),
        (0.85, "times as fast"),
        (0.1, "times as fast"),
        (1.0, ""),
    ],
)
def test_a_preloaded_clock_is_told_by_its_rate(monkeypatch, rate, said):
    Clocks(monkeypatch, rate)
    problem = clock.preloaded_clock_problem()
    assert (said in problem and "LD_PRELOAD=/usr/lib/faketime" in problem) if said else problem == ""


@pytest.mark.parametrize("late_s", [0.02, 0.4])
def test_a_busy_machine_that_delays_some_readings_is_no_other_clock(monkeypatch, late_s):
    Clocks(monkeypatch, 1.0, late_s)
    assert clock.preloaded_clock_problem() == ""


def test_a_clock_set_before_the_machine_started_is_told_since_no_wait_ends(monkeypatch):
    def sleep(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    Clocks(monkeypatch, 1.0)
    monkeypatch.setattr(clock.time, "sleep", sleep)
    assert "lets nothing wait (Invalid argument): LD_PRELOAD=" in clock.preloaded_clock_problem()


def test_nothing_is_measured_where_no_library_is_preloaded(monkeypatch):
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(clock, "_uptime_s", lambda: pytest.fail("the clock was watched"))
    assert clock.preloaded_clock_problem() == ""


def test_a_run_under_such_a_library_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(preflight, "preloaded_clock_problem", lambda: "the clock stands still: LD_PRELOAD=x")
    with pytest.raises(TgsError) as caught:
        preflight.check(a_preset("tiny_cpu"), preflight.this_machine(), 2)
    assert caught.value.exit_code == ExitCode.UNSUPPORTED
    assert "LD_PRELOAD=x" in caught.value.msg
    assert "env -u LD_PRELOAD" in caught.value.hint
