#!/usr/bin/env bash
# Megatron-Bridge counts a gated MLP as two products, not three, unless its activation is SiLU.
#
# Expected: TFLOP/s/GPU of the training log counts the products that run. A gated MLP has three (gate, up, down), whatever
#   function stands between them; Gemma's is GELU, gpt-oss's a sigmoid of 1.702 x ("quick GELU"), Llama's SiLU.
# Happens: the factor of 3/2 for the gate is given where the activation is torch's silu itself. The providers of Gemma and
#   gpt-oss set gated_linear_unit with another function, and a third of their MLP's work is not counted: at 8k tokens
#   Gemma 3 27B is a quarter and gpt-oss 20B a fifth slower "in TFLOPs" than the same three products with SiLU. Layers
#   with a sliding window count as full attention beside it, so that the two errors can hide each other. An MFU of such
#   a model is not to be compared with that of a Llama from the same log.
# Versions: megatron-bridge 0.3.1 (its counting module alone: its imports need a GPU's packages), torch 2.13.0 (CPU),
#   Python 3.11
# Date: 2026-11-29
# Output seen (per token, GFLOPs):
#   gemma3_27b at 8192: 174.5 with silu, 131.5 as its provider sets it, a third of its MLP's 129.0 is missing
#   gpt_oss_20b at 8192: 26.5 with silu, 21.7 as its provider sets it, a third of its MLP's 14.3 is missing
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 2>/dev/null
"$work/env/bin/pip" install --quiet --no-deps megatron-bridge==0.3.1 2>/dev/null
cat > "$work/look.py" <<'PYTHON'
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch.nn.functional as F

bridge = Path(sys.prefix) / "lib" / f"python3.{sys.version_info.minor}" / "site-packages/megatron/bridge"
for module, name in (
    ("megatron.bridge.data.datasets.packing_utils", "calculate_avg_seqlen"),
    ("megatron.bridge.peft.lora", "LoRA"),
    ("megatron.bridge.training.config", "ConfigContainer"),
    ("megatron.bridge.utils.common_utils", "print_rank_0"),
):  # names that a run without LoRA only looks at
    sys.modules[module] = ModuleType(module)
    setattr(sys.modules[module], name, type(name, (), {}))


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, bridge / path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


load("megatron.bridge.utils.vocab_utils", "utils/vocab_utils.py")
count = load("flop_utils", "training/utils/flop_utils.py").num_floating_point_operations


def quick_gelu(x):
    return x * (1.702 * x).sigmoid()


COMMON = {
    "seq_length": 8192, "gated_linear_unit": True, "multi_latent_attention": False, "mtp_num_layers": None,
    "num_moe_experts": None, "moe_ffn_hidden_size": None, "moe_shared_expert_intermediate_size": None,
    "make_vocab_size_divisible_by": 128, "tensor_model_parallel_size": 1,
}
SHAPES = {
    "gemma3_27b": (F.gelu, {
        "num_layers": 62, "hidden_size": 5376, "num_attention_heads": 32, "num_query_groups": 16,
        "kv_channels": 128, "ffn_hidden_size": 21504, "vocab_size": 262144,
    }),
    "gpt_oss_20b": (quick_gelu, {
        "num_layers": 24, "hidden_size": 2880, "num_attention_heads": 64, "num_query_groups": 8, "kv_channels": 64,
        "ffn_hidden_size": 2880, "vocab_size": 201088, "num_moe_experts": 32, "moe_router_topk": 4,
    }),
}
PROVIDERS = {
    "gemma3_27b": ("gemma/gemma3_provider.py", "fast_gelu"),
    "gpt_oss_20b": ("gpt_oss/gpt_oss_provider.py", "quick_gelu"),
}
for name, (own, shape) in SHAPES.items():
    file, function = PROVIDERS[name]
    source = (bridge / "models" / file).read_text()
    assert "gated_linear_unit: bool = True" in source and f"activation_func: Callable = {function}" in source
    per_token = {}
    for said, activation in (("silu", F.silu), ("own", own)):
        model = SimpleNamespace(**(COMMON | shape), activation_func=activation)
        per_token[said] = count(SimpleNamespace(model=model)) / model.seq_length / 1e9
    experts = shape.get("moe_router_topk", 1)
    products = 3 * 6 * shape["num_layers"] * shape["hidden_size"] * shape["ffn_hidden_size"] * experts / 1e9
    print(f"{name} at 8192: {per_token['silu']:.1f} with silu, {per_token['own']:.1f} as its provider sets it,", end=" ")
    print(f"a third of its MLP's {products:.1f} is missing")
    missing = per_token["silu"] - per_token["own"]
    assert abs(missing - products / 3) < 1e-6, "the gate is counted: the behaviour changed"
PYTHON
"$work/env/bin/python" "$work/look.py" 2>/dev/null
