"""A capture recipe: what the profiler records, and in which ranks and steps."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of profiles/."""

    name: str
    description: str = ""
    ranks: Literal["all", "first", "first_and_slowest"] = "all"
    warmup_steps: int = 1
    active_steps: int = 2
    with_stack: bool = False
    record_shapes: bool = False
    profile_memory: bool = False
    memory_snapshot: bool = False
