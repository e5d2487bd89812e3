"""How another system's ranks ended, from torchrun's exit code and what they printed; pure."""

from __future__ import annotations

import re

from tgsbench.errors import ExitCode
from tgsbench.schema.events import Error
from tgsbench.schema.run import RankExit
from tgsbench.system.tracebacks import root_cause

_DEVICE_OOM = re.compile(
    r"^.*(?:CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED).*$",
    re.M,
)
_HOST_OOM = re.compile(
    r"^.*(?:can't allocate memory|Cannot allocate memory|std::bad_alloc|MemoryError).*$", re.M
)
_ASKED = re.compile(r"Tried to allocate ([\d.]{1,12}) (B|bytes|KiB|MiB|GiB|TiB)")
_ASKED_HOST = re.compile(r"you tried to allocate (\d{1,18}) bytes")
_KILLED = re.compile(r"exitcode\s*:\s*-9\b.*?SIGKILL|Signal 9 \(SIGKILL\)", re.S)
_UNIT = {"B": 1, "bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_LONGEST = 500
"""Characters of a message."""
_SHOWN = 8_000
"""Characters of the log's end that are kept as traceback."""


def describe(system: str, exit_code: int, text: str) -> Error | None:
    """The error event of ranks that ended badly; None when a kill says it already (see `killed`)."""
    tail = text[-_SHOWN:]
    if match := _DEVICE_OOM.search(text):
        return Error(
            kind="oom",
            msg=_clean(match[0]),
            traceback=tail,
            bytes_requested=_asked(match[0]),
            exit_code=ExitCode.OOM,
        )
    if match := _HOST_OOM.search(text):
        asked = _ASKED_HOST.search(match[0])
        num_bytes = int(asked[1]) if asked else 0
        return Error(
            kind="host_oom",
            msg=_clean(match[0]),
            traceback=tail,
            bytes_requested=num_bytes,
            exit_code=ExitCode.OOM,
        )
    if killed(text):
        return None
    msg = first_cause(text) or f"{system} ended with exit code {exit_code}"
    return Error(kind="exception", msg=msg, traceback=tail, exit_code=ExitCode.CRASHED)


def first_cause(text: str) -> str:
    """The exception that its ranks raised first; empty where they raised none."""
    return root_cause(text)[:_LONGEST]


def killed(text: str) -> RankExit | None:
    """The rank that torchrun saw being killed, by whom only the kernel knows."""
    if not _KILLED.search(text):
        return None
    found = re.search(r"local_rank: (\d{1,5})\)", text)
    return RankExit(rank=int(found[1]) if found else 0, exit_code=-9, signal="SIGKILL")


def _clean(line: str) -> str:
    return re.sub(r"^\[rank\d+\]:\s?", "", line.strip())[:_LONGEST]


def _asked(line: str) -> int:
    match = _ASKED.search(line)
    return int(float(match[1]) * _UNIT[match[2]]) if match else 0
