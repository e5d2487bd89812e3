#!/usr/bin/env bash
# Expected: rows that were packed beforehand, with position_ids that begin anew at each document, reach the model as
#   they are: TRL's SFTTrainer takes tokenised data sets, transformers reads document borders from position_ids, and
#   accelerate's sequence parallelism asks for position_ids in every batch.
# Happens: the column never reaches the model. The trainer's list of columns lacks it, and with
#   remove_unused_columns=False its own collator still leaves it out. Nothing is said: every document of a pack attends
#   to those before it, positions run through, and the loss is an ordinary one. A data collator of one's own keeps it.
#   Whoever measures speed on packed rows this way measures another, larger attention.
# Versions: trl 1.16.0, transformers 5.24.0, accelerate 1.15.0, datasets 5.2.0, torch 2.13.0 (CPU), Python 3.11
# Date: 2026-11-28
# Output seen:
#   default: attention_mask input_ids labels
#   remove_unused_columns=False: attention_mask input_ids labels
#   own collator: input_ids labels position_ids, positions [0, 1, 2, 3, 0, 1, 2, 3]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 trl==1.16.0 transformers==5.24.0 accelerate==1.15.0 datasets==5.2.0
cat > "$work/look.py" <<'PYTHON'
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
shape = LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
)
pack = {"input_ids": list(range(3, 11)), "labels": list(range(3, 11)), "position_ids": [*range(4), *range(4)]}


def stack(packs):
    return {name: torch.tensor([each[name] for each in packs]) for name in packs[0]}


def batch(collator=None, **options):
    settings = SFTConfig(output_dir="out", use_cpu=True, bf16=False, report_to="none", **options)
    trainer = SFTTrainer(
        model=LlamaForCausalLM(shape), args=settings, train_dataset=Dataset.from_list([pack] * 8),
        processing_class=tokenizer, data_collator=collator,
    )
    return next(iter(trainer.get_train_dataloader()))


default, kept, own = batch(), batch(remove_unused_columns=False), batch(stack, remove_unused_columns=False)
print("default:", *sorted(default))
print("remove_unused_columns=False:", *sorted(kept))
print("own collator:", *sorted(own), end="")
print(", positions", own["position_ids"][0].tolist())
assert "position_ids" not in default and "position_ids" not in kept, "the column arrives: the behaviour changed"
assert own["position_ids"][0].tolist() == pack["position_ids"]
PYTHON
cd "$work"
HF_HUB_OFFLINE=1 "$work/env/bin/python" look.py 2>/dev/null | grep -v "Truncating\|Dropping"
