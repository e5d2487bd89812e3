"""XTuner's side of the data benchmark: its own `process_hf_dataset`, from a JSON lines file to packs.

Arguments: data, tokenizer folder, cache folder, sequence length, processes. Runs in an environment of its own
and prints one JSON line: seconds without imports, tokens in packs, packs.
"""

import importlib
import importlib.util
import json
import sys
import time
import types
from pathlib import Path


def load_xtuner():
    """XTuner's dataset modules as they are, without the package __init__ files that import torch."""
    for name in ("torch", "torch.distributed"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torch"].distributed = sys.modules["torch.distributed"]
    sys.modules["torch.distributed"].is_available = lambda: False
    root = Path(importlib.util.find_spec("xtuner").origin).parent
    maps = ("xtuner.dataset.map_fns", "xtuner.dataset.map_fns.dataset_map_fns")
    for name in ("xtuner", "xtuner.utils", "xtuner.dataset", *maps):
        bare = types.ModuleType(name)
        bare.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = bare
    for name in ("constants", "templates"):
        vars(sys.modules["xtuner.utils"]).update(vars(importlib.import_module(f"xtuner.utils.{name}")))
    process = importlib.import_module("xtuner.dataset.huggingface").process_hf_dataset
    alpaca = importlib.import_module("xtuner.dataset.map_fns.dataset_map_fns.alpaca_map_fn").alpaca_map_fn
    template = importlib.import_module("xtuner.dataset.map_fns.template_map_fn").template_map_fn_factory
    # datasets takes a module of this name for the real one.
    del sys.modules["torch"], sys.modules["torch.distributed"]
    return process, alpaca, template(sys.modules["xtuner.utils"].PROMPT_TEMPLATE.llama2_chat)


def main():
    import datasets
    from transformers import PreTrainedTokenizerFast

    data, tokenizer_folder, cache, seq_len, processes = sys.argv[1:]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    process, alpaca, template = load_xtuner()
    started = time.perf_counter()
    source = datasets.load_dataset("json", data_files=data, cache_dir=cache)
    packs = process(
        source,
        tokenizer=tokenizer,
        max_length=int(seq_len),
        dataset_map_fn=alpaca,
        template_map_fn=template,
        remove_unused_columns=True,
        map_num_proc=int(processes),
    )
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "tokens": sum(packs["length"]), "packs": len(packs)}))


if __name__ == "__main__":
    main()
