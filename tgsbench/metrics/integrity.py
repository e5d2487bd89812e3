"""Is the measured thing right: every token once, every all-to-all fired, with the bytes it must have."""

from __future__ import annotations

from collections.abc import Sequence

from tgsbench.metrics.step_total import StepTotal
from tgsbench.schema.preset import Preset
from tgsbench.schema.run import Integrity

_ELEMENT_BYTES = {"bfloat16": 2, "float32": 4}


def expected_all_to_alls(preset: Preset) -> tuple[int, int]:
    """All-to-all calls and bytes of one rank in one optimizer step.

    A layer's forward makes one call with q, k, v (KV repeated only up to sp) and one with the output
    (ALST: one each for q, k, v); the backward mirrors them; full checkpointing runs the forward's again,
    selective checkpointing saves their results. Bytes include the share a rank keeps.
    """
    sp, shape = preset.parallel.sp, preset.model
    if sp == 1:
        return 0, 0
    passes = 3 if preset.training.checkpointing == "full" else 2
    kv_heads = max(shape.num_kv_heads, sp)
    rows = preset.training.micro_batch * preset.local_seq_len
    heads = 2 * shape.num_query_heads + 2 * kv_heads
    num_bytes = rows * heads * shape.head_dim * _ELEMENT_BYTES[preset.training.compute_dtype]
    calls = 4 if preset.attention == "alst" else 2
    times = passes * shape.num_layers * preset.accumulation
    return times * calls, times * num_bytes


def check(preset: Preset, steps: Sequence[StepTotal], tokens_padded: int) -> Integrity:
    """Compare what the ranks saw over `steps` with what the preset demands."""
    calls, num_bytes = expected_all_to_alls(preset)
    per_run = len(steps) * preset.world_size
    result = Integrity(
        tokens_seen=sum(s.tokens for s in steps),
        tokens_expected=len(steps) * preset.tokens_per_step,
        a2a_calls=sum(s.a2a_calls for s in steps),
        a2a_calls_expected=per_run * calls,
        a2a_bytes=sum(s.a2a_bytes for s in steps),
        a2a_bytes_expected=per_run * num_bytes,
    )
    if tokens_padded:
        result.tokens_expected = min(result.tokens_expected, sum(s.pack_tokens for s in steps))
    if steps:
        _judge(result, steps)
    return result


def check_exchanges(preset: Preset, steps: Sequence[StepTotal], num_ranks: int) -> Integrity:
    """Compare only the all-to-alls of the ranks that ran with what the preset demands of as many."""
    calls, num_bytes = expected_all_to_alls(preset)
    times = len(steps) * num_ranks
    result = Integrity(
        a2a_calls=sum(s.a2a_calls for s in steps),
        a2a_calls_expected=times * calls,
        a2a_bytes=sum(s.a2a_bytes for s in steps),
        a2a_bytes_expected=times * num_bytes,
    )
    if steps:
        _judge_exchanges(result)
    return result


def _judge(result: Integrity, steps: Sequence[StepTotal]) -> None:
    wrong = [s.step for s in steps if s.seen_checksum != s.pack_checksum]
    if result.tokens_seen != result.tokens_expected:
        result.problems.append(
            f"{result.tokens_seen:,} distinct tokens were trained where {result.tokens_expected:,} must be"
        )
    if wrong:
        result.problems.append(
            f"the ranks' shards do not add up to the packs in {len(wrong)} steps (first: step {wrong[0]})"
        )
    result.tokens_ok = not result.problems
    _judge_exchanges(result)


def _judge_exchanges(result: Integrity) -> None:
    calls_ok = result.a2a_calls == result.a2a_calls_expected
    bytes_ok = result.a2a_bytes == result.a2a_bytes_expected
    if not calls_ok:
        result.problems.append(
            f"{result.a2a_calls:,} all-to-alls ran where {result.a2a_calls_expected:,} must have"
        )
    if not bytes_ok:
        result.problems.append(
            f"all-to-alls moved {result.a2a_bytes:,} bytes where {result.a2a_bytes_expected:,} follow "
            "from the shapes"
        )
    result.a2a_ok = calls_ok and bytes_ok
