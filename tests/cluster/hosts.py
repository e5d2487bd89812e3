"""Two "hosts" on one machine: network namespaces with their own addresses, joined by a cable of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.contract.cli import SMALL, environment

_ADDRESSES = {"hosta": "10.231.77.1", "hostb": "10.231.77.2"}
_BECOME = "import os, socket, sys\nsocket.sethostname(sys.argv[1])\nos.execvp(sys.argv[2], sys.argv[2:])"


def ip(*args: str) -> None:
    """Run iproute2's `ip`; skips where it may not."""
    try:
        done = subprocess.run(["ip", *args], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs iproute2: apt-get install iproute2")
    if done.returncode:
        pytest.skip(f"needs the right to make network namespaces: {done.stderr.strip()}")


class Hosts:
    """The two hosts, their cable, and what runs on them."""

    def __init__(self, tag: str) -> None:
        self._names = {host: f"tgs{tag}{host[-1]}" for host in _ADDRESSES}
        self._running: list[subprocess.Popen[str]] = []

    def address(self, host: str) -> str:
        """A host's own address."""
        return _ADDRESSES[host]

    def start(self, host: str, home: Path, *args: str) -> subprocess.Popen[str]:
        """Start `tgsbench ARGS` on a host, in a network and under a host name of its own."""
        inside = [sys.executable, "-c", _BECOME, host, sys.executable, "-m", "tgsbench", *args]
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._names[host], "unshare", "--uts", *inside],
            cwd=home,
            env=environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._running.append(process)
        return process

    def cut(self, host: str) -> None:
        """Pull the host's cable."""
        ip("-n", self._names[host], "link", "set", "eth0", "down")

    def up(self) -> None:
        """Make namespaces, cable and addresses."""
        for name in self._names.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        a, b = self._names.values()
        ip("-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b)
        for host, name in self._names.items():
            ip("-n", name, "addr", "add", f"{_ADDRESSES[host]}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")

    def down(self) -> None:
        """End what still runs and take everything away."""
        for process in self._running:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.wait()
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Hosts a and b for the length of a test."""
    hosts = Hosts(str(os.getpid()))
    try:
        hosts.up()
        yield hosts
    finally:
        hosts.down()


def node_args(hosts: Hosts, home: Path, node_rank: int, *more: str, gpus: int = 4) -> list[str]:
    """Arguments of one node's part of a two-node run of the tiny preset."""
    return [
        "run", "--preset", "tiny_cpu", *SMALL, "--set", f"hardware.num_gpus={gpus}", "--nodes", "hosta,hostb",
        "--node-rank", str(node_rank), "--rendezvous", f"{hosts.address('hosta')}:29400", "--name", "two",
        "--output", str(home / "runs"), *more,
    ]  # fmt: skip
