"""Systems that train in turns: ranks that live through the whole comparison and sleep between their turns.

A rank waits in a read of its stdin, so it costs nothing while the other system trains. What a turn took goes
back on a pipe of its own, since DeepSpeed and mmengine print to stdout. Standard library only: XTuner's ranks
import this in an environment without tgsbench.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

NUM_RANKS = 2
_REPLY_FD = "TURNS_REPLY_FD"
_START_S, _TURN_S = 600.0, 600.0


class Ranks:
    """Two gloo ranks of one system on the loopback address, one thread each."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self._log = log
        self._processes: list[subprocess.Popen[bytes]] = []
        self._replies: list[int] = []
        self.peak_mib = 0.0
        """What the larger rank held at most, up to the last turn."""
        port = _free_port()
        try:
            for rank in range(NUM_RANKS):
                self._start(argv, dict(env) | _rank_env(rank, port), cwd)
            self._hear(_START_S)
        except BaseException:
            self.close()
            raise

    def _start(self, argv: Sequence[str], env: dict[str, str], cwd: Path) -> None:
        read, write = os.pipe()
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                argv,
                env=env | {_REPLY_FD: str(write)},
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[write],
                start_new_session=True,
            )
        os.close(write)
        self._processes.append(process)
        self._replies.append(read)

    def turn(self, word: str) -> list[dict[str, float]]:
        """Have every rank do `word` (a number of steps, or what the system understands); their replies."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{word}\n".encode())
            process.stdin.flush()
        return self._hear(_TURN_S)

    def steps(self, count: int) -> tuple[float, float]:
        """Of one step, mean over `count`: seconds of the slower rank, processor seconds of both together."""
        found = self.turn(str(count))
        self.peak_mib = max(reply["peak_mib"] for reply in found)
        cpu_s = sum(reply["cpu_seconds"] for reply in found)
        return max(reply["seconds"] for reply in found) / count, cpu_s / count

    def _hear(self, timeout_s: float) -> list[dict[str, float]]:
        deadline_s = time.monotonic() + timeout_s
        return [self._one(fd, deadline_s) for fd in self._replies]

    def _one(self, fd: int, deadline_s: float) -> dict[str, float]:
        buffer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_READ)
            while not buffer.endswith(b"\n"):
                ready = selector.select(max(0.0, deadline_s - time.monotonic()))
                part = os.read(fd, 65536) if ready else b""
                if not part:
                    raise RuntimeError(f"a rank ended or is stuck:\n{self._log.read_text()[-4000:]}")
                buffer += part
        reply: dict[str, float] = json.loads(buffer)
        return reply

    def close(self) -> None:
        """End the ranks: their stdin closes, and who does not leave then is killed."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for fd in self._replies:
            os.close(fd)


def reply(**found: float) -> None:
    """Send the parent what a turn found."""
    os.write(int(os.environ[_REPLY_FD]), json.dumps(found).encode() + b"\n")


def words() -> Iterator[str]:
    """What the parent asks for, one word a turn; ends when it closes the pipe."""
    for line in sys.stdin:
        yield line.strip()


def take_turns(step: Callable[[], float], other: Callable[[str], dict[str, Any]] | None = None) -> None:
    """Serve the parent: `step` runs one optimizer step and returns its loss."""
    reply(seconds=0.0)
    for word in words():
        if not word.isdecimal():
            assert other is not None, word
            reply(**other(word))
            continue
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        losses = [step() for _ in range(int(word))]
        cpu_s = time.process_time() - begin_cpu_s
        seconds = time.perf_counter() - begin_s
        reply(seconds=seconds, cpu_seconds=cpu_s, loss=losses[-1], peak_mib=peak_mib())


def peak_mib() -> float:
    """What this process held at most (VmHWM: getrusage's figure would begin with the parent's)."""
    status = Path("/proc/self/status").read_text("ascii")
    return float(status.partition("VmHWM:")[2].split()[0]) / 1024


def _rank_env(rank: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(NUM_RANKS),
        "LOCAL_WORLD_SIZE": str(NUM_RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "DS_ACCELERATOR": "cpu",
        "PYTHONUNBUFFERED": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
