"""What one rank's step does when it is run on fake tensors."""

from __future__ import annotations

from msgspec import Struct


class Traffic(Struct, kw_only=True):
    """One collective on one rank; bytes are the larger of what goes in and what comes out."""

    calls: int
    num_bytes: int


class LiveBlock(Struct, kw_only=True):
    """Live tensors of one operator and shape."""

    op: str
    shape: list[int]
    count: int
    num_bytes: int


class DryRun(Struct, kw_only=True):
    """A steady-state micro-step of rank 0: its operators, its collectives, its peak of live tensors."""

    preset: str
    world_size: int
    sp: int
    flops: dict[str, int]
    """FLOPs by operator in one micro-step; attention counts the causal half, its backward 2.5 times that."""
    collectives: dict[str, Traffic]
    """Of one micro-step."""
    optimizer_collectives: dict[str, Traffic]
    num_ops: int
    moved_bytes: dict[str, int]
    """What operators other than products, attention and collectives read and write, by operator."""
    peak_bytes: int
    """Largest sum of live tensors in the micro-step: the optimizer step holds nothing that it does not."""
    peak_op: str
    at_peak: dict[str, int]
    largest: list[LiveBlock]
    torch: str
    wall_s: float = 0.0
