"""What only torch can tell of this machine, for the doctor: `python -m tgsbench.training.torch_info WHAT`.

Prints one JSON object on the last line of stdout. `facts`: versions, devices, kernels. `talk`: two ranks
exchange bytes all-to-all and measure their bandwidth. `hub`: can the corpus be had?
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import msgspec

from tgsbench.schema.torch_answers import Answer, HubAnswer, TalkAnswer, TorchFacts
from tgsbench.system.child import child_environment, module_argv
from tgsbench.system.tracebacks import root_cause

_NUM_BYTES = 64 << 20
_ROUNDS = 5
_TIMEOUT_S = 90
_KERNELS = ("sdpa", "cudnn", "varlen", "flash2", "flash3", "flash4")


def main() -> None:
    """Answer one question."""
    answers: dict[str, Callable[[], Answer | None]] = {
        "facts": facts,
        "talk": talk,
        "hub": hub,
        "rank": _rank,
    }
    found = answers[sys.argv[1]]()
    if found is not None:
        print(msgspec.json.encode(found).decode())


def facts() -> TorchFacts:
    """Versions of torch, CUDA, cuDNN and NCCL, the devices, and which attention kernels import."""
    import torch

    available = torch.cuda.is_available()
    return TorchFacts(
        torch=str(torch.__version__),
        cuda_build=torch.version.cuda or "",
        cuda_available=available,
        cuda_problem="" if available else _cuda_problem(),
        cudnn=_cudnn(),
        nccl=".".join(map(str, torch.cuda.nccl.version())) if available else "",
        devices=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        peer_access=_peer_access(),
        kernels=_kernels("cuda" if available else "cpu"),
    )


def hub() -> HubAnswer:
    """Why the Alpaca corpus cannot be had, or an empty problem."""
    from tgsbench.workload import hub as corpus_hub

    try:
        corpus_hub.require()
    except corpus_hub.HubUnavailable as error:
        return HubAnswer(problem=str(error))
    return HubAnswer()


def talk() -> TalkAnswer:
    """Two ranks, all-to-all over NCCL where there are two GPUs, else over gloo."""
    import torch

    backend = "nccl" if torch.cuda.device_count() >= 2 else "gloo"
    with tempfile.TemporaryDirectory(prefix="tgsbench-") as folder:
        env = dict(child_environment(), TGSBENCH_PROBE=f"{folder}/store", TGSBENCH_PROBE_BACKEND=backend)
        env.setdefault("GLOO_SOCKET_IFNAME", "lo")
        ranks = [
            subprocess.Popen(
                module_argv("tgsbench.training.torch_info", "rank"),
                env=dict(env, RANK=str(rank)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        return _heard(ranks, backend)


def _heard(ranks: list[subprocess.Popen[str]], backend: str) -> TalkAnswer:
    deadline_s = time.monotonic() + _TIMEOUT_S
    problem, seconds = "", 0.0
    for process in ranks:
        try:
            out, err = process.communicate(timeout=max(0.1, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            problem = problem or f"no answer within {_TIMEOUT_S} s"
            process.kill()
            process.communicate()
            continue
        if process.returncode:
            problem = problem or root_cause(err) or f"exit code {process.returncode}"
        else:
            seconds = max(seconds, float(out.strip().splitlines()[-1]))
    return TalkAnswer(backend=backend, num_bytes=_NUM_BYTES, seconds=seconds, problem=problem)


def _rank() -> None:
    import torch
    import torch.distributed as dist

    rank, backend = int(os.environ["RANK"]), os.environ["TGSBENCH_PROBE_BACKEND"]
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    dist.init_process_group(
        backend,
        init_method=f"file://{os.environ['TGSBENCH_PROBE']}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=_TIMEOUT_S),
    )
    sent = torch.full((_NUM_BYTES,), rank, dtype=torch.uint8, device=device)
    received = torch.empty_like(sent)
    times_s = []
    for _ in range(_ROUNDS):
        dist.barrier()
        begin_s = time.perf_counter()
        dist.all_to_all_single(received, sent)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times_s.append(time.perf_counter() - begin_s)
    half = _NUM_BYTES // 2
    assert received[0] == 0 and received[half] == 1, "the bytes that came are not those that were sent"
    dist.destroy_process_group()
    print(sorted(times_s)[_ROUNDS // 2])


def _cudnn() -> str:
    """Version of cuDNN, or what is wrong with it: another one found first is refused by torch."""
    import torch

    try:
        return str(torch.backends.cudnn.version() or "")
    except RuntimeError as error:
        return str(error).splitlines()[0]


def _cuda_problem() -> str:
    import torch

    if not torch.version.cuda:
        return "this torch was built for CPUs only"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "no device is visible"


def _peer_access() -> bool:
    """Can every pair of devices read each other's memory?"""
    import torch

    count = torch.cuda.device_count()
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    return all(torch.cuda.can_device_access_peer(a, b) for a, b in pairs)


def _kernels(device: str) -> dict[str, str]:
    """Version of each attention kernel that imports here."""
    import torch

    from tgsbench.errors import TgsError
    from tgsbench.training.attention import kernels

    found = {}
    for name in _KERNELS:
        try:
            found[name] = kernels.make(name, torch.device(device)).version
        except TgsError:
            continue
    return found


if __name__ == "__main__":
    main()
