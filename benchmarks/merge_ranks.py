"""What one live view of many ranks costs: share of a core while 64 and 1,024 ranks write, and memory.

A writer of its own appends to every rank's event file once a second (a step; a GPU sample and a heartbeat as
well with --chatty); the reader follows as `tgsbench` does. `python -m benchmarks.merge_ranks`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from tgsbench.events.tail import poll_period_s
from tgsbench.live.fold import LiveRun
from tgsbench.live.follow import FollowFeed, poll
from tgsbench.live.stragglers import suspects
from tgsbench.schema.events import Event, Gpu, Heartbeat, Hello, Step

_ENCODE = msgspec.json.Encoder().encode
_SETTLE_S = 5
_HEARTBEAT_S = 2.0


def write(folder: Path, world: int, seconds: int, chatty: bool) -> None:
    """Append to every file once a second, spread over the second as ranks would be."""
    seq = [0] * world
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [os.open(folder / f"rank{rank:05d}.jsonl", flags) for rank in range(world)]

    def emit(rank: int, event: Event) -> None:
        event.rank, event.seq, event.t = rank, seq[rank], time.monotonic()
        seq[rank] += 1
        os.write(files[rank], _ENCODE(event) + b"\n")

    for rank in range(world):
        emit(rank, Hello(world=world, host=f"host{rank // 8:03d}", device="simulated", unix_t=time.time()))
    begin_s = time.monotonic()
    for step in range(seconds):
        for rank in range(world):
            emit(rank, Step(step=step, tokens=16384, labels=16000, step_s=1.0, data_s=0.01, loss_sum=16e3))
            if chatty:
                emit(rank, Gpu(util=99, power_w=400, temp_c=60, sm_mhz=1400))
            if chatty and (step + rank) % 2:
                emit(rank, Heartbeat(step=step))
        time.sleep(max(0.0, begin_s + step + 1 - time.monotonic()))


def follow(folder: Path, world: int, seconds: int) -> dict[str, float]:
    """Read along; CPU seconds and memory from after the first look on."""
    live, feed, process = LiveRun(world), FollowFeed(folder), psutil.Process()

    def look_until(end_s: float) -> None:
        while time.monotonic() < end_s:
            poll(feed, live)
            suspects(live, time.monotonic(), _HEARTBEAT_S)
            time.sleep(poll_period_s(world))

    look_until(time.monotonic() + _SETTLE_S)
    begin_s, cpu_s, events = time.monotonic(), time.process_time(), live.num_events
    rss = process.memory_info().rss
    look_until(begin_s + seconds - _SETTLE_S - 3)
    wall_s = time.monotonic() - begin_s
    return {
        "ranks": world,
        "events_per_s": round((live.num_events - events) / wall_s, 1),
        "core_share": round((time.process_time() - cpu_s) / wall_s, 4),
        "rss_mib": round(process.memory_info().rss / 2**20, 1),
        "rss_growth_mib": round((process.memory_info().rss - rss) / 2**20, 2),
        "suspects": len(suspects(live, time.monotonic(), _HEARTBEAT_S)),
    }


def history(world: int, steps: int) -> dict[str, float]:
    """Fold a long run at full speed in a fresh process: memory must not depend on its length."""
    with tempfile.TemporaryDirectory() as name:
        for rank in range(world):
            events = (
                _ENCODE(Step(step=step, rank=rank, seq=step, tokens=1, labels=1, step_s=1.0))
                for step in range(steps)
            )
            (Path(name) / f"rank{rank:05d}.jsonl").write_bytes(b"\n".join(events) + b"\n")
        size = sum(path.stat().st_size for path in Path(name).iterdir())
        own = [sys.executable, "-m", "benchmarks.merge_ranks", "--fold", name, "--ranks", str(world)]
        told = json.loads(subprocess.run(own, check=True, capture_output=True, text=True).stdout)
        return {"ranks": world, "steps": steps, "files_mib": round(size / 2**20, 1), **told}


def fold(folder: Path, world: int) -> dict[str, float]:
    """Read everything that is there; returns the peak of this process's memory."""
    live, feed = LiveRun(world), FollowFeed(folder)
    while poll(feed, live):
        pass
    # VmHWM, not ru_maxrss: that one is inherited over exec from the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"events": live.num_events, "peak_rss_mib": round(peak_kib / 1024, 1)}


def main() -> None:
    """Print one JSON line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 1024])
    parser.add_argument("--seconds", type=int, default=40)
    parser.add_argument("--chatty", action="store_true")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--fold", type=Path)
    args = parser.parse_args()
    if args.write:
        write(args.write, args.ranks[0], args.seconds, args.chatty)
        return
    if args.fold:
        print(json.dumps(fold(args.fold, args.ranks[0])))
        return
    for world in args.ranks:
        with tempfile.TemporaryDirectory() as name:
            own = [sys.executable, "-m", "benchmarks.merge_ranks", "--write", name, "--ranks", str(world)]
            more = ["--seconds", str(args.seconds)] + ["--chatty"] * args.chatty
            writer = subprocess.Popen([*own, *more])
            print(json.dumps(follow(Path(name), world, args.seconds)), flush=True)
            writer.wait()
    for world, steps in ((64, 1_000), (64, 10_000), (1024, 1_000), (1024, 4_000)):
        print(json.dumps(history(world, steps)), flush=True)


if __name__ == "__main__":
    main()
