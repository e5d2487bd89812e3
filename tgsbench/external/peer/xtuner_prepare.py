"""Write what XTuner trains on: packs on disk, random weights: `python FILE FOLDER`.

FOLDER holds tokens.npy and labels.npy [packs, S], lengths.npy [packs], starts.json with the document
starts of each pack (empty without a document mask), model.json with the model's configuration.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM


def main() -> None:
    """Write packs/ and model/."""
    folder = Path(sys.argv[1])
    Dataset.from_list(list(rows(folder))).save_to_disk(str(folder / "packs"))
    config = json.loads((folder / "model.json").read_text("utf-8"))
    path = Path(config.pop("_path"))
    if not (path / "config.json").exists():
        write_model(path, config)


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """One pack after another."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy", mmap_mode="r")
    lengths = np.load(folder / "lengths.npy").tolist()
    starts = json.loads((folder / "starts.json").read_text("utf-8"))
    for index, length in enumerate(lengths):
        row: dict[str, Any] = {"input_ids": tokens[index, :length], "labels": labels[index, :length]}
        if starts:
            edges = np.asarray([*starts[index], length])
            row["cumulative_len"] = edges
            row["position_ids"] = np.concatenate([np.arange(n) for n in np.diff(edges)])
        yield row


def write_model(path: Path, config: dict[str, Any]) -> None:
    """A model of this shape with random weights; the configuration goes last, its presence means done.

    transformers writes it first, so that a run killed meanwhile would leave half a model that looks whole.
    """
    dtype = getattr(torch, config["torch_dtype"])
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    path.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as begun:
        model.save_pretrained(begun)
        for file in sorted(Path(begun).iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(path / file.name)


if __name__ == "__main__":
    main()
