#!/usr/bin/env bash
# LLaMA-Factory's v1 trainer starts from rotary frequencies that are whatever memory held.
#
# Expected: init_config: {name: init_on_rank0} gives all ranks rank 0's model, frequencies included, as init_on_meta
#           gives them the checkpoint's.
# Happens:  the model is emptied onto the device and filled from rank 0's state dict, which has no buffers that are
#           not saved: each rank keeps uninitialised inverse frequencies. The loss is NaN, or a model without usable
#           positions trains. Its engine has functions that keep these buffers, and calls them for init_on_meta alone.
# Versions: llamafactory 0.9.5, torch 2.13.0, transformers 5.5.4, peft 0.18.1, Python 3.11. Seen 2026-11-29.
# Output (memory that torch leaves uninitialised is filled with NaN, so that it shows):
#   before: [1.0, 0.01]
#   after init_on_rank0: [nan, nan]
#   after init_on_rank0 with its own two functions around: [1.0, 0.01]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/python -m pip install --quiet torch==2.13.0 numpy transformers==5.5.4 peft==0.18.1 accelerate==1.11.0
env/bin/python -m pip install --quiet --no-deps llamafactory==0.9.5
cat > rank.py <<'PY'
import importlib.util
import sys
import types

# Its package imports what this needs not (gradio, trl, datasets).
spec = importlib.util.find_spec("llamafactory")
package = types.ModuleType("llamafactory")
package.__path__ = list(spec.submodule_search_locations)
sys.modules["llamafactory"] = package

import torch
import transformers
from llamafactory.v1.accelerator.interface import DistributedInterface

torch.use_deterministic_algorithms(True)  # also fills what torch.empty returns
DistributedInterface({"name": "fsdp2"})
from llamafactory.v1.plugins.trainer_plugins.distributed.fsdp2 import FSDP2Engine


def model():
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 8}
    config = transformers.LlamaConfig(num_hidden_layers=1, num_key_value_heads=2, **sizes)
    made = transformers.AutoModelForCausalLM.from_config(config)
    made._init_mode = "init_on_rank0"
    return made


def frequencies(of) -> list[float]:
    return [round(value, 4) for value in of.model.rotary_emb.inv_freq.tolist()]


engine, first, second = FSDP2Engine({"name": "fsdp2"}), model(), model()
print("before:", frequencies(first))
lost = frequencies(engine.shard_model(first))
print("after init_on_rank0:", lost)
buffers = engine._save_non_persistent_buffers(second)
second = engine.shard_model(second)
engine._restore_non_persistent_buffers(second, buffers)
print("after init_on_rank0 with its own two functions around:", frequencies(second))
assert lost != frequencies(second) == [1.0, 0.01], "it keeps them now"
PY
export RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29571
OMP_NUM_THREADS=1 env/bin/python -W ignore rank.py 2> log | grep -v '^\[INFO' || { tail -5 log; exit 1; }
