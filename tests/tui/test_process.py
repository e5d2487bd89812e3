"""Real training runs, started and stopped from the UI, and a real terminal."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.tui.conftest import NUM_SHIPPED, shows, text_of, until, welcome
from tgsbench.presets import resolve
from tgsbench.results import results
from tgsbench.store import run_dir
from tgsbench.tui import launching
from tgsbench.tui.app import TgsApp

pytestmark = pytest.mark.dist
PATIENCE = 2400
"""Looks of 50 ms: ranks import torch on a busy machine."""


@pytest.fixture
def real_machine(monkeypatch, tmp_path):
    """This machine as it is, in place of the made-up one of the other tests."""
    root = os.environ["PYTHONPATH"]
    monkeypatch.undo()
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.asyncio
async def test_tiny_cpu_is_chosen_run_and_watched_to_its_end_by_keys(real_machine, runs_root):
    app = TgsApp(runs_root=runs_root)
    async with app.run_test(size=(120, 40)) as pilot:
        await shows(pilot, f"of {NUM_SHIPPED}")
        await pilot.press("slash", *"tiny_cpu", "enter", "r")
        await shows(pilot, "[3 Live]", "▶ running")
        await until(pilot, lambda: "✓ ok" in text_of(app), "the end of the run", PATIENCE)
        screen = await shows(pilot, "n = 10", "step 12/12")
        assert "nothing published" in screen
        await pilot.press("2")
        await shows(pilot, "1 of 1 runs", "✓ ok", "tiny_cpu")
        await pilot.press("1")
        await until(pilot, lambda: "best here" in text_of(app).split("│")[-1] or "TGS in" in text_of(app))
    [run] = run_dir.list_runs(runs_root)
    result = run.result()
    assert result.status == "ok"
    assert result.tgs.n == 10
    assert result.integrity.tokens_ok
    assert result.integrity.a2a_ok


def measured(screen):
    """Does it show a figure of at least one measured step?"""
    return re.search(r"n = [1-9]", screen)


@pytest.fixture
def long_run(real_machine, runs_root):
    opened = launching.launch(resolve("tiny_cpu", ["measure.steps=400"]).preset, runs_root)
    yield opened
    if opened.supervisor.exit_code() is None:
        os.kill(opened.supervisor.pid, signal.SIGINT)
        deadline = time.monotonic() + 60
        while opened.supervisor.exit_code() is None and time.monotonic() < deadline:
            time.sleep(0.1)


@pytest.mark.asyncio
async def test_leave_come_back_and_stop_keeping_what_was_measured(long_run, runs_root):
    first = TgsApp(runs_root=runs_root, opens=long_run)
    async with first.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: measured(text_of(first)), "a measured step", PATIENCE)
        await pilot.press("q")
    assert long_run.supervisor.exit_code() is None
    second = TgsApp(runs_root=runs_root)
    async with second.run_test(size=(120, 40)) as pilot:
        await pilot.press("2")
        await shows(pilot, "▶ running")
        await pilot.press("enter")
        await shows(pilot, "[3 Live]", "▶ running")
        await pilot.press("s")
        await shows(pilot, "keep what was measured")
        await pilot.press("enter")
        await until(pilot, lambda: "■ cancelled" in text_of(second), "cancelled", PATIENCE)
    stored = results.load_result(long_run.run)
    assert stored.status == "cancelled"
    assert stored.tgs.n >= 1


@pytest.mark.asyncio
async def test_a_supervisor_of_ours_that_is_killed_shows_as_crashed(long_run, runs_root):
    app = TgsApp(runs_root=runs_root, opens=long_run)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "▶build" in text_of(app) or "▶measure" in text_of(app), tries=PATIENCE)
        os.kill(long_run.supervisor.pid, signal.SIGKILL)
        await shows(pilot, "✗ crashed")


class Terminal:
    """A real terminal: tmux on a socket of its own."""

    def __init__(self, folder, command, width=120, height=40):
        self.name = f"tgsbench-{os.getpid()}-{time.monotonic_ns()}"
        env = {**os.environ, "TERM": "xterm-256color"}
        self._tmux("new-session", "-d", "-s", "t", "-x", str(width), "-y", str(height), "-c", str(folder),
                   f"{command}; echo left with $?; exec cat", env=env)  # fmt: skip

    def _tmux(self, *args, env=None):
        done = subprocess.run(
            ["tmux", "-L", self.name, "-f", "/dev/null", *args], capture_output=True, text=True, env=env
        )
        return done.stdout

    def keys(self, *keys):
        for key in keys:
            self._tmux("send-keys", "-t", "t", key)

    def screen(self):
        return self._tmux("capture-pane", "-p", "-t", "t")

    def shows(self, *words, without="\0", tries=1200):
        for _ in range(tries):
            screen = self.screen()
            if all(word in screen for word in words) and without not in screen:
                return screen
            time.sleep(0.1)
        raise AssertionError(f"never came: {words}\n{self.screen()}")

    def close(self):
        """As a terminal window that is closed: everything in it gets SIGHUP."""
        self._tmux("kill-server")


@pytest.fixture
def terminal(real_machine, tmp_path):
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    opened = []

    def start(*argv, **size):
        command = " ".join([sys.executable, "-m", "tgsbench", *argv])
        opened.append(Terminal(tmp_path, command, **size))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.mark.timeout(400)
def test_in_a_real_terminal_from_start_to_a_stored_result(terminal, runs_root, tmp_path):
    welcome(True, tmp_path)
    window = terminal("--help")
    window.shows("Commands", "tui", "left with 0")
    window = terminal("tui", "--output", str(runs_root))
    window.shows("Three ways")
    window.keys("G", "Enter")  # look around
    window.shows(f"of {NUM_SHIPPED} presets", "e Edit", without="Three ways")
    window.keys("/", *"tiny_cpu", "Enter")
    window.shows(f"1 of {NUM_SHIPPED} presets")
    window.keys("r")
    window.shows("[3 Live]", "running")
    window.shows("✓ ok", "n = 10")
    window.keys("w")
    window.shows("step time by rank and step")
    window.keys("q")
    window.shows("left with 0")
    assert [run.result().status for run in run_dir.list_runs(runs_root)] == ["ok"]


@pytest.mark.timeout(400)
def test_closing_the_terminal_leaves_the_run_and_attach_comes_back_to_it(terminal, runs_root):
    arguments = ["--preset", "tiny_cpu", "--steps", "400", "--output", str(runs_root)]
    window = terminal("run", *arguments, "--ascii")
    assert window.shows("[3 Live]", "> running", "n = ").isascii()
    window.close()
    [run] = run_dir.list_runs(runs_root)
    seen = run.events_dir / "rank00000.jsonl"
    size = seen.stat().st_size
    for _ in range(600):
        if seen.stat().st_size > size:
            break
        time.sleep(0.1)
    assert run.is_alive()
    assert seen.stat().st_size > size, "the run goes on writing"
    window = terminal("attach", "latest", "--output", str(runs_root), width=80, height=24)
    window.shows("▶ running", "s Stop")
    window.keys("s")
    window.shows("Stop ", "keep what was measured")
    window.keys("Enter")
    window.shows("■ cancelled")
    window.keys("q")
    window.shows("left with 0", without="goes on")
    assert run.result().status == "cancelled"
