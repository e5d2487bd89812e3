"""What only torch can tell of a machine, as `python -m tgsbench.training.torch_info` answers the doctor."""

from __future__ import annotations

from msgspec import Struct


class Answer(Struct, kw_only=True):
    """Base of all answers: the problem, if there was one."""

    problem: str = ""
    """Why there is no answer, or what is amiss; empty where all is well."""


class TorchFacts(Answer, kw_only=True):
    """Versions, devices and kernels; the defaults where torch gave no answer."""

    torch: str = ""
    """Version; empty where torch does not import."""
    cuda_build: str = ""
    """CUDA version that torch was built for; empty for a CPU build."""
    cuda_available: bool = False
    cuda_problem: str = ""
    cudnn: str = ""
    nccl: str = ""
    devices: list[str] = []
    peer_access: bool = True
    """Every pair of devices can read each other's memory."""
    kernels: dict[str, str] = {}
    """Version of each attention kernel that imports."""


class TalkAnswer(Answer, kw_only=True):
    """How fast two ranks exchange bytes all-to-all, or why they do not."""

    backend: str = ""
    num_bytes: int = 0
    """Bytes that each rank holds; half of them cross."""
    seconds: float = 0.0


class HubAnswer(Answer, kw_only=True):
    """Can the corpus be had?"""
