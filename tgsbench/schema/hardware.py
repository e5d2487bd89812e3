"""Peaks of GPUs and links, each with its source."""

from __future__ import annotations

from msgspec import Struct


class Gpu(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One GPU model's datasheet figures."""

    name: str
    matches: list[str]
    """Device names as the driver reports them (substring match, longest first)."""
    bf16_tflops: float
    """Dense bf16 tensor-core peak."""
    memory_gib: float
    memory_gb_per_s: float
    nvlink_gb_per_s: float
    """One direction, per GPU, inside a node."""
    inter_node_gb_per_s: float
    """One direction, per GPU, between nodes: the usual network card of this GPU's servers."""
    host_gb_per_s: float = 25.0
    """PCIe, one direction, per GPU."""
    source: str
