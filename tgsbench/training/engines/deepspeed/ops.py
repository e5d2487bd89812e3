"""DeepSpeed's ops are compiled at first use: said while it goes on, and never taken for a hang."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tgsbench import units
from tgsbench.errors import ExitCode, TgsError
from tgsbench.system import build_locks
from tgsbench.training.engines.base import Note

_TELL_S = 20.0
"""Between two words about a compiler that is still at work; a start may be silent for 180 s."""


def announce_builds(builder: Any, note: Note) -> None:
    """Make DeepSpeed's op builder say what it does; raises TgsError where no compiler is installed."""
    load = builder.jit_load

    def announced(self: Any, verbose: bool = True) -> Any:
        from torch.utils.cpp_extension import _get_build_directory

        folder = Path(_get_build_directory(self.name, verbose=False))
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one cleans, so that none takes another's new lock away
            build_locks.remove_abandoned(folder.parent, note)
        note(_what_it_takes(self.name, folder, Path(self.deepspeed_src_path("csrc"))))
        with _telling(self.name, note):
            return load(self, verbose)

    builder.jit_load = announced


def _what_it_takes(name: str, folder: Path, sources: Path) -> str:
    if (folder / "lock").exists():
        return (
            f"waiting for another process that compiles DeepSpeed's {name} op "
            f"(if there is none, one was killed: remove {folder / 'lock'})"
        )
    if is_built(folder / f"{name}.so", sources):
        return f"loading DeepSpeed's {name} op"
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        raise TgsError(
            f"DeepSpeed must compile its {name} op and finds no {' and no '.join(missing)}",
            hint="apt-get install g++ ninja-build, or set engine.offload=none",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )
    return f"compiling DeepSpeed's {name} op with g++ (minutes on few cores, once for this environment)"


def is_built(library: Path, sources: Path) -> bool:
    """Is this library of these sources? Environments share one cache, and each new one compiles again."""
    recipe = library.parent / "build.ninja"
    if not library.exists() or not recipe.exists():
        return False
    finished = library.stat().st_mtime >= recipe.stat().st_mtime
    return finished and str(sources) in recipe.read_text("utf-8", "replace")


@contextmanager
def _telling(name: str, note: Note) -> Iterator[None]:
    """Say every so often that a compiler is at work in this process; one that only waits says nothing."""
    begin_s, over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not over.wait(_TELL_S):
            if psutil.Process().children():
                note(f"compiling DeepSpeed's {name} op: {units.duration(time.monotonic() - begin_s)} so far")

    teller = threading.Thread(target=tell, name="op-build", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
