"""Random tokens whose document lengths follow the Alpaca length distribution."""

from __future__ import annotations

import json
import math

import numpy as np

from tgsbench.presets import catalog
from tgsbench.schema.preset import Preset
from tgsbench.workload.documents import Documents, Int64, from_parts

ALPACA_DOCUMENTS = 52_002
"""Rows of tatsu-lab/alpaca."""
MAX_DOCUMENTS = 6 * ALPACA_DOCUMENTS
"""The reference's corpus, Alpaca six times: 30 M tokens, 121 MB; longer runs wrap around, as its do."""
_MAX_TOKENS = 1 << 27
"""Drawn at most where documents are long, but for a sequence that takes more: half a gigabyte."""
_FIRST_RANDOM_ID = 3
"""Ids below are special tokens in the Llama vocabularies."""


def read_distribution() -> tuple[Int64, Int64, int]:
    """Prompt and output lengths of real Alpaca documents, int64 [5000] each, and the template's tokens."""
    path = catalog.shipped("presets") / "references" / "alpaca_llama2_lengths.json"
    document = json.loads(path.read_text("utf-8"))
    return np.array(document["prompt"]), np.array(document["output"]), int(document["overhead"])


def documents_needed(preset: Preset, num_packs: int) -> int:
    """Documents to draw before they are repeated `concat` times: a power of two, or the cap."""
    workload = preset.workload
    if workload.packing == "xtuner_stock":
        return ALPACA_DOCUMENTS
    prompt, output, overhead = read_distribution()
    return documents_for(preset, num_packs, float((prompt + output).mean()) + overhead)


def documents_for(preset: Preset, num_packs: int, mean: float, longest: int = 0) -> int:
    """Documents to draw of lengths with this mean; the further the longest, the more their sum varies."""
    workload = preset.workload
    # 5 % and 64 documents above the mean: the total of n drawn lengths varies by about 80 · sqrt(n).
    per_token = 1.05 / mean / workload.concat
    spare = 64 + 8 * longest / mean
    wanted = num_packs * workload.seq_len * per_token + spare
    one_pack = workload.seq_len * per_token + spare
    most = min(MAX_DOCUMENTS, int(_MAX_TOKENS / mean))
    cap = max(most // workload.concat, math.ceil(one_pack))
    return max(1, min(cap, 1 << math.ceil(math.log2(wanted))))


def draw_documents(num_documents: int, vocab_size: int, seed: int) -> Documents:
    """Draw lengths with replacement, and tokens uniformly below `vocab_size`."""
    prompt, output, overhead = read_distribution()
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(prompt), size=num_documents)
    num_ignored = prompt[drawn] + 1
    num_labels = output[drawn] + 1
    lengths = prompt[drawn] + output[drawn] + overhead
    low = min(_FIRST_RANDOM_ID, vocab_size - 1)
    tokens = rng.integers(low, vocab_size, size=int(lengths.sum()), dtype=np.int32)
    return from_parts(tokens, lengths, num_ignored, num_labels)
