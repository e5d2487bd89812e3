#!/usr/bin/env bash
# TensorBoard's scan for a free port ends the process at a port that is bound but answers nobody.
#
# Expected: without a port of its own TensorBoard tries 6006 and up to 99 ports after it ("port scanning").
# Happens:  it first connects to the port: who answers is passed over. A port that is bound and does not listen
#           yet (another TensorBoard of the same second, any server that starts) refuses the connection, so it
#           goes on to bind. There TensorBoard waits for OSError EADDRINUSE, but Werkzeug since 2.2 catches
#           that itself, prints "Port 6006 is in use by another program" and calls sys.exit(1): no second port
#           is tried, and in a notebook or a test that starts two at once one of them is gone.
# Versions: tensorboard 2.21.0, Werkzeug 3.1.9, Python 3.11. Seen 2026-11-29.
# Output:   a port that answers: served on the next one
#           a port that is bound and answers nobody: SystemExit(1), no other port tried
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet tensorboard==2.21.0 Werkzeug==3.1.9 'setuptools<81'
mkdir logs
env/bin/python -W ignore - <<'PY'
import argparse
import contextlib
import io
import socket

from tensorboard import program
from tensorboard.plugins.core import core_plugin


def scan(first: int) -> str:
    core_plugin.DEFAULT_PORT = first
    flags = argparse.Namespace(host="127.0.0.1", port=None, bind_all=False, reuse_port=False)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            server = program.create_port_scanning_werkzeug_server(None, flags)
    except SystemExit as error:
        return f"SystemExit({error.code}), no other port tried"
    server.server_close()
    return "served on the next one" if server.port == first + 1 else f"served on {server.port - first} later"


def pair() -> int:
    """A port that is free, and the one after it too."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError, OverflowError):
                two.bind(("127.0.0.1", one.getsockname()[1] + 1))
                return one.getsockname()[1]


first = pair()
with socket.create_server(("127.0.0.1", first)):
    answered = scan(first)
with socket.socket() as silent:
    silent.bind(("127.0.0.1", first))
    refused = scan(first)
print(f"a port that answers: {answered}")
print(f"a port that is bound and answers nobody: {refused}")
assert answered == "served on the next one"
assert refused == "SystemExit(1), no other port tried"
PY
