"""Another system gets further while its log grows or what it started computes."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from tgsbench.external.activity import Activity


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """Two cores with nothing else to do; returns what sets their load."""
    monkeypatch.setattr(psutil, "cpu_count", lambda: 2)

    def set_load(load: float) -> None:
        monkeypatch.setattr(psutil, "getloadavg", lambda: (load, load, load))

    set_load(1.0)
    return set_load


def process(pid: int, used_s: float, name: str = "python3", **environ: str) -> SimpleNamespace:
    times = SimpleNamespace(user=used_s, system=0.0)
    return SimpleNamespace(pid=pid, cpu_times=lambda: times, name=lambda: name, environ=lambda: environ)


def test_a_log_that_grows_is_progress(tmp_path):
    log = tmp_path / "log"
    activity = Activity(log, ranks_compute=False)
    ticks = []
    for now_s, text in enumerate(["a", "a", "ab"], 1):
        log.write_text(text)
        activity.look([], float(now_s))
        ticks.append(activity.ticks)
    assert ticks == [1, 1, 2]


@pytest.mark.parametrize(("ranks_compute", "ticks"), [(True, 2), (False, 0)])
def test_processor_time_of_a_rank_counts_where_it_computes_itself(tmp_path, ranks_compute, ticks):
    activity = Activity(tmp_path / "none", ranks_compute)
    for beat in range(3):
        activity.look([process(1, 2.0 * beat, RANK="0")], 2.0 * beat)
    assert activity.ticks == ticks


def test_a_compiler_that_a_rank_started_counts_and_a_rank_that_waits_does_not(tmp_path):
    activity = Activity(tmp_path / "none", ranks_compute=False)
    for beat in range(3):
        activity.look([process(1, 2.0 * beat, "cc1plus", RANK="0")], 2.0 * beat)
    assert activity.ticks == 2
    waiting = Activity(tmp_path / "none", ranks_compute=True)
    for beat in range(3):
        waiting.look([process(1, 0.05 * beat, RANK="0")], 2.0 * beat)
    assert waiting.ticks == 0


def test_ranks_that_get_little_of_a_loaded_machine_are_not_hung(tmp_path, two_cores):
    two_cores(40.0)
    starved, waiting = (Activity(tmp_path / "none", ranks_compute=True) for _ in range(2))
    for beat in range(3):
        starved.look([process(1, 0.05 * beat, RANK="0")], 2.0 * beat)
        waiting.look([process(1, 0.005 * beat, RANK="0")], 2.0 * beat)
    assert (starved.ticks, waiting.ticks) == (2, 0)
