"""A clock that a preloaded library changed is refused before anything is started, with its name."""

from __future__ import annotations

import itertools

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


@pytest.mark.parametrize(
    ("rate", "said"),
    [(0.0, "stands still"), (100.0, "runs 100 times as fast"), (0.1, "runs 0.1 times as fast"), (1.0, "")],
)
def test_a_preloaded_clock_is_told_by_its_rate(monkeypatch, rate, said):
    uptimes = itertools.count(1000, 0.0625)
    readings = itertools.count(5.0, rate * 0.0625)
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/faketime/libfaketime.so.1")
    monkeypatch.setattr(clock, "_uptime_s", lambda: next(uptimes))
    monkeypatch.setattr(clock.time, "monotonic", lambda: next(readings))
    problem = clock.preloaded_clock_problem()
    assert (said in problem and "LD_PRELOAD=/usr/lib/faketime" in problem) if said else problem == ""


def test_a_busy_machine_that_delays_some_readings_is_no_other_clock(monkeypatch):
    uptimes = itertools.count(1000, 0.0625)
    readings = iter([5.0, 5.0, 6.0, 7.0, 8.0, 8.0625])
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so.2")
    monkeypatch.setattr(clock, "_uptime_s", lambda: next(uptimes))
    monkeypatch.setattr(clock.time, "monotonic", lambda: next(readings))
    assert clock.preloaded_clock_problem() == ""


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
