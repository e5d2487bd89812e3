"""How fast are traces analysed? tgsbench against HolisticTraceAnalysis 0.5.0, A B A B on one file.

`python -m benchmarks.trace_analysis [--quick] [--only PART]`. Three parts:
speed: one trace of 320 MB in one process, plain and gzipped, load and breakdowns; both must give the same
compute, communication and overlap within 1 %. sizes: what does a process hold, from 320 MB to 5 GB in one
trace? ranks: 64 ranks' traces, 5 GB; what does a second process gain, and what does any process hold?
The traces are synthetic (see cuda_trace.py); a rank's trace is written once and copied. HTA gets an
environment of its own under .peers.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import cuda_trace
from benchmarks.pairs import ratio
from benchmarks.peer_venv import python_of

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "trace_analysis.txt"
SIZES_MB = (320, 1_000, 2_500, 5_000)
BY_KIND_MB = 1_000
"""Of the trace in the order of Kineto's files."""
RANK_MB = 80
PAIR_RANKS = 8
"""Ranks a round when processes are compared."""
MAX_DIFFERENCE = 0.01
LIMITS = """limits, from a trial on two shared cores (AMD EPYC), MB/s of one core:
  simdjson in C++, parse and these columns 1,050; msgspec or pysimdjson in chunks, parse and columns 250-310;
  gunzip: isal 3,800-4,300, zlib 1,200-1,400; read from the page cache 7,400"""
