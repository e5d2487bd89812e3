"""`python -m tests.fuzz [READER…] --inputs 100000`: the long search, outside CI (make fuzz)."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

from tests.fuzz.readers import READERS, sound_files_read_once
from tgsbench.errors import TgsError

LONGEST_S = 10
"""Processor time of one input."""
MOST_BYTES = 2 << 30
"""Memory that an input may take beyond what the process holds before the first."""


class TooLongError(Exception):
    """An input took more than its processor time."""


def one(name: str, data: bytes, folder: Path) -> str:
    """Feed one input: "read" or "refused"; any other exception leaves."""
    try:
        READERS[name].read(folder, data)
    except TgsError as error:
        assert error.msg
        return "refused"
    return "read"


def inputs_of(name: str, seed: int, index: int) -> bytes:
    """The input of this number: the same in every process."""
    rng = Random(f"{name} {seed} {index}")
    reader = READERS[name]
    return reader.damage(rng, rng.choice(reader.samples()))


def search(name: str, num_inputs: int, seed: int, kept: Path) -> int:
    """Feed so many inputs; returns the number of kinds of defects, each kept with its first input."""
    started, ends, found = time.process_time(), {"read": 0, "refused": 0}, {}
    with tempfile.TemporaryDirectory(dir=_in_memory()) as work, sound_files_read_once():
        os.environ["XDG_CONFIG_HOME"] = work
        folder = Path(work) / "at"
        folder.mkdir()
        os.chdir(work)
        one_safely(name, READERS[name].samples()[0], folder)
        _limit_memory()
        for index in range(num_inputs):
            data = inputs_of(name, seed, index)
            signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST_S)
            try:
                ends[one(name, data, folder)] += 1
            except Exception as error:
                found.setdefault(_kind(error), []).append(index)
                if len(found[_kind(error)]) == 1:
                    (kept / f"{name}-{seed}-{index}").write_bytes(data)
                    traceback.print_exception(error, limit=-5)
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    spent = time.process_time() - started
    print(
        f"{name}: {num_inputs:,} inputs, seed {seed}: {ends['read']:,} read, {ends['refused']:,} refused, "
        f"{sum(map(len, found.values())):,} defects of {len(found)} kinds; {spent:.0f} s of processor time, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB",
        flush=True,
    )
    for kind, where in found.items():
        print(f"  {kind}: {len(where):,}, first input {where[0]} in {kept}", flush=True)
    return len(found)


def _in_memory() -> str | None:
    """A folder in memory, where a file takes a third of the time; None: the usual one."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def one_safely(name: str, data: bytes, folder: Path) -> None:
    """What is imported lazily is imported before memory is limited."""
    try:
        one(name, data, folder)
    except Exception:
        traceback.print_exc()


def _kind(error: Exception) -> str:
    """The exception and the line of ours that it came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/tgsbench/" in f.filename] or [
        *traceback.extract_tb(error.__traceback__)
    ]
    at = frames[-1]
    return f"{type(error).__name__} at {at.filename.rpartition('/tgsbench/')[2]}:{at.lineno}"


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MOST_BYTES, resource.RLIM_INFINITY))


def _too_long(*_: object) -> None:
    raise TooLongError(f"more than {LONGEST_S} s of processor time")


def main() -> None:
    """Search each reader in a process of its own, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("reader", nargs="*", help=f"default: all of {', '.join(READERS)}")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "tgsbench-fuzz")
    asked = parser.parse_args()
    asked.keep.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGVTALRM, _too_long)
    num_kinds = 0
    for name in asked.reader or READERS:
        child = os.fork()
        if child == 0:
            os._exit(min(100, search(name, asked.inputs, asked.seed, asked.keep.absolute())))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code < 0:
            print(f"{name}: killed by signal {-code}", flush=True)
        num_kinds += abs(code)
    sys.exit(bool(num_kinds))


if __name__ == "__main__":
    main()
