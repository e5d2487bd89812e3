"""Ranks of one machine: they know their place, one that fails ends the others, and how each ended is told."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.contract.cli import environment
from tgsbench import presets
from tgsbench.errors import ExitCode
from tgsbench.schema.run import LauncherReport
from tgsbench.system.lifetime import rank_named
from tgsbench.training import agent

AGENT = """
import functools, sys, msgspec
from tgsbench.schema.run import LauncherReport
from tgsbench.training import local_ranks
local_ranks.SHUTDOWN_S = 0.5
report = LauncherReport()
starts = {
    "program": local_ranks.program([sys.executable, "-c", sys.argv[1]]),
    "forked": local_ranks.forked(functools.partial(exec, sys.argv[1], {})),
}
code = local_ranks.run_ranks(lambda: starts[sys.argv[3]], int(sys.argv[2]), report)
assert not any(name.split(".")[0] == "torch" for name in sys.modules)
print(code, msgspec.json.encode(report).decode(), flush=True)
"""
WAIT = "import time; open(f'up{rank}', 'w').close(); time.sleep(1000)"
RANK = "import os, signal, sys; rank = int(os.environ['RANK'])\n"
UNTIL_UP = """
import pathlib, time
while not pathlib.Path('up1').exists(): time.sleep(0.01)
"""


@pytest.fixture(params=["program", "forked"])
def started(request, tmp_path) -> Callable[..., subprocess.Popen[str]]:
    """Start an agent in a process of its own, for it takes signals; its ranks run a piece of Python.

    They run a command, or are copies of the agent.
    """

    def start(rank: str, num_ranks: int = 2) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", AGENT, RANK + rank, str(num_ranks), request.param]
        return subprocess.Popen(
            argv, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
        )

    return start


def ended(agent: subprocess.Popen[str]) -> tuple[int, LauncherReport]:
    """Its exit code and what it saw."""
    code, _, report = agent.communicate(timeout=120)[0].splitlines()[-1].partition(" ")
    return int(code), msgspec.json.decode(report, type=LauncherReport)


def test_ranks_know_their_place_and_the_first_keeps_the_port(started, tmp_path):
    code, report = ended(
        started(
            "import socket\n"
            "names = 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'TGSBENCH_STORE_FD'\n"
            "fd = os.environ.get('TGSBENCH_STORE_FD')\n"
            "kept = socket.socket(fileno=int(fd)).getsockname() if fd else ()\n"
            "port = os.environ['TGSBENCH_STORE_PORT']\n"
            "assert port == os.environ['MASTER_PORT'] and (not fd or kept == ('127.0.0.1', int(port)))\n"
            "place = [os.environ.get(name, '-') for name in names[:4]]\n"
            "open(f'place{rank}', 'w').write(' '.join(place) + f' {bool(fd)}')",
            3,
        )
    )
    assert (code, report.exits, report.signal) == (ExitCode.OK, [], "")
    places = [(tmp_path / f"place{rank}").read_text() for rank in range(3)]
    assert places == ["0 3 3 127.0.0.1 True", "1 3 3 127.0.0.1 False", "2 3 3 127.0.0.1 False"]


@pytest.mark.parametrize(
    ("end", "code", "exit_code", "name"),
    [
        ("sys.exit(3)", ExitCode.CRASHED, 3, ""),
        (f"sys.exit({int(ExitCode.STORE)})", ExitCode.STORE, int(ExitCode.STORE), ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", ExitCode.CRASHED, -9, "SIGKILL"),
    ],
)
def test_a_rank_that_fails_ends_the_others_and_is_told(started, tmp_path, end, code, exit_code, name):
    rank = f"if rank == 1:\n  {WAIT}\n{UNTIL_UP}{end}"
    found, report = ended(started(rank))
    assert found == code
    (failed,) = report.exits
    assert (failed.rank, failed.exit_code, failed.signal) == (0, exit_code, name)
    assert failed.t > 0


def test_a_rank_that_stays_when_asked_to_leave_is_killed(started, tmp_path):
    stubborn = (
        f"if rank == 1:\n  signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}\n{UNTIL_UP}sys.exit(3)"
    )
    code, report = ended(started("open(f'pid{rank}', 'w').write(str(os.getpid()))\n" + stubborn))
    assert (code, [exit.rank for exit in report.exits]) == (ExitCode.CRASHED, [0])
    assert not Path(f"/proc/{(tmp_path / 'pid1').read_text()}/cwd").exists()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_agent_reaches_the_ranks_and_is_told(started, tmp_path, sig):
    says = f"if rank == 0:{UNTIL_UP.replace(chr(10), chr(10) + '  ')}\n" + (
        f"signal.signal({int(sig)}, lambda *_: (open(f'heard{{rank}}', 'w').close(), os._exit(1)))\n"
        f"if rank == 0: os.kill(os.getppid(), {int(sig)})\n{WAIT}"
    )
    code, report = ended(started(says))
    assert (code, report.exits, report.signal) == (128 + sig, [], sig.name)
    assert (tmp_path / "heard0").exists()
    assert (tmp_path / "heard1").exists()


def test_ranks_that_come_before_the_first_one_wait_for_its_store(started):
    code, report = ended(
        started(
            "from tgsbench.training.meeting import loopback_store\n"
            f"if rank == 0:{UNTIL_UP.replace(chr(10), chr(10) + '  ')}\n"
            "open(f'up{rank}', 'w').close()\n"
            "store = loopback_store()\n"
            "assert store is loopback_store()\n"
            "store.set(f'from{rank}', 'here')\n"
            "assert store.get(f'from{1 - rank}') == b'here'\n"
            # The first rank keeps the store, and is the last to use it.
            "store.get('done') if rank == 0 else store.set('done', '')",
        )
    )
    assert code == ExitCode.OK, report


CHOOSING = """
import os, signal, sys, time, msgspec
from tgsbench.schema.run import LauncherReport
from tgsbench.training import local_ranks
def choose():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1000)
report = LauncherReport()
print(local_ranks.run_ranks(choose, 2, report), msgspec.json.encode(report).decode())
"""


def test_a_signal_ends_imports_before_any_rank_is_started(tmp_path):
    argv = [sys.executable, "-c", CHOOSING]
    agent = subprocess.Popen(argv, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, text=True)
    code, report = ended(agent)
    assert (code, report.exits, report.signal) == (128 + signal.SIGTERM, [], "SIGTERM")


def test_what_a_copy_printed_before_it_was_killed_is_not_lost(tmp_path):
    rank = RANK + "print('last words of', rank); os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run(
        [sys.executable, "-c", AGENT, rank, "1", "forked"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "last words of 0"


def test_a_rank_is_known_by_its_name():
    code = (
        "from tgsbench.system.lifetime import name_rank; name_rank(12); print(open('/proc/self/comm').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert rank_named(done.stdout.strip()) == 12
    assert [rank_named(name) for name in ("python3", "rank", "rank x", "frank 1", "rank 1 ")] == [None] * 5


class Loaded:
    """A preload that does something, and how often it was asked."""

    def __init__(self, does: Callable[[], object] = int) -> None:
        self.does, self.calls = does, 0

    def __call__(self, _preset: object) -> None:
        self.calls += 1
        self.does()


def _cannot_import() -> None:
    raise ImportError("no torch")


def preloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: Loaded, preset: str) -> bool:
    (tmp_path / "preset.toml").write_text(presets.to_toml(presets.resolve(preset, []).preset))
    monkeypatch.setattr(agent, "preload", loaded)
    count, others = threading.active_count, threading.active_count() - 1  # the test runner's own
    with monkeypatch.context() as patch:
        patch.setattr(threading, "active_count", lambda: count() - others)
        return agent._is_preloaded(tmp_path)


def test_ranks_on_cpus_are_copies_unless_imports_fail_or_leave_threads(tmp_path, monkeypatch):
    assert preloaded(tmp_path, monkeypatch, Loaded(), "tiny_cpu")
    assert not preloaded(tmp_path, monkeypatch, Loaded(_cannot_import), "tiny_cpu")
    assert not preloaded(tmp_path, monkeypatch, Loaded(sys.exit), "tiny_cpu")
    over = threading.Event()
    assert not preloaded(tmp_path, monkeypatch, Loaded(threading.Thread(target=over.wait).start), "tiny_cpu")
    over.set()


def test_no_process_that_may_have_called_a_gpu_is_copied(tmp_path, monkeypatch):
    loaded = Loaded()
    assert not preloaded(tmp_path, monkeypatch, loaded, "llama3_8b_8k")
    assert loaded.calls == 0
