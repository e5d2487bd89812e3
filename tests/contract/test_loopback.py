"""Every server that tgsbench starts listens on the loopback address only, says the socket table."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.cookiejar import CookieJar

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


needs_serve = pytest.mark.skipif(
    importlib.util.find_spec("textual_serve") is None, reason="needs tgsbench[serve]"
)
needs_profile = pytest.mark.skipif(
    importlib.util.find_spec("torch_tb_profiler") is None, reason="needs tgsbench[profile]"
)


@contextlib.contextmanager
def started(tmp_path, *args):
    """The port, the address that the server prints on either stream, and what it listens on."""
    port = free_port()
    argv = [sys.executable, "-m", "tgsbench", *args, "--port", str(port)]
    server = subprocess.Popen(
        argv, cwd=tmp_path, env=environment(tmp_path), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        lines = iter(server.stdout.readline, "")
        address = next(found[0] for line in lines if (found := re.search(r"http://127\S+", line)))
        yield port, address.partition("#")[0], until_listening(server)
    finally:
        server.terminate()
        server.communicate(timeout=30)


SERVERS = [
    pytest.param(["tui", "--serve"], "textual.js", marks=needs_serve, id="web-ui"),
    pytest.param(["tensorboard", str(TRACES)], "<tb-webapp", marks=needs_profile, id="tensorboard"),
]


def ask(address, jar=None, **headers):
    """Status and body of one GET; a jar keeps cookies as a browser does."""
    opener = urllib.request.build_opener(
        urllib.request.HTTPCookieProcessor(jar if jar is not None else CookieJar())
    )
    try:
        with opener.open(urllib.request.Request(address, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(("args", "words"), SERVERS)
def test_a_server_listens_on_loopback_only_and_its_page_needs_nothing_from_elsewhere(tmp_path, args, words):
    with started(tmp_path, *args) as (port, address, found):
        assert {ip for ip, _ in found} <= LOOPBACK
        assert port in {number for _, number in found}
        status, page = ask(address)
    assert status == 200 and words in page
    assert not re.findall(r'(?:href|src)="https?://(?!127\.0\.0\.1)', page)


@pytest.mark.parametrize(("args", "words"), SERVERS)
def test_a_server_is_open_to_the_first_browser_with_its_address_and_to_nobody_else(tmp_path, args, words):
    jar = CookieJar()
    with started(tmp_path, *args) as (port, address, _):
        root = f"http://127.0.0.1:{port}/"
        assert re.fullmatch(re.escape(root) + r"[\w-]{32}/", address)
        for path in ("", "ws", "static/js/textual.js", "data/logdir", f"{'x' * 32}/"):
            status, said = ask(root + path)
            assert status == 403 and "printed" in said, path
        assert ask(address, Host=f"rebound.example:{port}")[0] == 403
        assert ask(address, Host=f"localhost:{port}")[0] == 403
        assert ask(address, Origin="http://evil.example")[0] == 403
        status, page = ask(address, jar)
        assert status == 200 and words in page, "none of those used the address up"
        status, said = ask(address)
        assert status == 403 and "opened already" in said
        assert ask(address, jar)[0] == 200, "the browser that has it may load it again"
        assert ask(address, jar, Host=f"rebound.example:{port}")[0] == 403
    [cookie] = jar
    assert cookie.path == address.removeprefix(root[:-1]), "other ports of 127.0.0.1 do not get it"
    assert cookie.has_nonstandard_attr("HttpOnly") and cookie.get_nonstandard_attr("SameSite") == "Strict"


def handshake(port, path, **headers):
    """Status line of the answer to a websocket's opening."""
    asked = {
        "Host": f"127.0.0.1:{port}", "Upgrade": "websocket", "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", **headers,
    }  # fmt: skip
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
        head = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
        line.sendall(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        return line.makefile().readline().split()[1]


@needs_serve
def test_the_web_uis_websocket_wants_the_pass_and_its_own_page(tmp_path):
    jar = CookieJar()
    with started(tmp_path, "tui", "--serve") as (port, address, _):
        assert ask(address, jar)[0] == 200
        [cookie] = jar
        path = f"{cookie.path}ws"
        own = {"Cookie": f"{cookie.name}={cookie.value}", "Origin": f"http://127.0.0.1:{port}"}
        assert handshake(port, path, **own | {"Cookie": "tgsbench-pass=no"}) == "403"
        assert handshake(port, path, Origin=own["Origin"]) == "403"
        assert handshake(port, path, Cookie=own["Cookie"]) == "403", "a page says where it comes from"
        assert handshake(port, path, **own | {"Origin": "http://evil.example"}) == "403"
        assert handshake(port, path, **own | {"Host": f"rebound.example:{port}"}) == "403"
        assert handshake(port, "/ws", **own) == "403"
        assert handshake(port, path, **own) == "101"
