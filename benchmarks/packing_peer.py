"""XTuner's side of the packing benchmark; runs in an environment of its own, driven over stdin.

Arguments: the Arrow file of tokenised documents and an empty folder. Each line on stdin is answered by
one JSON line: "round" packs once and times it, "save" packs once more and stores the packs.
"""

import importlib
import importlib.util
import json
import sys
import tempfile
import time
import types
from pathlib import Path

import datasets
import numpy as np

SEQ_LEN = 2**20
# The reference packs with 25,000 documents a batch in one process: with fewer, 1M packs come out short.
BATCH_SIZE = 25_000


def load_packer():
    """XTuner's own Packer, without the package __init__ files that import torch and torchvision."""
    root = Path(importlib.util.find_spec("xtuner").origin).parent
    for name in ("xtuner", "xtuner.utils", "xtuner.dataset"):
        bare = types.ModuleType(name)
        bare.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = bare
    constants = importlib.import_module("xtuner.utils.constants")
    vars(sys.modules["xtuner.utils"]).update(vars(constants))
    return importlib.import_module("xtuner.dataset.utils").Packer


def map_packer(packer, dataset, folder):
    """Pack as xtuner.dataset.huggingface.pack_dataset does; returns the packs and seconds."""
    started = time.perf_counter()
    packs = dataset.map(
        packer(SEQ_LEN, use_varlen_attn=False),
        batched=True,
        batch_size=BATCH_SIZE,
        load_from_cache_file=False,
        cache_file_name=str(Path(folder) / "packs.arrow"),
    )
    return packs, time.perf_counter() - started


def call_packer(packer, dataset):
    """Seconds inside Packer.__call__ alone, its input already Python lists."""
    pack, spent = packer(SEQ_LEN, use_varlen_attn=False), 0.0
    for first in range(0, len(dataset), BATCH_SIZE):
        batch = dataset[first : first + BATCH_SIZE]
        batch = {name: list(batch[name]) for name in ("input_ids", "labels")}
        started = time.perf_counter()
        pack(batch)
        spent += time.perf_counter() - started
    return spent


def save(packs, folder):
    for name in ("input_ids", "labels"):
        column = packs.with_format("numpy")[name]
        np.save(Path(folder) / f"{name}.npy", np.stack([np.asarray(row, np.int32) for row in column]))


def main():
    source, folder = sys.argv[1:]
    datasets.disable_progress_bars()
    packer, dataset = load_packer(), datasets.Dataset.from_file(source)
    for line in sys.stdin:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            packs, map_s = map_packer(packer, dataset, scratch)
            if line.strip() == "save":
                save(packs, folder)
            answer = {"map_s": map_s, "call_s": call_packer(packer, dataset), "num_packs": len(packs)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
