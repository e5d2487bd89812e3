"""Loaded by every Python that has this folder on PYTHONPATH: lets one rank misbehave in one step.

TGSBENCH_TEST_FAULT is a JSON object: rank, step, do. The product knows nothing of it.
"""

import json
import os
import sys
import time


def _fault(do, stepper, index):
    if do == "raise":
        raise ValueError("told to fail\nwith a second line")
    if do == "hang":
        time.sleep(10_000)
    if do == "cuda_oom":
        import torch

        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of "
            "which 1.20 GiB is free. Including non-PyTorch memory, this process has 77.93 GiB memory in use."
        )
    if do == "host_oom":
        import resource

        import torch

        in_use = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (in_use + (64 << 20), resource.RLIM_INFINITY))
        torch.ones(1 << 30)
    if do == "nan":
        for parameter in stepper._engine.model.parameters():
            parameter.data.fill_(float("nan"))
    if do == "segfault":
        import ctypes

        ctypes.string_at(0)
    if do == "exit":
        os._exit(3)
    if do == "exit_0":
        os._exit(0)
    if do == "sys_exit_0":
        sys.exit(0)
    if do == "disk_full":
        _fill_disk()


def _fill_disk():
    """From now on every event is written to a disk that has no room."""
    import errno
    import types

    from tgsbench.events import emitter

    def write(_fd, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    emitter.os = types.SimpleNamespace(write=write)


def _install(fault):
    from tgsbench.training import loop

    step = loop.Stepper.step

    def faulty(self, index, phase):
        if index == fault["step"] and os.environ["RANK"] == str(fault["rank"]):
            _fault(fault["do"], self, index)
        return step(self, index, phase)

    loop.Stepper.step = faulty


def _jump(seconds):
    """From now on the wall clock is wrong; the monotonic one is not."""
    real, begin = time.time, time.monotonic()
    time.time = lambda: real() + (seconds if time.monotonic() - begin > 3 else 0.0)


_told = json.loads(os.environ.get("TGSBENCH_TEST_FAULT", "{}"))
if _told.get("do") == "clock":
    _jump(_told["seconds"])
elif _told and not {"tgsbench.training", "tgsbench.training.agent"}.isdisjoint(sys.orig_argv):
    _install(_told)
