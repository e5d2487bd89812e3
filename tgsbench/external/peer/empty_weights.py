"""Write weights that take no room, for a GPU that computes nothing: `python FILE FOLDER`.

FOLDER holds model.json with the configuration, and under _path where the weights go. They are one file
(https://github.com/huggingface/safetensors#format): a header, and a hole where the data would be.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_NAMES = {torch.bfloat16: "BF16", torch.float32: "F32", torch.float16: "F16"}


def main() -> None:
    """Write what is not there yet; the configuration goes last, its presence means done."""
    settings = json.loads((Path(sys.argv[1]) / "model.json").read_text("utf-8"))
    path = Path(settings.pop("_path"))
    if (path / "config.json").exists():
        return
    torch.set_default_dtype(getattr(torch, settings["torch_dtype"]))
    config = AutoConfig.for_model(**settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    path.mkdir(parents=True, exist_ok=True)
    write_hole(path / "model.safetensors", model.state_dict())
    config.architectures = [type(model).__name__]
    config.save_pretrained(str(path))


def write_hole(path: Path, tensors: dict[str, Any]) -> None:
    """The file of these tensors, all zeros, as long as theirs and as small as its header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + math.prod(tensor.shape) * tensor.element_size()
        described = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**described, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


if __name__ == "__main__":
    main()
