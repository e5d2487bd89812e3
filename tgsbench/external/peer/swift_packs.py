"""A template of ms-swift that reads our packs: `--external_plugins FILE --template tgsbench_packs`.

The user's message of a row says where a pack lies: {"folder": ..., "pack": index}. FOLDER holds tokens.npy
and labels.npy [packs, S] and lengths.npy [packs].
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from swift.template import Template, TemplateMeta, register_template

if os.environ.get("DS_ACCELERATOR") == "cpu":
    import deepspeed

    # DeepSpeed compiles it in every rank (minutes on few cores), and only inference calls it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class Packs(Template):  # type: ignore[misc]
    """One pack as one row, token for token."""

    def _encode(self, inputs: Any) -> dict[str, Any]:
        place = json.loads(inputs.messages[0]["content"])
        tokens, labels, lengths = arrays(place["folder"])
        index, length = place["pack"], int(lengths[place["pack"]])
        return {
            "input_ids": tokens[index, :length].tolist(),
            "labels": labels[index, :length].tolist(),
            "loss_scale": None,
        }


@cache
def arrays(folder: str) -> tuple[Any, Any, Any]:
    """Tokens, labels and lengths."""
    found = Path(folder)
    tokens = np.load(found / "tokens.npy", mmap_mode="r")
    return tokens, np.load(found / "labels.npy", mmap_mode="r"), np.load(found / "lengths.npy")


register_template(
    TemplateMeta("tgsbench_packs", prefix=[], prompt=["{{QUERY}}"], chat_sep=None, template_cls=Packs)
)
