"""Is the measured thing right: every token once, every all-to-all fired, with the bytes it must have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from tgsbench import units
from tgsbench.metrics.step_total import StepTotal
from tgsbench.models.registry import find_family
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Integrity
from tgsbench.systems.fsdp_units import (
    fsdp_units,
    is_sharded_by_fsdp,
    num_copy_sums,
    num_gathers,
    num_scatters,
)
from tgsbench.systems.kv_hops import kv_nodes
from tgsbench.systems.ring_steps import messages
from tgsbench.systems.whole_layers import exchanges_of_a_pass, head_parts, runs_whole_layers

ELEMENT_BYTES = {"bfloat16": 2, "float32": 4}


def expected_all_to_alls(preset: Preset) -> tuple[int, int]:
    """All-to-all calls and bytes of one rank in one optimizer step.

    A layer's forward makes one call with q, k, v (KV repeated only up to sp) and one with the output
    (ALST: one each for q, k, v; a whole layer: one for k and v, and for each part of the heads one with q and
    one with the output, all that for each chunk of the sequence); the backward mirrors them; full
    checkpointing runs the forward's again, selective checkpointing saves their results. Bytes include the
    share a rank keeps. Where keys and values go between nodes first, these are their second hops, of as many
    bytes; see `expected_kv_hops`.
    """
    sp, shape = preset.ulysses, preset.model
    if sp == 1:
        return 0, 0
    passes = _passes(preset)
    widths = find_family(shape.family).exchange_widths(shape, sp)
    rows = preset.training.micro_batch * preset.local_seq_len
    values = rows * sum(before + after for before, after in widths)
    num_bytes = values * ELEMENT_BYTES[preset.training.compute_dtype]
    calls = (4 if preset.attention == "alst" else 2) * len(widths)
    if runs_whole_layers(preset):
        calls = exchanges_of_a_pass(head_parts(preset)) * len(widths) * preset.engine.sequence_chunks
    times = passes * preset.accumulation
    return times * calls, times * num_bytes


def _passes(preset: Preset) -> int:
    """Forward and backward, and the forward again where nothing is saved."""
    return 3 if preset.training.checkpointing == "full" else 2


def expected_kv_hops(preset: Preset) -> tuple[int, int]:
    """All-to-alls of keys and values between nodes, and their bytes, of one rank in one optimizer step.

    One a layer, chunk of the sequence and pass: each node gets a head once, and copies it inside.
    """
    nodes, shape = kv_nodes(preset), preset.model
    if nodes == 1:
        return 0, 0
    times = _passes(preset) * preset.accumulation * shape.num_layers
    values = preset.training.micro_batch * preset.local_seq_len * 2 * max(shape.num_kv_heads, nodes)
    num_bytes = values * shape.head_dim * ELEMENT_BYTES[preset.training.compute_dtype]
    return times * preset.engine.sequence_chunks, times * num_bytes


_GRADIENT_BYTES = 4
"""Of keys and values, which are summed on their way."""


def expected_ring_sends(preset: Preset) -> tuple[int, int]:
    """Messages and bytes that one rank sends round its ring in one optimizer step.

    In a layer's forward keys and values make r - 1 hops in a ring of r; in its backward as many again, and
    their gradients in fp32 make r. In a layer with a window they go straight to the members that need them,
    as `messages` counts, and gradients straight back. Full checkpointing runs the forward's again.
    """
    ring = preset.ring
    if ring == 1:
        return 0, 0
    family, passes = find_family(preset.model.family), _passes(preset)
    windows = family.ring_windows(preset.model)
    rows, of_value = preset.training.micro_batch * preset.workload.seq_len // ring, ELEMENT_BYTES
    calls = num_bytes = 0
    for width, window in zip(family.ring_widths(preset.model, preset.ulysses), windows, strict=True):
        keys, gradients = messages(preset.workload.seq_len, ring, window)
        calls += passes * keys + gradients
        in_layer = passes * keys * of_value[preset.training.compute_dtype] + gradients * _GRADIENT_BYTES
        num_bytes += rows * width * in_layer
    return preset.accumulation * calls, preset.accumulation * num_bytes


_COUNT_BYTES = 8
"""A rank tells another how many rows of each of its experts come."""


def expected_expert_exchanges(preset: Preset) -> tuple[int, int]:
    """All-to-alls of experts of one rank in one optimizer step, and their bytes in the mean of all ranks.

    In a layer's forward each token goes to its experts' ranks and comes back, once for each expert; the
    backward mirrors that, and a checkpoint of either kind runs the forward's again: what they bring is too
    large to keep. Before it ranks tell each other how many come, unless tokens are dealt in turn.
    """
    experts, shape = preset.model.experts, preset.model
    if preset.parallel.ep == 1 or experts is None:
        return 0, 0
    forwards = 1 if preset.training.checkpointing == "none" else 2
    rows = preset.training.micro_batch * preset.local_seq_len * experts.used
    sent = rows * shape.hidden_size * ELEMENT_BYTES[preset.training.compute_dtype]
    told = forwards if preset.training.routing == "learned" else 0
    times = preset.accumulation * (shape.num_layers - experts.dense_first)
    exchanges = 2 * (forwards + 1)
    return times * (exchanges + told), times * (exchanges * sent + told * experts.num * _COUNT_BYTES)


class ShardCollective(NamedTuple):
    """What one of FSDP's units asks for in an optimizer step, of one rank."""

    kind: Literal["all_gather", "reduce_scatter", "all_reduce"]
    """Of its parameters, of its gradients, or of this rank's shards of these over the copies."""
    ranks: int
    """That take part in one call."""
    calls: int
    num_bytes: int
    """Of all calls: what they make whole, or what goes into them."""


