#!/usr/bin/env bash
# transformers' Trainer reports total_flos of 0 when DeepSpeed shards parameters (ZeRO stage 3).
#
# Expected: `total_flos` of the Trainer, in its metrics, its trainer_state.json and its trackers, is the work of the run:
#   6 x tokens x parameters without embeddings. Under DDP and ZeRO stages 1 and 2 it is.
# Happens: parameters are counted by numel() of what the model holds at that moment. Under stage 3 a parameter is an empty
#   tensor between its uses, so the sum is 0; only what stays below stage3_param_persistence_threshold (norms and biases
#   by default) is counted, which gives a plausible small number instead. Nothing is said. A TFLOPs or MFU derived from it
#   is 0, or wrong by the ratio of all weights to the norms.
# Versions: transformers 5.24.0, deepspeed 0.19.8, accelerate 1.15.0, torch 2.13.0 (CPU), Python 3.11
# Date: 2026-11-29
# Output seen (one rank, 64 tokens, 139,584 parameters without embeddings; 6 x tokens x parameters = 53,600,256):
#   stage 2: total_flos 53600256
#   stage 3, no threshold: total_flos 0
#   stage 3, threshold of 64: total_flos 122880
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 deepspeed==0.19.8 2>/dev/null
cat > "$work/look.py" <<'PYTHON'
import sys

import deepspeed
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # not compiled for one rank on a CPU
stage, threshold = int(sys.argv[1]), int(sys.argv[2])
model = LlamaForCausalLM(
    LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=1024,
    )
)
counted = model.num_parameters(exclude_embeddings=True)
zero = {"stage": stage, "stage3_param_persistence_threshold": threshold}
settings = TrainingArguments(
    output_dir="out", use_cpu=True, report_to="none", max_steps=2, per_device_train_batch_size=1,
    save_strategy="no", logging_strategy="no", disable_tqdm=True,
    deepspeed={
        "zero_optimization": zero, "train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto", "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    },
)
rows = [{"input_ids": list(range(1, 33)), "labels": list(range(1, 33))} for _ in range(8)]
trainer = Trainer(model=model, args=settings, train_dataset=rows)
trainer.train()
seen, right = int(trainer.state.total_flos), 6 * 2 * 32 * counted
kept = f"stage {stage}" + ("" if stage == 2 else f", threshold of {threshold}" if threshold else ", no threshold")
print(f"{kept}: total_flos {seen}")
assert seen == right if stage == 2 else seen < right / 100, "the behaviour changed"
PYTHON
cd "$work"
export HF_HUB_OFFLINE=1 DS_ACCELERATOR=cpu OMP_NUM_THREADS=1
export RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=29655
for case in "2 0" "3 0" "3 64"; do
  # shellcheck disable=SC2086
  "$work/env/bin/python" look.py $case 2>/dev/null | grep total_flos
done
