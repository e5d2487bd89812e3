"""What an exception in a rank means to the user."""

from __future__ import annotations

import math
import re
import traceback

import torch

from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema.events import Error

_CUDA_ASKED = re.compile(r"Tried to allocate ([\d.]+) (B|KiB|MiB|GiB)")
_CPU_ASKED = re.compile(r"you tried to allocate (\d+) bytes")
_UNIT = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class LossNotFinite(TgsError):
    """The loss became NaN or infinite: the run's numbers mean nothing."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(
            f"the loss of step {step} is {loss}",
            hint="lower training.lr, or set training.compute_dtype=float32 to see whether bf16 overflows",
            exit_code=ExitCode.INVALID,
        )


def check_finite(step: int, loss: float) -> None:
    """Raise LossNotFinite unless the loss is a number."""
    if not math.isfinite(loss):
        raise LossNotFinite(step, loss)


def describe(error: BaseException) -> Error:
    """The `error` event of an exception: out of memory, refused by our own checks, or a bug."""
    text = "".join(traceback.format_exception(error))
    if isinstance(error, LossNotFinite):
        return Error(kind="nan", msg=error.msg, hint=error.hint, exit_code=error.exit_code)
    if isinstance(error, TgsError):
        return Error(kind="refused", msg=error.msg, hint=error.hint, exit_code=error.exit_code)
    if isinstance(error, torch.OutOfMemoryError):
        return Error(
            kind="oom",
            msg=_first_line(error),
            traceback=text,
            bytes_requested=_cuda_asked(str(error)),
            exit_code=ExitCode.OOM,
        )
    asked = _CPU_ASKED.search(str(error))
    if isinstance(error, MemoryError) or asked:
        return Error(
            kind="host_oom",
            msg=_first_line(error) or "host memory is exhausted",
            traceback=text,
            bytes_requested=int(asked[1]) if asked else 0,
            exit_code=ExitCode.OOM,
        )
    msg = f"{type(error).__name__}: {_first_line(error)}"
    return Error(kind="exception", msg=msg, traceback=text, exit_code=ExitCode.CRASHED)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _cuda_asked(text: str) -> int:
    match = _CUDA_ASKED.search(text)
    return int(float(match[1]) * _UNIT[match[2]]) if match else 0
