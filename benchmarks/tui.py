"""What the terminal UI costs: first paint, opening a run of a million events, following 64 ranks.

    python benchmarks/tui.py [--seconds 30] [--repeats 5] [--json FILE]

Each figure is of the whole process in a real pseudo-terminal of 120 x 40, Python's start and imports
included; modules are compiled beforehand, as an installed package's are. The bare import of Textual is
measured alternating with the first paint, as its floor.
"""

from __future__ import annotations

import argparse
import compileall
import fcntl
import json
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import msgspec
import psutil

from benchmarks.simulate import Scenario, rank_events, write_events
from tgsbench import presets
from tgsbench.schema.run import Manifest
from tgsbench.store.run_dir import RunDir, write_atomic
from tgsbench.system.lifetime import process_identity

ROOT = Path(__file__).resolve().parent.parent
SIZE = (40, 120)
BIG_STEPS = 13_500
"""64 ranks write 1,048,000 events over so many steps: 84 % steps, the rest GPU samples and heartbeats."""


class Terminal:
    """A command in a pseudo-terminal; what it writes is kept."""

    def __init__(self, *argv: str, env: dict[str, str] | None = None, root: Path = ROOT) -> None:
        self.started = time.perf_counter()
        pid, self.fd = pty.fork()
        if pid == 0:
            os.chdir(root)
            os.environ.update(env or {}, TERM="xterm-256color", PYTHONPATH=str(root))
            os.execv(sys.executable, [sys.executable, *argv])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        self.process = psutil.Process(pid)
        self.written = b""
        self._largest_bytes, self._looked_at = 0, 0.0

    def read(self, seconds: float) -> None:
        """Take what it writes for some time."""
        deadline = time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0:
            self._take(left)

    def until(self, words: bytes, limit_s: float = 120.0) -> float:
        """Seconds from the start until it has written `words`."""
        while words not in self.written:
            self._take(0.5)
            if time.perf_counter() - self.started > limit_s:
                raise TimeoutError(f"{words!r} never came; it ended with {self.written[-800:]!r}")
        return time.perf_counter() - self.started

    def _take(self, seconds: float) -> None:
        self._look_at_memory()
        if select.select([self.fd], [], [], seconds)[0]:
            try:
                self.written += os.read(self.fd, 1 << 16)
            except OSError:
                time.sleep(min(seconds, 0.05))

    def _look_at_memory(self) -> None:
        now = time.perf_counter()
        if now - self._looked_at >= 0.25:
            self._looked_at = now
            tree = [self.process, *self.process.children(recursive=True)]
            self._largest_bytes = max(self._largest_bytes, sum(map(_resident, tree)))

    def peak_mb(self) -> float:
        """Largest resident set size so far, of it and its helpers together; pages they share count twice."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return max(int(line.split()[1]) / 1000, self._largest_bytes / 1e6)

    def cpu_s(self) -> float:
        """Processor time so far, that of helpers that have ended included."""
        times = self.process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    def close(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGKILL)
        os.waitpid(self.process.pid, 0)
        os.close(self.fd)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def make_run(folder: Path, scenario: Scenario, *, over: bool) -> RunDir:
    """A run folder of made-up events, over or about to begin."""
    preset = presets.resolve("llama2_70b_1M", [f"measure.steps={scenario.steps}"]).preset
    run = RunDir(folder)
    run.events_dir.mkdir(parents=True)
    run.log_dir.mkdir()
    write_atomic(run.path / "preset.toml", presets.to_toml(preset).encode())
    manifest = Manifest(
        run_id=folder.name, preset=preset.name, engine="fsdp2", created_unix=time.time(),
        world_size=scenario.world, device="simulated", host=os.uname().nodename, tags=["simulated"],
        supervisor_pid=os.getpid(), supervisor_identity=process_identity(os.getpid()),
    )  # fmt: skip
    run.write("run.json", manifest)
    if over:
        write_events(run.path, scenario)
    return run


class Writer(threading.Thread):
    """Appends events to 64 ranks' files at a steady rate, as 64 ranks would."""

    def __init__(self, run: RunDir, scenario: Scenario, hz: float) -> None:
        super().__init__(daemon=True)
        encoder = msgspec.json.Encoder()
        self._lines = [
            [encoder.encode(event) + b"\n" for event in rank_events(scenario, rank)]
            for rank in range(scenario.world)
        ]
        paths = [run.events_dir / f"rank{rank:05}.jsonl" for rank in range(scenario.world)]
        self._files = [path.open("ab", buffering=0) for path in paths]
        self._period_s = 1 / hz
        self.stopped = threading.Event()

    def run(self) -> None:
        """One event of every rank, wait, the next."""
        due = time.perf_counter()
        for index in range(min(map(len, self._lines))):
            for file, lines in zip(self._files, self._lines, strict=True):
                file.write(lines[index])
            due += self._period_s
            if self.stopped.wait(max(0.0, due - time.perf_counter())):
                return


