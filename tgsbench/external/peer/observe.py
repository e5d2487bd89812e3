"""Run another system's program and write down what it really does: `torchrun FILE FOLDER PROGRAM …`.

PROGRAM is a script, or -m and a module, with its arguments. Nothing of it is changed: token embedding, loss,
all-to-alls and optimizer are counted as they are called. FOLDER/observed.RANK.jsonl gains a line whenever the
optimizer has stepped; of lines with one step number the last one counts, for an optimizer may step in parts.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.nn.functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

_PAGE = os.sysconf("SC_PAGE_SIZE")
_ON_VIRTUAL_GPU = "TGSBENCH_VGPU_LOG" in os.environ


def main() -> None:
    """Watch, and run the program as if it had been started alone."""
    Observer(Path(sys.argv[1]) / f"observed.{int(os.environ['RANK'])}.jsonl").watch()
    sys.argv = sys.argv[2:]
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")


class Observer:
    """What this rank did since its optimizer's last step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._step, self._begin_s = -1, 0.0
        self._tokens = self._calls = self._bytes = 0
        self._labels: Any = 0
        self._stepped = True
        """The optimizer has stepped and no micro-step has begun since."""
        self._is_inside = False
        """A functional all-to-all is being called."""

    def watch(self) -> None:
        """Put the counters around torch's own functions, before the program imports them."""
        F.embedding = _before(F.embedding, self._embedded)
        if not _ON_VIRTUAL_GPU:  # labels cannot be counted where nothing is computed, only launched
            F.cross_entropy = _before(F.cross_entropy, self._scored)
        dist.all_to_all_single = _before(dist.all_to_all_single, self._exchanged)
        dist.all_to_all = _before(dist.all_to_all, self._exchanged_lists)
        for name in ("all_to_all_single", "all_to_all_single_autograd"):
            setattr(functional, name, self._functional(getattr(functional, name)))
        register_optimizer_step_post_hook(self._optimized)

    def _embedded(self, ids: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> None:
        # A checkpointed layer runs again in the backward pass; the embedding is no part of one.
        if not torch.is_grad_enabled():
            return
        if self._stepped:
            self._begin()
        self._tokens += ids.numel()

    def _begin(self) -> None:
        if self._step < 0:
            self._begin_s = time.monotonic()
        self._stepped = False
        self._step += 1
        self._tokens = self._calls = self._bytes = 0
        self._labels = 0

    def _scored(self, logits: torch.Tensor, target: torch.Tensor, *rest: Any, **named: Any) -> None:
        ignored = named.get("ignore_index", rest[2] if len(rest) > 2 else -100)
        self._labels = self._labels + (target.detach() != ignored).sum()

    def _exchanged(self, output: torch.Tensor, *_: Any, **__: Any) -> None:
        self._calls += 1
        self._bytes += output.nbytes

    def _exchanged_lists(self, outputs: list[torch.Tensor], *_: Any, **__: Any) -> None:
        self._calls += 1
        self._bytes += sum(output.nbytes for output in outputs)

    def _functional(self, function: Any) -> Any:
        """`function`, with what it returns shown to `_received`; in some releases one calls the other."""

        def shown(*args: Any, **named: Any) -> Any:
            was_inside, self._is_inside = self._is_inside, True
            try:
                returned = function(*args, **named)
            finally:
                self._is_inside = was_inside
            if not was_inside:
                self._received(returned)
            return returned

        return shown

    def _received(self, output: torch.Tensor) -> None:
        """A functional all-to-all; the gradient of one goes back by another, which no Python sees."""
        self._exchanged(output)
        if output.requires_grad:
            output.register_hook(self._exchanged)

    def _optimized(self, *_: Any) -> None:
        if self._step < 0:
            return
        self._stepped = True
        row = {
            "step": self._step,
            "begin_s": self._begin_s,
            "end_s": time.monotonic(),
            "tokens": self._tokens,
            "labels": 0 if _ON_VIRTUAL_GPU else int(self._labels),
            "num_all_to_alls": self._calls,
            "all_to_all_bytes": self._bytes,
            "mem_bytes": memory_bytes(),
            "reserved_bytes": torch.cuda.max_memory_reserved() if torch.cuda.is_initialized() else 0,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _before(function: Any, look: Any) -> Any:
    """`function`, with its arguments shown to `look` first."""

    def shown(*args: Any, **named: Any) -> Any:
        look(*args, **named)
        return function(*args, **named)

    return shown


def memory_bytes() -> int:
    """Peak of CUDA's allocator since the rank began; on a CPU the resident set as it is now."""
    if torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE


if __name__ == "__main__":
    main()
