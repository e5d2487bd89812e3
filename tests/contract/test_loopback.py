"""Every server that tgsbench starts listens on the loopback address only, says the socket table."""

from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

from tests.contract.cli import ROOT, environment

TRACES = ROOT / "tests" / "data" / "traces"
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def listening(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports that a process and its descendants listen on."""
    found = set()
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def until_listening(server: subprocess.Popen) -> set[tuple[str, int]]:
    deadline_s = time.monotonic() + 60
    while not (found := listening(server.pid)):
        assert server.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    return found


@pytest.mark.skipif(importlib.util.find_spec("textual_serve") is None, reason="needs tgsbench[serve]")
def test_the_web_ui_listens_on_the_loopback_address_only(tmp_path):
    port = free_port()
    argv = [sys.executable, "-m", "tgsbench", "tui", "--serve", "--port", str(port)]
    server = subprocess.Popen(
        argv, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        found = until_listening(server)
        assert {ip for ip, _ in found} <= LOOPBACK
        assert port in {number for _, number in found}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            page = answer.read().decode()
        assert "textual.js" in page
        assert not re.findall(r'(?:href|src)="https?://(?!127\.0\.0\.1)', page), "nothing from elsewhere"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.skipif(importlib.util.find_spec("torch_tb_profiler") is None, reason="needs tgsbench[profile]")
def test_tensorboard_listens_on_the_loopback_address_only(tmp_path):
    port = free_port()
    argv = [sys.executable, "-m", "tgsbench", "tensorboard", str(TRACES), "--port", str(port)]
    server = subprocess.Popen(argv, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().decode().strip()
        assert address == f"http://127.0.0.1:{port}/#pytorch_profiler"
        assert until_listening(server) == {("127.0.0.1", port)}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            assert not re.findall(r'(?:href|src)="https?://(?!127\.0\.0\.1)', answer.read().decode())
    finally:
        server.terminate()
        server.wait(timeout=30)
