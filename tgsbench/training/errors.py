"""What an exception in a rank means to the user, and what is kept of it for a closer look.

Nothing here imports torch at the top: a torch that cannot be imported is one of the faults.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
import traceback
from pathlib import Path

from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema.events import Error

_CUDA_ASKED = re.compile(r"Tried to allocate ([\d.]+) (bytes|B|KiB|MiB|GiB|TiB)")
_CUDA_IN_USE = re.compile(r"has ([\d.]+) (bytes|B|KiB|MiB|GiB|TiB) memory in use")
_CPU_ASKED = re.compile(r"you tried to allocate (\d+) bytes")
_CUDA_OUT_OF_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_HOST_OUT_OF_MEMORY = ("Cannot allocate memory", "std::bad_alloc", "can't allocate memory")
_UNIT = {"bytes": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class LossNotFinite(TgsError):
    """The loss or the gradient became NaN or infinite: the run's numbers mean nothing."""

    def __init__(self, step: int, value: float, what: str) -> None:
        super().__init__(
            f"the {what} of step {step} is {value}",
            hint="lower training.lr, or set training.compute_dtype=float32 to see whether bf16 overflows",
            exit_code=ExitCode.INVALID,
        )


def check_finite(step: int, loss: float, grad_norm: float = 0.0) -> None:
    """Raise LossNotFinite unless loss and gradient norm are numbers."""
    for what, value in (("loss", loss), ("gradient norm", grad_norm)):
        if not math.isfinite(value):
            raise LossNotFinite(step, value, what)


def describe(error: BaseException) -> Error:
    """The `error` event of an exception: out of memory, refused by our own checks, or a bug."""
    if isinstance(error, LossNotFinite):
        return Error(kind="nan", msg=error.msg, hint=error.hint, exit_code=error.exit_code)
    if isinstance(error, TgsError):
        return Error(kind="refused", msg=error.msg, hint=error.hint, exit_code=error.exit_code)
    text, first = str(error), _first_line(error)
    told = "".join(traceback.format_exception(error))
    # By name: torch.OutOfMemoryError has had three homes, and torch itself may not have been imported.
    if type(error).__name__ == "OutOfMemoryError" or _speaks_of(_CUDA_OUT_OF_MEMORY, text):
        return Error(
            kind="oom",
            msg=first,
            traceback=told,
            bytes_requested=_cuda_bytes(_CUDA_ASKED, text),
            bytes_in_use=_cuda_bytes(_CUDA_IN_USE, text),
            exit_code=ExitCode.OOM,
        )
    asked = _CPU_ASKED.search(text)
    if isinstance(error, MemoryError) or asked or _speaks_of(_HOST_OUT_OF_MEMORY, text):
        return Error(
            kind="host_oom",
            msg=first or "host memory is exhausted",
            traceback=told,
            bytes_requested=int(asked[1]) if asked else 0,
            bytes_in_use=_resident_bytes(),
            exit_code=ExitCode.OOM,
        )
    msg = f"{type(error).__name__}: {first}"
    if (cause := _root(error)) is not error:
        msg = f"{type(cause).__name__}: {_first_line(cause)} (so {msg})"
    return Error(kind="exception", msg=msg, traceback=told, exit_code=ExitCode.CRASHED)


def dump_memory(run_dir: Path, rank: int) -> None:
    """Keep the allocator's snapshot of this moment, for pytorch.org/memory_viz; nothing here reads it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    path = run_dir / "log" / f"rank{rank:05d}.memory_snapshot.pickle"
    with contextlib.suppress(OSError, RuntimeError):
        torch.cuda.memory._dump_snapshot(str(path))


def dump_flight_recorder(run_dir: Path, rank: int) -> None:
    """Keep the last collectives of this rank, finished or not, as JSON; nothing where none were recorded."""
    c10d = sys.modules.get("torch._C._distributed_c10d")
    dump = getattr(c10d, "_dump_nccl_trace_json", None) or getattr(c10d, "_dump_fr_trace_json", None)
    recorded = dump() if dump else b""
    if not recorded:
        return
    folder = run_dir / "stacks"
    folder.mkdir(exist_ok=True)
    data = recorded if isinstance(recorded, bytes) else str(recorded).encode()
    (folder / f"rank{rank:05d}.collectives.json").write_bytes(data)


def _root(error: BaseException) -> BaseException:
    """What an exception was raised from, at the beginning of the chain."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
    return error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _speaks_of(texts: tuple[str, ...], text: str) -> bool:
    return any(part in text for part in texts)


def _cuda_bytes(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.search(text)
    return int(float(match[1]) * _UNIT[match[2]]) if match else 0


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
