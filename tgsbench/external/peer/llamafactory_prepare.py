"""Pack the corpus as LLaMA-Factory does, keep it, and count what it padded: `python FILE TRAIN.yaml`.

Prints one JSON object on the last line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer


def main() -> None:
    """Tokenize, pack, save to `tokenized_path`."""
    settings = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    settings.pop("deepspeed")  # it would ask for a distributed launch
    model_args, data_args, training_args, _, _ = get_train_args(settings)
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    packs = get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)[
        "train_dataset"
    ]
    print(json.dumps(count(packs, loaded["tokenizer"].pad_token_id)))


def count(packs: Any, pad: int) -> dict[str, float]:
    """Packs, their tokens, how many are padding, and the sum of squared document lengths."""
    num_full = num_tokens = num_padded = squares = 0
    for batch in packs.iter(batch_size=16):
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            real = _without_tail(np.asarray(ids), pad)
            num_full += real == len(ids)
            num_tokens += len(ids)
            num_padded += len(ids) - real
            lengths = np.bincount(np.asarray(mask)[:real])
            squares += int(np.square(lengths.astype(np.float64)).sum())
    return {
        "num_packs": len(packs),
        "num_full": int(num_full),
        "num_tokens": num_tokens,
        "num_padded": num_padded,
        "attended_len": squares / max(1, num_tokens - num_padded),
    }


def _without_tail(ids: Any, pad: int) -> int:
    """Length of a pack without the padding at its end."""
    real = np.flatnonzero(ids != pad)
    return int(real[-1]) + 1 if len(real) else 0


if __name__ == "__main__":
    main()
