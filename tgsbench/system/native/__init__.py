"""Parts in C, compiled where they are first of use; without a compiler Python does the same, more slowly."""

from __future__ import annotations

import ctypes
import platform
import zlib
from functools import cache
from pathlib import Path
from typing import Final

from tgsbench.system.user_cache import user_cache

NOT_USUAL: Final = -1
"""What a part of ours returns for what it leaves to Python; see json.h for this and the next."""
NO_ROOM: Final = -3
_SHARED: Final = Path(__file__).parent
_FLAGS: Final = ("-std=gnu11", "-O3", "-shared", "-fPIC")
_COMPILERS: Final = ("cc", "gcc", "clang", "g++")
_COMPILE_S: Final = 60


@cache
def library(source: Path, may_compile: bool) -> ctypes.CDLL | None:
    """What a C file is compiled to, kept in the user's cache; None where it cannot be had.

    `may_compile`: whether half a second of a compiler is worth it, where it was not compiled before.
    """
    path = user_cache() / "native" / f"{source.stem}-{_key(source)}.so"
    try:
        if not path.exists() and not (may_compile and _compile(source, path)):
            return None
        return ctypes.CDLL(str(path))
    except OSError:  # no folder, no room, another machine's library: Python reads as well
        return None


def _key(source: Path) -> str:
    text = source.read_bytes() + (_SHARED / "json.h").read_bytes() + repr(_FLAGS).encode()
    return f"{platform.machine()}-{len(text)}-{zlib.crc32(text):08x}"


def _compile(source: Path, path: Path) -> bool:
    import shutil  # these three are half of what a reader of events imports, and it never compiles
    import subprocess
    import tempfile

    compiler = next((found for name in _COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        made = Path(scratch) / path.name
        argv = [compiler, "-x", "c", *_FLAGS, f"-I{_SHARED}", str(source), "-o", str(made)]
        try:
            done = subprocess.run(argv, capture_output=True, timeout=_COMPILE_S, check=False)
        except subprocess.TimeoutExpired:
            return False
        if done.returncode == 0:
            made.replace(path)
    return done.returncode == 0
