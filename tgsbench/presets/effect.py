"""Finds values of a preset that have no effect because of its other values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tgsbench.presets.data_names import corpus_kind
from tgsbench.schema.preset import EngineOptions, Preset, Training, Workload
from tgsbench.systems.kv_hops import can_hop
from tgsbench.systems.whole_layers import can_have_parts, families_in_words

SET: Final = "--set"
"""Origin of a value that was given on the command line."""
WHOLE: Final = f"tgsbench's own, without compile and Liger, of {families_in_words()}"
"""Which layers are whole, in words."""


class Condition(NamedTuple):
    """The other values of a preset under which a key has an effect."""

    key: str
    depends_on: str
    """The key that decides."""
    counts: Callable[[Preset], bool]
    remedy: str
    is_default: Callable[[Preset], bool]


_DEFAULTS = Workload(seq_len=1)


def _workload(key: str) -> Callable[[Preset], bool]:
    return lambda preset: getattr(preset.workload, key) == getattr(_DEFAULTS, key)


CONDITIONS: Final = (
    Condition(
        "workload.file",
        "workload.corpus",
        lambda p: p.workload.corpus == "file",
        "--set workload.corpus=file",
        lambda p: not p.workload.file,
    ),
    Condition(
        "workload.lengths",
        "workload.corpus",
        lambda p: p.workload.corpus == "lengths",
        "--set workload.corpus=lengths",
        _workload("lengths"),
    ),
    Condition(
        "workload.format",
        "workload.corpus",
        lambda p: corpus_kind(p.workload.corpus) in ("file", "hub"),
        "--set workload.corpus=PATH",
        _workload("format"),
    ),
    *(
        Condition(
            f"workload.{key}",
            "workload.corpus",
            lambda p: p.workload.corpus != "lengths",
            "--set workload.corpus=PATH",
            _workload(key),
        )
        for key in ("tokenizer", "labels")
    ),
    *(
        Condition(
            f"workload.{key}",
            "workload.packing",
            lambda p: p.workload.packing == "xtuner_stock",
            "--set workload.packing=xtuner_stock",
            _workload(key),
        )
        for key in ("map_batch_size", "map_num_proc")
    ),
    Condition(
        "training.fp8_recipe",
        "training.linear",
        lambda p: p.training.linear == "fp8",
        "--set training.linear=fp8",
        lambda p: p.training.fp8_recipe == Training().fp8_recipe,
    ),
    Condition(
        "engine.head_parts",
        "engine.compile",
        can_have_parts,
        f"nearest: 0; parts have whole layers ({WHOLE}, sp > 1, no ring, no chunks) "
        "with several query heads a rank, and an even number of KV heads unless it is one",
        lambda p: not getattr(p.engine, "head_parts", 0),
    ),
    Condition(
        "engine.kv_hops",
        "engine.compile",
        can_hop,
        f"nearest: 0; two hops have whole layers ({WHOLE}, no ring) "
        "whose Ulysses ranks fill several nodes and are more than the KV heads",
        lambda p: not getattr(p.engine, "kv_hops", 0),
    ),
    Condition(
        "engine.loss_chunk_tokens",
        "engine.liger",
        lambda p: not p.engine.liger and not p.is_external,
        "--set engine.liger=false, and an engine of tgsbench's own ranks",
        lambda p: p.engine.loss_chunk_tokens == EngineOptions().loss_chunk_tokens,
    ),
)


def idle_values(preset: Preset, origins: Mapping[str, str], source: str) -> list[str]:
    """Problems: values given by `--set` or by the file `source` itself that have no effect.

    What a base preset says may idle in one that extends it, and what a file says where --set took its
    purpose away.
    """
    return [
        f"{condition.key} has no effect here; {condition.remedy} ({origins[condition.key]})"
        for condition in CONDITIONS
        if not condition.is_default(preset)
        and not condition.counts(preset)
        and _is_asked(condition, origins, source)
    ]


def _is_asked(condition: Condition, origins: Mapping[str, str], source: str) -> bool:
    origin = origins.get(condition.key)
    return origin == SET or (origin == source and origins.get(condition.depends_on) != SET)