def first_paint(repeats: int, folder: Path) -> dict[str, object]:
    """Whole process to the first full screen, alternating with the bare import of Textual."""
    env = {"XDG_CONFIG_HOME": str(folder / "config"), "TGSBENCH_RUNS": str(folder / "none")}
    settings = folder / "config" / "tgsbench" / "tui.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text("welcomed = true\n")
    paints, filled, bare = [], [], []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import textual.app, textual.widgets"], check=True, cwd=ROOT)
        bare.append(time.perf_counter() - started)
        window = Terminal("-m", "tgsbench", "tui", env=env)
        paints.append(window.until(b"5 Doctor"))
        filled.append(window.until(b"presets, "))
        window.close()
    return {
        "first_paint_s": spread(paints),
        "presets_listed_s": spread(filled),
        "import_textual_s": spread(bare),
        "ratio_to_import": statistics.median(paints) / statistics.median(bare),
    }


def big_run(repeats: int, folder: Path) -> dict[str, object]:
    """Whole process until every event of a million is folded and shown."""
    scenario = Scenario(world=64, steps=BIG_STEPS, step_s=0.118, gpu_period_s=1, heartbeat_s=2, straggler=37)
    run = make_run(folder / "big", scenario, over=True)
    files = list(run.events_dir.iterdir())
    num_events = sum(file.read_bytes().count(b"\n") for file in files)
    last = f"step {scenario.total_steps}/{scenario.total_steps}".encode()
    opened, peaks, cpu = [], [], []
    for _ in range(repeats):
        window = Terminal("-m", "tgsbench", "attach", str(run.path))
        opened.append(window.until(last))
        cpu.append(window.cpu_s())
        window.read(0.5)
        peaks.append(window.peak_mb())
        window.close()
    size = sum(file.stat().st_size for file in files)
    return {
        "num_events": num_events, "size_mb": size / 1e6, "opened_s": spread(opened),
        "opened_processor_s": spread(cpu), "peak_rss_mb": max(peaks),
    }  # fmt: skip


def following(hz: float, seconds: float, folder: Path) -> dict[str, object]:
    """Processor time of the UI while 64 ranks write `hz` events a second each, after it has settled."""
    steps = int((seconds + 20) * hz)
    scenario = Scenario(world=64, steps=steps, step_s=1 / hz, gpu_period_s=0, heartbeat_s=0, straggler=37)
    run = make_run(folder / f"live{hz:g}", scenario, over=False)
    writer = Writer(run, scenario, hz)
    writer.start()
    window = Terminal("-m", "tgsbench", "attach", str(run.path))
    window.until(b"measure")
    window.read(4.0)
    before, began, bytes_before = window.cpu_s(), time.perf_counter(), len(window.written)
    window.read(seconds)
    wall_s = time.perf_counter() - began
    share = (window.cpu_s() - before) / wall_s
    result = {
        "events_per_s": 64 * hz, "core_percent": 100 * share, "peak_rss_mb": window.peak_mb(),
        "terminal_kb_per_s": (len(window.written) - bytes_before) / wall_s / 1000,
    }  # fmt: skip
    writer.stopped.set()
    window.close()
    return result


def spread(samples: list[float]) -> dict[str, float]:
    """Median, best and worst of some samples."""
    return {
        "median": round(statistics.median(samples), 3),
        "best": round(min(samples), 3),
        "worst": round(max(samples), 3),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=["paint", "big", "live"])
    wanted = parser.parse_args()
    compileall.compile_dir(ROOT / "tgsbench", quiet=1)
    found: dict[str, object] = {"load_1min": os.getloadavg()[0], "num_cores": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="tgsbench-tui-") as temporary:
        folder = Path(temporary)
        if wanted.only in (None, "paint"):
            found["start"] = first_paint(wanted.repeats, folder)
        if wanted.only in (None, "big"):
            found["million_events"] = big_run(wanted.repeats, folder)
        if wanted.only in (None, "live"):
            found["64_ranks_2_hz"] = following(2, wanted.seconds, folder)
            found["64_ranks_10_hz"] = following(10, wanted.seconds, folder)
    text = json.dumps(found, indent=2)
    print(text)
    if wanted.json:
        wanted.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
