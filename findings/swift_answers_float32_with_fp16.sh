#!/usr/bin/env bash
# Expected: `swift sft --torch_dtype float32` trains in float32, as --torch_dtype bfloat16 trains in bfloat16.
# Happens: the trainer gets fp16=True: weights are float32, every forward runs under fp16 autocast with a loss scaler.
#   Nothing is said but a line among 200 of the arguments; only `--fp16 false` beside it gives float32. With DeepSpeed
#   whose JSON says fp16.enabled=false the run ends with "ds fp16.enabled=False vs hf fp16=True", which nobody asked
#   for. A speed or a loss that is reported as float32 is that of half precision.
# Versions: ms-swift 4.6.0, transformers 5.19.0, torch 2.13.0 (CPU), Python 3.11
# Date: 2026-11-28
# Output seen:
#   --torch_dtype bfloat16: fp16 False, bf16 True
#   --torch_dtype float32: fp16 True, bf16 False
#   --torch_dtype float32 --fp16 false: fp16 False, bf16 False
# SWIFT_PYTHON=PATH takes an environment that is there (installing takes 2 GB and minutes).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${SWIFT_PYTHON:-$work/env/bin/python}
if [ ! -x "$python" ]; then
    python3 -m venv "$work/env"
    "$python" -m pip install --quiet torch==2.13.0 ms-swift==4.6.0 transformers==5.19.0
fi
cat > "$work/look.py" <<'PYTHON'
import sys
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from swift.arguments import SftArguments

model = sys.argv[1] + "/model"
words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>").save_pretrained(model)
shape = LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64)
LlamaForCausalLM(shape).save_pretrained(model)
seen = {}
for words in ({"torch_dtype": "bfloat16"}, {"torch_dtype": "float32"}, {"torch_dtype": "float32", "fp16": False}):
    args = SftArguments(
        model=model, model_type="llama", template="dummy", dataset=["x.jsonl"], use_hf=True, report_to=["none"],
        output_dir=sys.argv[1] + "/out", use_cpu=True, **words,
    )
    trainer = args.training_args
    asked = " ".join(f"--{name} {str(value).lower()}" for name, value in words.items())
    print(f"{asked}: fp16 {trainer.fp16}, bf16 {trainer.bf16}")
    seen[asked] = trainer.fp16, trainer.bf16
assert list(seen.values()) == [(False, True), (True, False), (False, False)], seen
PYTHON
HF_HUB_OFFLINE=1 USE_HF=1 CUDA_VISIBLE_DEVICES= "$python" "$work/look.py" "$work" 2> "$work/errors" | grep '^--' || { tail -20 "$work/errors"; exit 1; }