def shard_collectives(preset: Preset, has_more: bool = False) -> Iterator[ShardCollective]:
    """All that FSDP sends; nothing of another engine. `has_more`: see `fsdp_units`."""
    compute, reduced = ELEMENT_BYTES[preset.training.compute_dtype], ELEMENT_BYTES[preset.reduce_dtype]
    for unit in fsdp_units(preset, has_more) if is_sharded_by_fsdp(preset) else []:
        gathers, scatters, sums = (
            unit.num * times(preset, unit) for times in (num_gathers, num_scatters, num_copy_sums)
        )
        yield ShardCollective("all_gather", unit.ranks, gathers, gathers * compute * unit.values)
        yield ShardCollective("reduce_scatter", unit.ranks, scatters, scatters * reduced * unit.values)
        yield ShardCollective("all_reduce", unit.copies, sums, sums * reduced * unit.shard)


def expected_gathers(preset: Preset, has_more: bool = False) -> tuple[int, int]:
    """Gathers of parameters of one rank in one optimizer step, and the bytes of what they make whole.

    `has_more`: behind these layers are some that do not run.
    """
    return _of_kind("all_gather", preset, has_more)


def expected_scatters(preset: Preset) -> tuple[int, int]:
    """Reduce-scatters of gradients of one rank in one optimizer step, and the bytes that go into them."""
    return _of_kind("reduce_scatter", preset)


def expected_copy_sums(preset: Preset) -> tuple[int, int]:
    """All-reduces over copies of a rank's shards of the gradients in one optimizer step, and their bytes."""
    return _of_kind("all_reduce", preset)


def _of_kind(kind: str, preset: Preset, has_more: bool = False) -> tuple[int, int]:
    found = [each for each in shard_collectives(preset, has_more) if each.kind == kind]
    return sum(each.calls for each in found), sum(each.num_bytes for each in found)


class _Odd(Struct):
    """Steps of which something is not as it must be."""

    num: int = 0
    first: int = 0

    def count(self, step: int, is_odd: bool) -> None:
        """Look at one more step."""
        if is_odd:
            self.first = step if not self.num else self.first
            self.num += 1

    def __str__(self) -> str:
        return f" ({units.counted(self.num, 'step')}, the first is step {self.first})"


