"""Cases whose loss and gradients must not depend on sp."""

from __future__ import annotations

from tgsbench import presets
from tgsbench.schema.preset import Preset

_MODEL = {
    "num_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 192, "head_dim": 16,
}  # fmt: skip

CASES: dict[str, dict[str, object]] = {
    f"{heads}-{mask}-{mode}": {
        "model": {**_MODEL, "num_query_heads": 8, "num_kv_heads": kv},
        "workload.document_mask": mask == "documents",
        "training.checkpointing": mode,
        "engine.head_parts": 2,
    }
    for heads, kv in (("mha", 8), ("gqa", 4), ("kv_below_sp", 1))
    for mask in ("causal", "documents")
    for mode in ("none", "selective", "full")
}
CASES["two_rows-documents"] = {
    "model": {**_MODEL, "num_query_heads": 8, "num_kv_heads": 2},
    "workload.document_mask": True,
    "training.checkpointing": "none",
    "training.micro_batch": 2,
}
CASES["tied-whole_logits"] = {
    "model": {**_MODEL, "num_query_heads": 8, "num_kv_heads": 2, "tie_word_embeddings": True},
    "training.checkpointing": "none",
    "engine.loss_chunk_tokens": 0,
}
CASES["tied-chunked"] = {
    "model": {**_MODEL, "num_query_heads": 8, "num_kv_heads": 2, "tie_word_embeddings": True},
    "training.checkpointing": "none",
    "engine.loss_chunk_tokens": 5,
}
_GQA = {**_MODEL, "num_query_heads": 8, "num_kv_heads": 2}
for _mode in ("selective", "full"):
    CASES[f"offload-{_mode}"] = {
        "model": _GQA,
        "training.checkpointing": _mode,
        "engine.activation_offload": True,
    }
    CASES[f"compile-{_mode}"] = {"model": _GQA, "training.checkpointing": _mode, "engine.compile": True}
for _kept in ("optimizer", "all"):
    CASES[f"offload-{_kept}"] = {**CASES["offload-full"], "engine.offload": _kept}
CASES["tiled"] = {"model": _GQA, "training.checkpointing": "full", "engine.tiled_mlp": True}
CASES["tiled-offloaded"] = {**CASES["tiled"], "engine.activation_offload": True}
CASES["plain"] = {"model": _GQA, "training.checkpointing": "none"}
"""What the eight above must agree with."""
for _mode in ("none", "selective", "full"):
    # Alone a rank attends in two parts of its heads.
    CASES[f"heads_in_parts-{_mode}"] = {
        "model": {**_MODEL, "num_query_heads": 8, "num_kv_heads": 4},
        "training.checkpointing": _mode,
        "engine.tiled_mlp": True,
    }


for _mask in ("causal", "documents"):
    for _mode in ("none", "selective", "full"):
        CASES[f"ring-{_mask}-{_mode}"] = {
            "model": _GQA,
            "workload.document_mask": _mask == "documents",
            "training.checkpointing": _mode,
            "parallel.ring": "world",
        }
    CASES[f"ring_of_two-{_mask}"] = {
        "model": _GQA,
        "workload.document_mask": _mask == "documents",
        "training.checkpointing": "full",
        "training.micro_batch": 2,
        "parallel.ring": 2,
    }
for _stage in (1, 2, 3):
    for _name, _shard in (("", 0), ("-copies", "half")):
        CASES[f"zero{_stage}{_name}"] = {
            "model": _GQA,
            "training.checkpointing": "full",
            "training.accumulation": 3,
            "engine.zero_stage": _stage,
            "parallel.shard": _shard,
        }
for _mode in ("none", "selective", "full"):
    CASES[f"fp8-{_mode}"] = {
        "model": _GQA,
        "workload.document_mask": True,
        "training.checkpointing": _mode,
        "training.linear": "fp8",
        "training.accumulation": 2,
        "workload.seq_len": 256,
    }
