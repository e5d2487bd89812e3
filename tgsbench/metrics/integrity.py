"""Is the measured thing right: every token once, every all-to-all fired, with the bytes it must have."""

from __future__ import annotations

from collections.abc import Sequence

from tgsbench import units
from tgsbench.metrics.step_total import StepTotal
from tgsbench.models.registry import find_family
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Integrity
from tgsbench.systems.whole_layers import exchanges_of_a_pass, runs_whole_layers

_ELEMENT_BYTES = {"bfloat16": 2, "float32": 4}


def expected_all_to_alls(preset: Preset) -> tuple[int, int]:
    """All-to-all calls and bytes of one rank in one optimizer step.

    A layer's forward makes one call with q, k, v (KV repeated only up to sp) and one with the output
    (ALST: one each for q, k, v; a whole layer: one for k and v, and for each chunk of heads one with q and
    one with the output); the backward mirrors them; full checkpointing runs the forward's again,
    selective checkpointing saves their results. Bytes include the share a rank keeps.
    """
    sp, shape = preset.parallel.sp, preset.model
    if sp == 1:
        return 0, 0
    passes = 3 if preset.training.checkpointing == "full" else 2
    widths = find_family(shape.family).exchange_widths(shape, sp)
    rows = preset.training.micro_batch * preset.local_seq_len
    values = rows * sum(before + after for before, after in widths)
    num_bytes = values * _ELEMENT_BYTES[preset.training.compute_dtype]
    calls = (4 if preset.attention == "alst" else 2) * len(widths)
    if runs_whole_layers(preset):
        calls = exchanges_of_a_pass(shape, sp) * len(widths)
    times = passes * preset.accumulation
    return times * calls, times * num_bytes


def check(preset: Preset, steps: Sequence[StepTotal], tokens_padded: int) -> Integrity:
    """Compare what the ranks saw over the measured `steps` with what the preset demands.

    Tokens: those counted for TGS against the lengths of the packs, and the ids that reached the embedding
    against those of the packs. All-to-alls: calls and bytes at the process groups against the shapes.
    """
    calls, num_bytes = (preset.world_size * figure for figure in expected_all_to_alls(preset))
    demanded = [
        min(preset.tokens_per_step, s.pack_tokens) if tokens_padded else preset.tokens_per_step for s in steps
    ]
    result = Integrity(
        tokens_seen=sum(s.tokens for s in steps),
        tokens_expected=sum(demanded),
        a2a_calls=sum(s.a2a_calls for s in steps),
        a2a_calls_expected=len(steps) * calls,
        a2a_bytes=sum(s.a2a_bytes for s in steps),
        a2a_bytes_expected=len(steps) * num_bytes,
    )
    if steps:
        _judge_tokens(result, steps, demanded)
        _judge_all_to_alls(result, steps, calls, num_bytes)
    return result


def check_exchanges(preset: Preset, steps: Sequence[StepTotal], num_ranks: int) -> Integrity:
    """Compare only the all-to-alls of the ranks that ran with what the preset demands of as many."""
    calls, num_bytes = (num_ranks * of_one for of_one in expected_all_to_alls(preset))
    result = Integrity(
        a2a_calls=sum(s.a2a_calls for s in steps),
        a2a_calls_expected=len(steps) * calls,
        a2a_bytes=sum(s.a2a_bytes for s in steps),
        a2a_bytes_expected=len(steps) * num_bytes,
    )
    if steps:
        _judge_all_to_alls(result, steps, calls, num_bytes)
    return result


def _judge_tokens(result: Integrity, steps: Sequence[StepTotal], demanded: Sequence[int]) -> None:
    """Step by step: what one step lacks, another must not make up for."""
    miscounted = [s.step for s, right in zip(steps, demanded, strict=True) if s.tokens != right]
    misfed = [s.step for s in steps if s.seen_checksum != s.pack_checksum]
    if miscounted:
        result.problems.append(
            f"tokens: {result.tokens_seen:,} distinct tokens were trained where {result.tokens_expected:,} "
            f"are in the packs{_where(miscounted)}"
        )
    if misfed:
        what = "those that reached the embedding do not add up to the packs"
        result.problems.append(f"tokens: {what}{_where(misfed)}")
    result.tokens_ok = not result.problems


def _judge_all_to_alls(result: Integrity, steps: Sequence[StepTotal], calls: int, num_bytes: int) -> None:
    miscalled = [s.step for s in steps if s.a2a_calls != calls]
    missent = [s.step for s in steps if s.a2a_bytes != num_bytes]
    if miscalled:
        result.problems.append(
            f"all-to-alls: {result.a2a_calls:,} all-to-alls ran where {result.a2a_calls_expected:,} must have"
            + _where(miscalled)
        )
    if missent:
        result.problems.append(
            f"all-to-alls: {result.a2a_bytes:,} bytes went where {result.a2a_bytes_expected:,} follow from "
            f"the shapes{_where(missent)}"
        )
    result.a2a_ok = not (miscalled or missent)


def _where(wrong: Sequence[int]) -> str:
    return f" ({units.counted(len(wrong), 'step')}, the first is step {wrong[0]})"


def integrity_text(integrity: Integrity) -> str:
    """What the checks of a run said, in a word or with its problems."""
    if integrity.problems:
        return "failed: " + "; ".join(integrity.problems)
    return "ok" if integrity.tokens_ok else "not checked"