def check(preset: Preset, steps: Sequence[StepTotal], tokens_padded: int) -> Integrity:
    """Compare what the ranks saw over the measured `steps` with what the preset demands.

    Tokens: those counted for TGS against the lengths of the packs, and the ids that reached the embedding
    against those of the packs; step by step, for what one step lacks, another must not make up for.
    All-to-alls: calls and bytes at the process groups against the shapes.
    """
    result, miscounted, misfed = Integrity(), _Odd(), _Odd()
    wanted = preset.tokens_per_step
    for s in steps:
        demanded = min(wanted, s.pack_tokens) if tokens_padded else wanted
        result.tokens_seen += s.tokens
        result.tokens_expected += demanded
        miscounted.count(s.step, s.tokens != demanded)
        misfed.count(s.step, s.seen_checksum != s.pack_checksum)
    if miscounted.num:
        result.problems.append(
            f"tokens: {result.tokens_seen:,} distinct tokens were trained where {result.tokens_expected:,} "
            f"are in the packs{miscounted}"
        )
    if misfed.num:
        what = "those that reached the embedding do not add up to the packs"
        result.problems.append(f"tokens: {what}{misfed}")
    result.tokens_ok = not result.problems if steps else None
    _judge_all_to_alls(result, preset, steps, preset.world_size)
    _judge_ring(result, preset, steps, preset.world_size)
    _judge_experts(result, preset, steps, preset.world_size)
    _judge_hops(result, preset, steps, preset.world_size)
    _judge_shards(result, preset, steps, preset.world_size)
    return result


def check_exchanges(preset: Preset, steps: Sequence[StepTotal], num_ranks: int) -> Integrity:
    """Compare only what the ranks that ran sent with what the preset demands of as many."""
    result = Integrity()
    _judge_all_to_alls(result, preset, steps, num_ranks)
    _judge_ring(result, preset, steps, num_ranks)
    _judge_hops(result, preset, steps, num_ranks)
    _judge_shards(result, preset, steps, num_ranks)
    if preset.training.routing == "uniform":  # else bytes are known of all ranks together alone
        _judge_experts(result, preset, steps, num_ranks)
    return result


def _judge_all_to_alls(result: Integrity, preset: Preset, steps: Sequence[StepTotal], num_ranks: int) -> None:
    calls, num_bytes = (num_ranks * of_one for of_one in expected_all_to_alls(preset))
    miscalled, missent = _Odd(), _Odd()
    for s in steps:
        result.a2a_calls += s.a2a_calls
        result.a2a_bytes += s.a2a_bytes
        miscalled.count(s.step, s.a2a_calls != calls)
        missent.count(s.step, s.a2a_bytes != num_bytes)
    result.a2a_calls_expected, result.a2a_bytes_expected = len(steps) * calls, len(steps) * num_bytes
    if miscalled.num:
        result.problems.append(
            f"all-to-alls: {result.a2a_calls:,} all-to-alls ran where {result.a2a_calls_expected:,} must have"
            f"{miscalled}"
        )
    if missent.num:
        result.problems.append(
            f"all-to-alls: {result.a2a_bytes:,} bytes went where {result.a2a_bytes_expected:,} follow from "
            f"the shapes{missent}"
        )
    result.a2a_ok = not (miscalled.num or missent.num) if steps else None


class _Sent(Struct):
    """Calls and bytes of all steps, those that must have been, and the steps that differ."""

    calls: int
    num_bytes: int
    calls_expected: int
    bytes_expected: int
    wrong: _Odd

    @property
    def is_right(self) -> bool | None:
        """None where nothing was sent and nothing had to be."""
        return not self.wrong.num if self.calls_expected or self.wrong.num else None

    def tell(self, result: Integrity, name: str) -> None:
        """Write the four figures into the fields whose names begin so."""
        figures = {
            "calls": self.calls,
            "calls_expected": self.calls_expected,
            "bytes": self.num_bytes,
            "bytes_expected": self.bytes_expected,
        }
        for field, value in figures.items():
            setattr(result, f"{name}_{field}", value)

    def problems(self, subject: str, kind: str, went: str) -> list[str]:
        """What was sent where other follows from the shapes, or nothing."""
        if not self.wrong.num:
            return []
        return [
            f"{subject}: {self.calls:,} {kind} of {self.num_bytes:,} bytes {went} where "
            f"{self.calls_expected:,} of {self.bytes_expected:,} follow from the shapes{self.wrong}"
        ]


def _sent(
    steps: Sequence[StepTotal],
    of_step: Callable[[StepTotal], tuple[int, int]],
    of_rank: tuple[int, int],
    num_ranks: int,
) -> _Sent:
    """Compare calls and bytes of each step, over all ranks, with those that a rank must make in the mean."""
    demanded = (num_ranks * of_rank[0], num_ranks * of_rank[1])
    num_calls, total_bytes, wrong = 0, 0, _Odd()
    for s in steps:  # no list of them: of 800,000 steps it took 93 MB
        calls, num_bytes = of_step(s)
        num_calls, total_bytes = num_calls + calls, total_bytes + num_bytes
        wrong.count(s.step, (calls, num_bytes) != demanded)
    return _Sent(
        calls=num_calls,
        num_bytes=total_bytes,
        calls_expected=len(steps) * demanded[0],
        bytes_expected=len(steps) * demanded[1],
        wrong=wrong,
    )


def _judge_ring(result: Integrity, preset: Preset, steps: Sequence[StepTotal], num_ranks: int) -> None:
    """Messages and bytes of each step; without a ring there must be none."""
    sent = _sent(steps, lambda s: (s.ring_calls, s.ring_bytes), expected_ring_sends(preset), num_ranks)
    sent.tell(result, "ring")
    result.ring_ok = sent.is_right
    result.problems += sent.problems("ring", "messages", "were sent")


def _judge_experts(result: Integrity, preset: Preset, steps: Sequence[StepTotal], num_ranks: int) -> None:
    """Calls and bytes of each step, over all ranks: what one sends more another sends less."""
    demanded = expected_expert_exchanges(preset)
    sent = _sent(steps, lambda s: (s.expert_calls, s.expert_bytes), demanded, num_ranks)
    sent.tell(result, "expert")
    result.experts_ok = sent.is_right
    result.problems += sent.problems("experts", "all-to-alls", "took tokens to their experts and back")


def _judge_hops(result: Integrity, preset: Preset, steps: Sequence[StepTotal], num_ranks: int) -> None:
    """Calls and bytes of each step; where keys and values go straight to every rank there must be none."""
    sent = _sent(steps, lambda s: (s.hop_calls, s.hop_bytes), expected_kv_hops(preset), num_ranks)
    sent.tell(result, "hop")
    result.hops_ok = sent.is_right
    result.problems += sent.problems("keys and values", "all-to-alls", "went between nodes")


def _judge_shards(result: Integrity, preset: Preset, steps: Sequence[StepTotal], num_ranks: int) -> None:
    """Gathers, scatters and sums over copies of each step, where FSDP shards and a rank told of them."""
    if not is_sharded_by_fsdp(preset) or not any(s.tells_shards for s in steps):
        return
    gathers = _sent(steps, lambda s: (s.gather_calls, s.gather_bytes), expected_gathers(preset), num_ranks)
    scatters = _sent(
        steps, lambda s: (s.scatter_calls, s.scatter_bytes), expected_scatters(preset), num_ranks
    )
    sums = _sent(steps, lambda s: (s.copy_calls, s.copy_bytes), expected_copy_sums(preset), num_ranks)
    for name, sent in (("gather", gathers), ("scatter", scatters), ("copy", sums)):
        sent.tell(result, name)
    result.shards_ok = not any(sent.wrong.num for sent in (gathers, scatters, sums))
    result.problems += gathers.problems("shards", "gathers", "made parameters whole")
    result.problems += scatters.problems("shards", "reduce-scatters", "took gradients")
    result.problems += sums.problems("shards", "all-reduces", "summed gradients over copies")


def integrity_text(integrity: Integrity) -> str:
    """What the checks of a run said, in a word or with its problems."""
    if integrity.problems:
        return "failed: " + "; ".join(integrity.problems)
    return "ok" if integrity.tokens_ok else "not checked"