CASES["unrounded"] = {**CASES["fp8-full"], "training.linear": "plain"}
"""What they are near to."""
CASES["fp8-tiled"] = {**CASES["fp8-full"], "engine.tiled_mlp": True}
CASES["unrounded-modules"] = {**CASES["unrounded"], "model": {**_GQA, "family": "phi3"}}
CASES["fp8-modules"] = {**CASES["fp8-full"], "model": {**_GQA, "family": "phi3"}}
"""Of modules in place of whole layers, which Phi-3 does not have."""
CASES["ring-fp8"] = {**CASES["fp8-full"], "parallel.ring": "world"}
CASES["copies-ring-documents"] = {
    "model": _GQA,
    "workload.document_mask": True,
    "training.checkpointing": "selective",
    "training.accumulation": 2,
    "parallel.ring": 2,
    "parallel.shard": "half",
}
CASES["windows"] = {
    "model": {**_GQA, "family": "mistral", "window": 7, "layer_pattern": ["window"]},
    "workload.document_mask": True,
    "training.checkpointing": "none",
}
KINDS: dict[str, dict[str, object]] = {
    "qwen3": {"family": "qwen3"},
    "qwen3_biased": {"family": "qwen3", "attention_bias": True},
    "qwen2": {"family": "qwen2", "window": 9, "layer_pattern": ["window", "full"]},
    "mistral": {"family": "mistral", "window": 7, "layer_pattern": ["window"]},
    "smollm3": {"family": "smollm3", "num_layers": 4},
    "llama_biased": {"attention_bias": True},
}
"""Layers with norms of their heads, biases, windows, without positions."""
for _kind, _own in KINDS.items():
    for _heads, _kv in (("gqa", 4), ("kv_below_sp", 1)):
        for _mode in ("none", "selective", "full"):
            CASES[f"{_kind}-{_heads}-{_mode}"] = {
                "model": {**_MODEL, "num_query_heads": 8, "num_kv_heads": _kv, **_own},
                "workload.document_mask": _mode != "none",
                "training.checkpointing": _mode,
                "training.accumulation": 2,
                "training.micro_batch": 1 + (_kv == 1),
                "engine.head_parts": 2,
            }
for _mode in ("none", "selective", "full"):
    # Of 12 query heads four ranks have 3 each: parts of 2 and 1.
    _odd = {**_MODEL, "num_query_heads": 12, "num_kv_heads": 2, **KINDS["qwen3_biased"]}
    CASES[f"odd-{_mode}"] = {**CASES[f"qwen3_biased-gqa-{_mode}"], "model": _odd}
for _kind in ("qwen3", "qwen3_biased"):
    _case = CASES[f"{_kind}-gqa-full"]
    CASES[f"{_kind}-tiled"] = {**_case, "engine.tiled_mlp": True, "engine.head_parts": 0}
    CASES[f"{_kind}-tiled-offloaded"] = {**CASES[f"{_kind}-tiled"], "engine.activation_offload": True}
    CASES[f"{_kind}-fp8"] = {**_case, "training.linear": "fp8"}
    CASES[f"kv_hops-{_kind}"] = {**CASES[f"{_kind}-kv_below_sp-selective"], "hardware.gpus_per_node": 2}
for _kind, _size in (("qwen3", "world"), ("qwen3_biased", 2), ("qwen2", 2), ("mistral", "world")):
    for _mode in ("none", "selective", "full"):
        _case = {**CASES[f"{_kind}-gqa-{_mode}"], "parallel.ring": _size}
        CASES[f"ring-{_kind}-{_mode}"] = {**_case, "engine.head_parts": 0}
CASES["ring-tiled"] = {**CASES["ring-qwen3-full"], "engine.tiled_mlp": True}
CASES["ring-tiled-offloaded"] = {**CASES["ring-tiled"], "engine.activation_offload": True}
WHOLE: dict[str, str] = {}
"""Cases in chunks of the sequence -> the case that takes it whole."""
for _mode in ("selective", "full"):
    for _heads in ("mha", "gqa", "kv_below_sp"):
        for _mask in ("causal", "documents"):
            _name = f"{_heads}-{_mask}-{_mode}"
            WHOLE[f"chunks-{_name}"] = _name
            CASES[f"chunks-{_name}"] = {**CASES[_name], "engine.sequence_chunks": 4}
            del CASES[f"chunks-{_name}"]["engine.head_parts"]
    WHOLE |= {
        f"chunks-two_rows-{_mode}": "two_rows-documents",
        f"chunks-offload-{_mode}": "plain",
        f"chunks-windows-{_mode}": "windows",
    }
    _chunks = {"training.checkpointing": _mode, "engine.sequence_chunks": 4}
    CASES[f"chunks-windows-{_mode}"] = {**CASES["windows"], **_chunks}
    _chunks |= {"training.accumulation": 3, "engine.tiled_mlp": True}
    CASES[f"chunks-two_rows-{_mode}"] = {**CASES["two_rows-documents"], **_chunks}
    CASES[f"chunks-offload-{_mode}"] = {
        **CASES["plain"],
        "training.checkpointing": _mode,
        "engine.sequence_chunks": 8,
        "engine.activation_offload": True,
        "engine.offload": "all",
    }
