"""What fsdp2 gathers and reduces at once: its units, the values of each, and how often they travel."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from tgsbench.models.family import LayerGroup, ModelFamily, cut_length
from tgsbench.models.registry import find_family
from tgsbench.schema.preset import Preset
from tgsbench.systems.engines import fsdp2
from tgsbench.systems.whole_layers import runs_whole_layers


class Unit(Struct, frozen=True, kw_only=True):
    """Parameters that FSDP gathers by one call, and whose gradients it reduces by another."""

    num: int
    """How many of these there are."""
    values: int
    """Of one, over all its ranks, with what fills up dimensions that do not divide over them."""
    ranks: int
    """That hold one copy of it."""
    copies: int = 1
    """That sum their shards of its gradients."""
    is_gathered_again: bool = True
    """Under ZeRO-3: does the backward need it after the forward gave it up?"""

    @property
    def shard(self) -> int:
        """Values that each rank holds."""
        return self.values // self.ranks


def is_sharded_by_fsdp(preset: Preset) -> bool:
    """Do our ranks shard parameters by FSDP, over more than one?"""
    return preset.engine.name == fsdp2.ENGINE.name and preset.world_size > 1


def keeps_last_layer(preset: Preset) -> bool:
    """Does the last layer stay gathered for its backward, which is next?

    On a CPU, where no stream hides a gather, and a layer is small beside its tokens.
    """
    return preset.hardware.device == "cpu"


def fsdp_units(preset: Preset, has_more: bool = False) -> list[Unit]:
    """The units of a preset's model; see `training.engines.fsdp2` for who makes them.

    `has_more`: behind these layers are some that do not run, as in an emulated rank.

    The head is the last of the forward and the first of the backward, and the embedding's backward needs no
    weights: each is gathered once. Tied they are one, in the root.
    """
    family = find_family(preset.model.family)
    ranks = preset.shard
    return [
        *_layers(preset, family, has_more),
        *(
            Unit(num=1, values=values, ranks=ranks, copies=_copies(preset), is_gathered_again=False)
            for values in _ends(preset, family, ranks)
        ),
    ]


def num_gathers(preset: Preset, unit: Unit) -> int:
    """Times that an optimizer step gathers a unit.

    Under ZeRO-3 in each micro-step's forward, and in its backward where it was given up; else once.
    """
    if unit.ranks == 1:
        return 0
    return preset.accumulation * (1 + unit.is_gathered_again) if preset.engine.zero_stage == 3 else 1


def num_scatters(preset: Preset, unit: Unit) -> int:
    """Times that it reduces and scatters a unit's gradients: in each micro-step, under ZeRO-1 in the last."""
    if unit.ranks == 1:
        return 0
    return preset.accumulation if preset.engine.zero_stage > 1 else 1


def num_copy_sums(preset: Preset, unit: Unit) -> int:
    """Times that copies sum their shards of a unit's gradients: in the last micro-step."""
    return int(unit.copies > 1)


def _copies(preset: Preset) -> int:
    return preset.world_size // preset.shard


def _layers(preset: Preset, family: ModelFamily, has_more: bool) -> Iterator[Unit]:
    ep, ranks, groups = preset.parallel.ep, preset.shard, family.layers(preset.model)
    for group in groups:
        values = group.cut_values(ranks, ep)
        if runs_whole_layers(preset):  # one flat parameter
            values = cut_length(group.parameters, ranks)
        is_last = group is groups[-1]  # all kinds of layers that may be last are as large
        kept = int(is_last and keeps_last_layer(preset) and not has_more)
        for num, again in ((group.num - kept, True), (kept, False)):
            if num:
                yield Unit(
                    num=num, values=values, ranks=ranks, copies=_copies(preset), is_gathered_again=again
                )
        if ep > 1 and group.num_experts:
            yield _experts(group, preset.world_size // ep, ep)


def _experts(group: LayerGroup, ranks: int, ep: int) -> Unit:
    """The experts of one layer that a rank holds, and as many others with it."""
    return Unit(num=group.num, values=group.cut_expert_values(ranks, group.num_experts // ep), ranks=ranks)


def _ends(preset: Preset, family: ModelFamily, ranks: int) -> list[int]:
    """Values of the embedding, and of the last norm with the head; of all together where they are tied."""
    shape = preset.model
    table = cut_length(shape.vocab_size, ranks) * shape.hidden_size
    norm = sum([cut_length(length, ranks) for length in family.last_vectors(shape)])
    return [table + norm] if shape.tie_word_embeddings else [table, table + norm]
