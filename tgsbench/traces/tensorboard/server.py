"""The TensorBoard process: on loopback, with its own plugins and the extended profiler, and no others."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import multiprocessing
import re
import signal
import socket
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.system.loopback import HOST, Gate, Refusal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from tensorboard.program import TensorBoardServer

_ASKED: Final = "SyncManager"
"""What the name of a process begins with that keeps values for others; so `multiprocessing` calls it."""
_PACKAGES: Final = {"tensorboard": "tensorboard", "torch_tb_profiler": "torch-tb-profiler"}
_FITTING: Final = "0.4.3"
"""The release of torch-tb-profiler that plugin.py extends."""


def require_packages() -> None:
    """Raise TgsError (exit code 6) with what installs them when TensorBoard or its plugin is missing."""
    for module, package in _PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise TgsError(
                f"{package} is not installed",
                hint=pip_install("profile"),
                exit_code=ExitCode.MISSING_DEPENDENCY,
            )
    found = metadata.version("torch-tb-profiler")
    if found != _FITTING:
        raise TgsError(
            f"torch-tb-profiler {found} is installed; its pages work without network in {_FITTING}",
            hint=pip_install("profile"),
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )


@contextlib.contextmanager
def serving(logdir: Path, port: int | None) -> Iterator[str]:
    """Serve a folder while the context lasts; its address. `port` None: the first free one from 6006 on.

    The address works in the first browser that opens it. Raises TgsError when the port is taken.
    """
    from tensorboard import default, program

    from tgsbench.traces.tensorboard.plugin import Plugin

    gate = Gate()
    board = program.TensorBoard(
        plugins=[*default.get_static_plugins(), Plugin],
        server_class=program.with_port_scanning(
            lambda wsgi_app, flags: _listening(guarded(wsgi_app, gate), flags)
        ),
    )
    # load_fast starts a process with a port of its own, to read scalars of which a run has few.
    board.configure(logdir=str(logdir), host=HOST, port=port, load_fast="false", path_prefix=gate.folder)
    try:
        if port is not None:  # asked before the plugin starts its parsers
            socket.create_server((HOST, port)).close()
        address = board.launch()
    except (OSError, program.TensorBoardServerException) as error:
        why = error.strerror if isinstance(error, OSError) else error.msg
        raise TgsError(
            f"TensorBoard cannot listen on {HOST}:{port or 6006}: {why}",
            hint="another --port; without the option a free one is chosen",
        ) from error
    try:
        yield address
    finally:
        end_parsers()


def end_parsers() -> None:
    """End the processes that read traces, then the one that keeps the list of their files.

    A parser that is through meanwhile would ask it, and complain that it is gone.
    """
    for is_asked in (False, True):
        while children := [
            child for child in multiprocessing.active_children() if child.name.startswith(_ASKED) is is_asked
        ]:
            for child in children:
                child.terminate()
                child.join()


def _listening(app: WSGIApplication, flags: argparse.Namespace) -> TensorBoardServer:
    """The server on one port. Raises TensorBoardPortInUseError, on which the scan goes on, when it is taken.

    A port that is bound but answers no connection passes TensorBoard's own look at it, and Werkzeug 2.2 and
    newer end the process there: two servers that start at once meet.
    """
    from tensorboard import program

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return program.WerkzeugServer(app, flags)
    except SystemExit as error:
        raise program.TensorBoardPortInUseError(f"port {flags.port} is taken") from error


def guarded(app: WSGIApplication, gate: Gate) -> WSGIApplication:
    """The same pages for whom the gate lets in."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        port, method, path = (str(environ[key]) for key in ("SERVER_PORT", "REQUEST_METHOD", "PATH_INFO"))
        headers = {name: environ[key] for name, key in _HEADERS.items() if key in environ}
        if _FONTS.fullmatch(path):
            environ["PATH_INFO"] = f"{gate.folder}{path}"
            return app(environ, start_response)
        try:
            cookie = gate.admit(int(port), method, path, headers)
        except Refusal as refusal:
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [str(refusal).encode()]
        return app(environ, _with_cookie(start_response, cookie) if cookie else start_response)

    return answer


_FONTS: Final = re.compile(r"/font-roboto/[\w-]+\.woff2")
"""Files of the package that its page asks for outside of the prefix under which all else lies."""
_HEADERS: Final = {"Host": "HTTP_HOST", "Origin": "HTTP_ORIGIN", "Cookie": "HTTP_COOKIE"}


def _with_cookie(start_response: StartResponse, cookie: str) -> Callable[..., Any]:
    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        return start_response(status, [*headers, ("Set-Cookie", cookie)], *rest)

    return start


def interruption() -> threading.Event:
    """What ctrl-c, SIGTERM, or a terminal that goes sets from now on, instead of ending the process.

    Asked for before the address is said: a signal in between would leave the parsers behind, which hold the
    caller's pipes and wait for a reader that is gone.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop
