"""Sizes beyond which a plan would be arithmetic about nothing."""

from __future__ import annotations

from tgsbench.errors import ExitCode, TgsError
from tgsbench.schema.preset import Preset

MAX_TOKENS = 2**34
"""No model has positions for more."""
MAX_GPUS = 1_000_000
_LIMITS = {
    "model.num_layers": 2**14,
    "model.hidden_size": 2**20,
    "model.intermediate_size": 2**22,
    "model.num_query_heads": 2**14,
    "model.head_dim": 2**12,
    "model.vocab_size": 2**24,
    "hardware.num_gpus": MAX_GPUS,
    "workload.seq_len": MAX_TOKENS,
    "training.micro_batch": 2**16,
    "training.accumulation": 2**20,
}
"""A thousand times what has been trained, or more: beyond it stands a slip of the keyboard."""


def check_sizes(preset: Preset) -> None:
    """Raise TgsError naming every size that is absurd."""
    found = []
    for key, limit in _LIMITS.items():
        table, _, name = key.partition(".")
        value = getattr(getattr(preset, table), name)
        if value > limit:
            found.append(f"{key}={value:,}: more than {limit:,} is no plan")
    if found:
        raise TgsError("\n  ".join(found), exit_code=ExitCode.BAD_PRESET)
