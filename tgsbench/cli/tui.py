"""`tgsbench tui`: the terminal UI, here or in a browser."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tgsbench.cli import diagnostics
from tgsbench.cli.effect import refuse_idle
from tgsbench.cli.terminal import print_running, print_tunes, require_terminal
from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.store.run_dir import runs_root


@click.command()
@click.option("--ascii", "ascii_only", is_flag=True, help="Draw with ASCII characters only.")
@click.option("--serve", is_flag=True, help="Open it in a browser instead, on 127.0.0.1.")
@click.option("--port", type=click.IntRange(1, 65535), default=8317, show_default=True, help="For --serve.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs (./runs).")
def tui(ascii_only: bool = False, serve: bool = False, port: int = 8317, output: Path | None = None) -> None:
    """Pick a preset, launch it, watch it live, look inside."""
    refuse_idle({"port": "serve"})
    if serve:
        _serve(ascii_only, port, output)
        return
    require_terminal("tgsbench run --preset tiny_cpu --headless")
    from tgsbench.tui.app import open_app

    print_running(open_app(runs_root=output, ascii_only=ascii_only))
    print_tunes(runs_root(output))


def _serve(ascii_only: bool, port: int, output: Path | None) -> None:
    try:
        from tgsbench.tui import serve
    except ImportError as error:
        raise TgsError(
            f"--serve needs textual-serve: {error}",
            hint=pip_install("serve"),
            exit_code=ExitCode.MISSING_DEPENDENCY,
        ) from error
    server = serve.server(port, ascii_only=ascii_only, runs_root=output)
    diagnostics.note(f"open {server.address}")
    diagnostics.note("it works in the first browser that opens it; ctrl-c ends it, runs go on")
    diagnostics.note(f"from another machine: ssh -L {port}:127.0.0.1:{port} THIS_HOST")
    try:
        server.serve()
    except OSError as error:
        raise TgsError(
            f"cannot listen on 127.0.0.1:{port}: {os.strerror(error.errno or 0).lower()}",
            hint="choose another --port",
            exit_code=ExitCode.USAGE,
        ) from error
