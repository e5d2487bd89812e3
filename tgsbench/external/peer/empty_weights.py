"""Write weights that take no room, for a GPU that computes nothing: `python FILE FOLDER`.

FOLDER holds model.json with the configuration, and under _path where the weights go. They are safetensors
files (https://github.com/huggingface/safetensors#format): a header, and a hole where the data would be.
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
_SHARD_BYTES = 2 << 30
"""A file is closed once it has more."""


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
    write_shards(path, model.state_dict())
    config.architectures = [type(model).__name__]
    config.save_pretrained(str(path))


def write_shards(path: Path, tensors: dict[str, Any]) -> None:
    """All tensors in files of some GiB, and the index that says which has what.

    Linux refuses to map a file larger than the machine's memory as transformers does it.
    """
    shards: list[dict[str, Any]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += num_bytes(tensor)
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_hole(path / file, shard)
        index |= dict.fromkeys(shard, file)
    total = sum(map(num_bytes, tensors.values()))
    document = {"metadata": {"total_size": total}, "weight_map": index}
    (path / "model.safetensors.index.json").write_text(json.dumps(document), "utf-8")


def num_bytes(tensor: Any) -> int:
    """Of a tensor's values."""
    return int(math.prod(tensor.shape) * tensor.element_size())


def write_hole(path: Path, tensors: dict[str, Any]) -> None:
    """The file of these tensors, all zeros, as long as theirs and as small as its header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + num_bytes(tensor)
        described = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape)}
        header[name] = {**described, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


if __name__ == "__main__":
    main()
