"""Train our packs by TRL's SFTTrainer: `torchrun FILE trl.json`.

FOLDER of the settings holds tokens.npy and labels.npy [packs, S], lengths.npy [packs], starts.json with the
document starts of each pack (empty without a document mask). Each step becomes a line of steps.jsonl: what
reached the embeddings of all ranks, the time by the clock, the all-to-alls that really went out.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import SequentialSampler


def main() -> None:
    """Build what the settings say, and train."""
    settings = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    traffic = AllToAllCount()
    if settings["on_cpu"]:
        import deepspeed

        # DeepSpeed compiles it in every rank (minutes on few cores), and only inference calls it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="gloo")
    trainer = build(settings, traffic)
    trainer.train()


def build(settings: dict[str, Any], traffic: AllToAllCount) -> Any:
    """SFTTrainer over our packs, in their order."""
    from datasets import Dataset
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):  # type: ignore[misc]
        """Packs as they lie, so that every system trains the same ones."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset or self.train_dataset)

    arguments = SFTConfig(**settings["arguments"], deepspeed=settings["deepspeed"], **parallelism(settings))
    torch.manual_seed(settings["arguments"]["seed"])
    config = AutoConfig.for_model(**settings["model"])
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(config, attn_implementation=settings["attention"])
    words = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    seen = StepsSeen(model, traffic, Path(settings["folder"]) / "steps.jsonl")
    packs = Dataset.from_list(list(rows(Path(settings["folder"]))))
    return InOrder(
        model=model, args=arguments, train_dataset=packs, processing_class=tokenizer, data_collator=stack,
        callbacks=[seen.callback()],
    )  # fmt: skip


def parallelism(settings: dict[str, Any]) -> dict[str, Any]:
    """accelerate's sequence parallelism, where more than one rank shares a sequence."""
    if settings["sp"] == 1:
        return {}
    from accelerate.utils import DeepSpeedSequenceParallelConfig, ParallelismConfig

    handler = DeepSpeedSequenceParallelConfig(
        sp_seq_length=settings["seq_len"],
        sp_seq_length_is_variable=True,
        sp_attn_implementation=settings["attention"],
    )
    mesh = ParallelismConfig(
        sp_backend="deepspeed",
        sp_size=settings["sp"],
        dp_shard_size=dist_size() // settings["sp"],
        sp_handler=handler,
    )
    return {"parallelism_config": mesh}


def dist_size() -> int:
    """Ranks, by torchrun's own word: no group need be there yet."""
    import os

    return int(os.environ["WORLD_SIZE"])


def rows(folder: Path) -> Any:
    """One pack after another; positions begin anew with each document where a mask is asked for."""
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    labels = np.load(folder / "labels.npy", mmap_mode="r")
    lengths = np.load(folder / "lengths.npy").tolist()
    starts = json.loads((folder / "starts.json").read_text("utf-8"))
    for index, length in enumerate(lengths):
        edges = [*starts[index], length] if starts else [0, length]
        positions = np.concatenate([np.arange(n) for n in np.diff(edges)])
        yield {
            "input_ids": tokens[index, :length],
            "labels": labels[index, :length],
            "position_ids": positions,
        }


def stack(packs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Packs of one length as one batch."""
    return {name: torch.tensor([pack[name] for pack in packs]) for name in packs[0]}


class AllToAllCount:
    """Counts the all-to-alls that this process hands to its groups."""

    def __init__(self) -> None:
        self.calls, self.bytes = 0, 0
        self._single = dist.all_to_all_single
        dist.all_to_all_single = self._counted

    def _counted(self, output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        self.bytes += output.nbytes
        return self._single(output, *args, **kwargs)

    def take(self) -> tuple[int, int]:
        """Calls and bytes since the last time."""
        taken = self.calls, self.bytes
        self.calls, self.bytes = 0, 0
        return taken


class StepsSeen:
    """What a step really was, written by rank 0 when it is over."""

    def __init__(self, model: torch.nn.Module, traffic: AllToAllCount, path: Path) -> None:
        self._traffic, self._path = traffic, path
        self._tokens, self._at_s = 0, 0.0
        self._row: dict[str, Any] = {}
        model.get_input_embeddings().register_forward_hook(self._embedded)  # type: ignore[operator]

    def callback(self) -> Any:
        """As transformers wants it."""
        from transformers import TrainerCallback

        seen = self

        class Callback(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                seen._at_s = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                seen.step()

            def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **__: Any) -> None:
                seen.log(logs or {}, state.is_world_process_zero)

        return Callback()

    def _embedded(self, _module: Any, inputs: tuple[torch.Tensor, ...], _output: Any) -> None:
        # A checkpointed layer is run again in the backward pass; the embedding is no part of one.
        if torch.is_grad_enabled():
            self._tokens += inputs[0].numel()

    def step(self) -> None:
        """All ranks: add up what they saw, and the longest time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now_s = time.perf_counter()
        calls, num_bytes = self._traffic.take()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        sums = torch.tensor([self._tokens, calls, num_bytes], dtype=torch.float64, device=device)
        peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        most = torch.tensor([now_s - self._at_s, peak], dtype=torch.float64, device=device)
        dist.all_reduce(sums)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        tokens, calls, num_bytes = sums.tolist()
        self._row = {"tokens": tokens, "step_s": most[0].item(), "mem_gib": most[1].item() / 2**30}
        self._row |= {"num_all_to_alls": int(calls), "all_to_all_bytes": num_bytes}
        self._tokens, self._at_s = 0, time.perf_counter()

    def log(self, logs: dict[str, Any], is_first: bool) -> None:
        """Rank 0: the step with its loss; the summary at the end is no step."""
        if not is_first or "loss" not in logs or not self._row:
            return
        row = self._row | {"loss": float(logs["loss"])}
        if own := logs.get("train_tokens_per_second"):
            row["own_tokens_per_s"] = float(own)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._row = {}


if __name__ == "__main__":
    main()