Answer = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="40 MB, 8 ranks, 2 rounds: does it all work?")
    parser.add_argument("--only", choices=("speed", "sizes", "ranks"), help="one part")
    parser.add_argument("--folder", type=Path, help="where traces are written meanwhile: 6 GB")
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.relative_to(ROOT)}; none of a part")
    parser.add_argument("--analyse", nargs="+", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.analyse:
        print(json.dumps(stages(args.analyse[0]) if args.stages else analyse(args.analyse, args.processes)))
        return
    rounds = 2 if args.quick else args.rounds
    parts = [args.only] if args.only else ["speed", "sizes", "ranks"]
    lines = Lines()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        load = os.getloadavg()
        lines.say(
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; load before: {load}"
        )
        if "speed" in parts:
            one_file(lines, Path(folder), (40 if args.quick else 320) * 10**6, rounds)
        if "sizes" in parts:
            sizes(lines, Path(folder), 10 if args.quick else 1)
        if "ranks" in parts:
            many_ranks(lines, Path(folder), 8 if args.quick else 64, rounds)
    lines.say(f"load after: {os.getloadavg()}\n{LIMITS}")
    out = args.out or (None if args.quick or args.only else RESULTS)
    if out is not None:
        out.write_text("\n".join(lines.said) + "\n")


class Lines:
    """Prints lines and keeps them for the file."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        print(text, flush=True)
        self.said.append(text)


def peer_environment() -> Path:
    """Python of the environment that holds HTA; made at first use."""
    return python_of("hta", ["HolisticTraceAnalysis==0.5.0"])


def one_file(lines: Lines, folder: Path, num_bytes: int, rounds: int) -> None:
    """Speed, answers, gzip and memory of one trace."""
    python = peer_environment()
    path = folder / "rank0.pt.trace.json"
    size_mb = cuda_trace.write(path, num_bytes) / 1e6
    packed = path.with_suffix(".json.gz")
    compress(path, packed)
    own(path)  # what it imports is in the page cache from here on
    ours, gzipped, peer = [], [], []
    for number in range(rounds):
        asks: list[tuple[list[Answer], Callable[[], Answer]]] = [
            (ours, lambda: own(path)),
            (peer, lambda: ask([python, ROOT / "benchmarks" / "trace_peer.py", path])),
            (gzipped, lambda: own(packed)),
        ]
        for answers, call in asks if number % 2 == 0 else reversed(asks):
            answers.append(call())
    compare(ours[0], peer[0])
    events = ours[0]["num_events"]
    lines.say(
        f"one synthetic trace of {size_mb:.0f} MB, {events:,} events; {rounds} rounds, order alternating"
    )
    for name, answers in (("tgsbench", ours), ("tgsbench, gzip", gzipped), ("HTA 0.5.0", peer)):
        rate, peak = size_mb / median(answers, "wall_s"), max(column(answers, "peak_mb"))
        times = f"{spread(answers, 'wall_s')} s, processor {spread(answers, 'cpu_s')} s"
        lines.say(f"  {name:<15} {times}, {rate:.0f} MB/s, peak {peak:.0f} MB")
    for what, key, bound in (("wall", "wall_s", ">= 15"), ("processor", "cpu_s", ">= 15")):
        pair = ratio(
            f"  {what} time", "HTA", "tgsbench", column(peer, key), column(ours, key), f"to reach: {bound}"
        )
        lines.say(pair.line())
    pair = ratio("  gzip, processor", "gzip", "plain", column(gzipped, "cpu_s"), column(ours, "cpu_s"), "")
    lines.say(pair.line())
    answers_line = ", ".join(f"{key[:-3]} {ours[0][key] / peer[0][key] - 1:+.2%}" for key in ANSWERS)
    lines.say(f"  tgsbench's answers against HTA's: {answers_line}")
    lines.say(
        "  where its time goes: " + ", ".join(f"{k} {v:.2f} s" for k, v in own(path, "--stages").items())
    )
    packed.unlink()
    path.unlink()


def sizes(lines: Lines, folder: Path, divisor: int) -> None:
    """What one process holds, by the size of one trace."""
    if shutil.disk_usage(folder).free < 1.4e6 * SIZES_MB[-1] / divisor:
        lines.say(f"sizes: left out, {SIZES_MB[-1] / 1e3:.0f} GB do not fit in {folder}")
        return
    lines.say("one trace, peak of its process (to reach: <= 250 MB)")
    path, packed = folder / "growing.pt.trace.json", folder / "growing.pt.trace.json.gz"
    for size in cuda_trace.growing(path, [mb * 10**6 // divisor for mb in SIZES_MB]):
        compress(path, packed)
        lines.say(held("plain", size, own(path)))
        lines.say(held("gzip", size, own(packed)))
    packed.unlink()
    size = cuda_trace.write_by_kind(path, BY_KIND_MB * 10**6 // divisor)
    lines.say(held("plain, host's events before the device's", size, own(path)))
    path.unlink()


def held(name: str, size: int, found: Answer) -> str:
    """One line of `sizes`."""
    mb, load = size / 1e6, os.getloadavg()[0]
    return (f"  {mb:,.0f} MB, {name}: {found['peak_mb']:.0f} MB; {found['num_events']:,} events, "
            f"{found['wall_s']:.1f} s, processor {found['cpu_s']:.1f} s, "
            f"{mb / found['wall_s']:.0f} MB/s, load {load:.1f}")  # fmt: skip


def many_ranks(lines: Lines, folder: Path, num_ranks: int, rounds: int) -> None:
    """Processes side by side, and what each holds."""
    need = num_ranks * RANK_MB * 10**6
    if shutil.disk_usage(folder).free < 1.2 * need:
        lines.say(f"{num_ranks} ranks: left out, {need / 1e9:.1f} GB do not fit in {folder}")
        return
    paths = [folder / f"ranks_{rank:04d}.pt.trace.json" for rank in range(num_ranks)]
    cuda_trace.write(paths[0], RANK_MB * 10**6)
    body_at = len(cuda_trace.head(0))
    for rank, path in enumerate(paths[1:], 1):
        with paths[0].open("rb") as source, path.open("wb") as sink:
            sink.write(cuda_trace.head(rank).encode())
            source.seek(body_at)
            shutil.copyfileobj(source, sink, 1 << 20)
    singles, pairs = [], []
    for number in range(rounds):
        asks = [(singles, 1), (pairs, 2)]
        for answers, processes in asks if number % 2 == 0 else reversed(asks):
            answers.append(own(*paths[:PAIR_RANKS], "--processes", processes))
    gain = ratio(f"{PAIR_RANKS} ranks of {RANK_MB} MB", "1 process", "2 processes",
                 column(singles, "wall_s"), column(pairs, "wall_s"), "measured, no bound")  # fmt: skip
    lines.say(gain.line())
    total_gb = sum(path.stat().st_size for path in paths) / 1e9
    found = own(*paths, "--processes", os.cpu_count() or 1)
    lines.say(f"{num_ranks} ranks, {total_gb:.1f} GB, {os.cpu_count()} processes: {found['wall_s']:.1f} s, "
              f"{1000 * total_gb / found['wall_s']:.0f} MB/s, peak {found['peak_mb']:.0f} MB in the parent, "
              f"{found['child_peak_mb']:.0f} MB in the largest child (to reach: <= 250)")  # fmt: skip


ANSWERS = ("compute_us", "comm_us", "overlap_us")


def compare(ours: Answer, peer: Answer) -> None:
    """Stop unless both sides give the same answers."""
    for key in ANSWERS:
        difference = abs(ours[key] / peer[key] - 1)
        assert difference <= MAX_DIFFERENCE, (key, ours[key], peer[key])


def own(*arguments: Any) -> Answer:
    """Our side in a process of its own."""
    options = [a for a in arguments if not isinstance(a, Path)]
    paths = [a for a in arguments if isinstance(a, Path)]
    return ask([sys.executable, "-m", "benchmarks.trace_analysis", *options, "--analyse", *paths])


def ask(argv: Sequence[Any]) -> Answer:
    done = subprocess.run([str(word) for word in argv], cwd=ROOT, check=True, capture_output=True, text=True)
    answer: Answer = json.loads(done.stdout.splitlines()[-1])
    return answer


def analyse(paths: Sequence[Path], num_processes: int) -> Answer:
    """In our own process: the analysis that `tgsbench profile` makes, and its answers as HTA words them."""
    from tgsbench.traces import analyse as analysis

    began_cpu_s, began_s = time.process_time(), time.perf_counter()
    found = analysis.analyse(paths, "benchmark", num_processes)
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    rank = found.ranks[0]
    us = 1e3 * max(1, len(rank.steps))
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "num_events": sum(each.num_events for each in found.ranks),
        "peak_mb": peak_mb(),
        "child_peak_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        # HTA counts copies as neither; here nothing else runs while one does.
        "compute_us": us * (rank.compute_ms - rank.parts_ms["memcpy"]),
        "comm_us": us * rank.comm_total_ms,
        "overlap_us": us * rank.overlap_ms,
    }


def stages(path: Path) -> dict[str, float]:
    """Processor seconds of reading, of the columns made from what was read, and of the figures."""
    from tgsbench.traces import hotspots, shapes, tables
    from tgsbench.traces.row_store import DiskTables
    from tgsbench.traces.trace import TraceReader

    def decoded() -> None:
        for events in TraceReader(path).chunks():
            del events

    def read() -> None:
        with DiskTables() as scratch:
            tables.read(path, shapes.wanted, scratch)

    gc.disable()
    decode_s, read_s = cpu_s(decoded), cpu_s(read)
    whole_s = cpu_s(lambda: hotspots.analyse_rank(path))
    return {"decoding": decode_s, "columns": read_s - decode_s, "figures": whole_s - read_s}


def cpu_s(work: Callable[[], object]) -> float:
    """The least of three."""
    return min(_timed(work) for _ in range(3))


def _timed(work: Callable[[], object]) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def peak_mb() -> float:
    """Of this process since it began; getrusage's figure would have its parent's in it."""
    match = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def compress(path: Path, packed: Path) -> None:
    import gzip

    with path.open("rb") as source, gzip.open(packed, "wb", compresslevel=1) as sink:
        shutil.copyfileobj(source, sink, 1 << 20)


def column(answers: Sequence[Answer], key: str) -> list[float]:
    return [answer[key] for answer in answers]


def median(answers: Sequence[Answer], key: str) -> float:
    return statistics.median(column(answers, key))


def spread(answers: Sequence[Answer], key: str) -> str:
    values = column(answers, key)
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
