"""Rows that others published."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

XTUNER, LLAMA_FACTORY = "xtuner", "llamafactory"
"""Systems that presets/references holds rows of."""


class ReferenceRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One published measurement of one preset."""

    system: str
    """Who ran it, such as "xtuner" or "llamafactory"."""
    status: Literal["ok", "oom"] = "ok"
    tgs: float | None = None
    tflops: float | None = None
    tflops_convention: str = ""
    gpu: str
    num_gpus: int
    seq_len: int
    sp: int = 1
    ring: int = 1
    """Members of the ring in sp."""
    document_mask: bool = False
    checkpointing: str = "full"
    source: str
    note: str = ""
    """What is known to be odd about the row, such as TFLOPs that do not follow from its TGS."""


class PublishedRows(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of presets/references: rows of one system, each naming its `preset` and its length as "8k"."""

    system: str
    rows: list[dict[str, Any]] = []
