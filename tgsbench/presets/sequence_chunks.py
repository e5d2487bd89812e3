"""Rules of layers that take a sequence in chunks through host memory: models, meshes and lengths that can."""

from __future__ import annotations

import math

from tgsbench.models.registry import find_family
from tgsbench.schema.preset import Preset
from tgsbench.systems.whole_layers import FAMILIES, can_be_chunked, families_in_words

KERNELS = ("auto", "sdpa", "varlen")
"""Of `engine.kernel`: blocks of keys run torch's own flash attention."""
MOST = 4096
"""Beyond it a sequence of 128k tokens has chunks of 32, and launches are all that a layer does."""


def chunk_problems(preset: Preset) -> list[str]:
    """Every rule that a preset with several chunks breaks, each with the nearest that can."""
    chunks = preset.engine.sequence_chunks
    if chunks == 1:
        return []
    if not 1 < chunks <= MOST:
        near = 1 if chunks < 1 else MOST
        return [f"engine.sequence_chunks={chunks}: must be from 1 to {MOST}; nearest: {near}"]
    named = f"engine.sequence_chunks={chunks}"
    return [f"{named}: {why}" for why in (*_of_model(preset), *_of_mesh(preset), *_of_engine(preset))]


def valid_chunks(preset: Preset) -> list[int]:
    """Numbers of chunks that divide a rank's tokens, ascending."""
    local = preset.local_seq_len
    return [n for n in range(1, min(local, MOST) + 1) if local % n == 0]


CHUNK_TOKENS = 65_536
"""Of a rank: enough that the meeting of two chunks takes ten times as long as their keys do over PCIe.

Of Llama3-8B on an H100: 4·t²·a·d FLOPs at 351 TFLOPs are 200 ms, 8 KiB a token at 50 GB/s are 11 ms.
"""


LEAST_TOKENS = 8_192
"""Of a rank in a chunk, however many ranks share it: 32 such chunks of Llama3-8B on 8 virtual H100 took 1.6 %
longer than 4 of eight times as many, and 10.9 GiB for 18.0; all copies were hidden in both."""


def fewest_chunks(preset: Preset) -> int:
    """The fewest chunks of at most CHUNK_TOKENS a rank; 1: it has no more, or its layers take no chunks."""
    return _chunks_of(CHUNK_TOKENS, preset)


def most_chunks(preset: Preset) -> int:
    """The most chunks that are worth it, where no memory is left for fewer; see `least_tokens`."""
    return _chunks_of(least_tokens(preset), preset)


def least_tokens(preset: Preset) -> int:
    """Tokens of a rank in the smallest chunk that still hides its keys.

    A chunk that ranks share is longer in attention by their number; so are its keys where they are copied.
    """
    return max(LEAST_TOKENS, CHUNK_TOKENS // min(preset.ulysses, preset.model.num_kv_heads))


def _chunks_of(tokens: int, preset: Preset) -> int:
    least = -(-preset.training.micro_batch * preset.local_seq_len // tokens)
    if least == 1 or not (preset.engine.has_sequence_chunks and can_be_chunked(preset)):
        return 1
    return next((n for n in valid_chunks(preset) if n >= least), 1)


def _of_model(preset: Preset) -> list[str]:
    model = preset.model
    if model.family in FAMILIES:
        return []
    of, able = find_family(model.family).name, families_in_words()
    return [f"layers of {of} take a sequence whole, only those of {able} take chunks; nearest: 1"]


def _of_mesh(preset: Preset) -> list[str]:
    problems, sp = [], preset.parallel.sp
    if preset.ring > 1:
        problems.append(
            f"keys come from earlier chunks, those of a ring (parallel.ring={preset.ring}) from other ranks; "
            "nearest: 1, or parallel.ring=1 with an sp that the heads allow"
        )
    if preset.local_seq_len % preset.engine.sequence_chunks:
        near = sorted(valid_chunks(preset), key=lambda n: abs(math.log2(n / preset.engine.sequence_chunks)))
        problems.append(
            f"the {preset.local_seq_len} tokens of a rank (seq_len / sp {sp}) are not divisible by it; "
            f"nearest: {', '.join(map(str, sorted(near[:2])))}"
        )
    return problems


def _of_engine(preset: Preset) -> list[str]:
    engine, training = preset.engine, preset.training
    problems = [
        f"its layers are one function each; nearest: engine.{name}=false, or 1"
        for name in ("compile", "liger")
        if getattr(engine, name)
    ]
    if training.checkpointing == "none":
        problems.append(
            'what a layer computes is there for one chunk alone; nearest: training.checkpointing="full" or '
            '"selective", or 1'
        )
    if engine.kernel not in KERNELS:
        problems.append(
            f'blocks of keys run torch\'s own flash attention, not engine.kernel="{engine.kernel}"; '
            'nearest: "auto"'
        )
    if preset.hardware.device == "cuda" and training.compute_dtype != "bfloat16":
        problems.append('its GPU kernels take training.compute_dtype="bfloat16" alone; nearest: that, or 1')
    return problems
