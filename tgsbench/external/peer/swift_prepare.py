"""Write random weights and a tokenizer that ms-swift loads: `python FILE FOLDER`.

FOLDER holds model.json with the model's configuration, and under _path where the weights go.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast


def main() -> None:
    """Write what is not there yet."""
    settings = json.loads((Path(sys.argv[1]) / "model.json").read_text("utf-8"))
    path = Path(settings.pop("_path"))
    if not (path / "config.json").exists():
        write_model(path, settings)
    if not (path / "tokenizer_config.json").exists():
        write_tokenizer(path)


def write_model(path: Path, settings: dict[str, Any]) -> None:
    """A model of this shape with random weights; the configuration goes last, its presence means done.

    transformers writes it first, so that a run killed meanwhile would leave half a model that looks whole.
    """
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, settings["torch_dtype"]))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    path.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as begun:
        model.save_pretrained(begun)
        for file in sorted(Path(begun).iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(path / file.name)


def write_tokenizer(path: Path) -> None:
    """Three words: packs are made of ids, and nothing is tokenized."""
    words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(str(path))


if __name__ == "__main__":
    main()