for _kind in KINDS:
    for _mode in ("selective", "full"):
        WHOLE[f"chunks-{_kind}-{_mode}"] = _whole = f"{_kind}-gqa-{_mode}"
        CASES[f"chunks-{_kind}-{_mode}"] = {**CASES[_whole], "engine.sequence_chunks": 4, "engine.head_parts": 0}
    WHOLE[f"chunks-fp8-{_mode}"] = f"fp8-{_mode}"
    CASES[f"chunks-fp8-{_mode}"] = {**CASES[f"fp8-{_mode}"], "engine.sequence_chunks": 4}
CASES["ring_beyond_heads"] = {
    "model": {**_MODEL, "num_query_heads": 1, "num_kv_heads": 1},
    "training.checkpointing": "selective",
}
for _kv in (1, 2):
    for _mask in ("causal", "documents"):
        for _mode in ("none", "selective", "full"):
            # With sp 4 two nodes of two ranks, which need a head each, or both the same one.
            CASES[f"kv_hops{_kv}-{_mask}-{_mode}"] = {
                "model": {**_MODEL, "num_query_heads": 8, "num_kv_heads": _kv},
                "workload.document_mask": _mask == "documents",
                "training.checkpointing": _mode,
                "training.micro_batch": _kv,
                "hardware.gpus_per_node": 2,
                "engine.head_parts": 2,
            }
for _name in ("offload-selective", "tiled", "zero1-copies", "fp8-full"):
    CASES[f"kv_hops-{_name}"] = {**CASES[_name], "hardware.gpus_per_node": 2}
for _name in (f"kv_hops{_kv}-documents-{_mode}" for _kv in (1, 2) for _mode in ("selective", "full")):
    WHOLE[f"chunks-{_name}"] = _name
    CASES[f"chunks-{_name}"] = {**CASES[_name], "engine.sequence_chunks": 4}
    del CASES[f"chunks-{_name}"]["engine.head_parts"]
for _name in ("fp8-full", "windows-full"):
    WHOLE[f"chunks-kv_hops-{_name}"] = WHOLE[f"chunks-{_name}"]
    CASES[f"chunks-kv_hops-{_name}"] = {**CASES[f"chunks-{_name}"], "hardware.gpus_per_node": 2}


def case_preset(name: str, world: int) -> Preset:
    """The preset of a case with sp = world ranks, in fp32."""
    import msgspec

    case = {"training.accumulation": 1, **CASES[name]}
    model = case.pop("model")
    if "parallel.ring" in case:
        case["parallel.ring"] = world if case["parallel.ring"] == "world" else min(world, 2)
    if world == 1:
        case.pop("engine.head_parts", None)
    if case.get("parallel.shard") == "half":
        case["parallel.shard"] = max(1, world // 2)
    sets = [f"{key}={msgspec.json.encode(value).decode()}" for key, value in case.items()]
    sets += [f"model.{key}={msgspec.json.encode(value).decode()}" for key, value in model.items()]
    sets += [f"hardware.num_gpus={world}", f"parallel.sp={world}", "training.compute_dtype=float32"]
    if "workload.seq_len" not in case:
        sets.append("workload.seq_len=64")
    if "hardware.gpus_per_node" not in case:
        sets.append(f"hardware.gpus_per_node={world}")
    if "engine.loss_chunk_tokens" not in case:
        sets.append("engine.loss_chunk_tokens=16")
    return presets.resolve("tiny_cpu", sets).preset
