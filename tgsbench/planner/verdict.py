"""Does a plan fit the card, and which item decides?"""

from __future__ import annotations

from tgsbench.metrics import figures
from tgsbench.planner.memory import RESIDENT, MemoryPlan
from tgsbench.schema.forecast import Verdict
from tgsbench.schema.hardware import GpuSpec
from tgsbench.units import GIB

TIGHT_SHARE = 0.83
"""Of the card, as planned. Of the calibration rows planned above it, one in six ran 9 to 23 % slower than
predicted, where the allocator frees and allocates again; of those below, none ran 9 % slower."""

HOST_GIB_PER_GPU = 224.0
"""Host memory that offloading may pin for each GPU: a DGX H100 has 2 TB for eight, less a tenth."""


def host_fits(memory: MemoryPlan, ranks_per_node: int) -> bool:
    """Would what is offloaded fit a usual node?"""
    return memory.host_bytes <= HOST_GIB_PER_GPU * GIB * ranks_per_node


def verdict_of(memory: MemoryPlan, gpu: GpuSpec) -> Verdict:
    """Hold planned memory against the card; a CPU rank has none."""
    share = figures.memory_fraction(memory.peak.total, gpu)
    if share is None:
        return "unknown"
    if share > 1.0:
        return "out of memory"
    return "tight" if share > TIGHT_SHARE else "fits"


_IN_WORDS = {
    "attention_saved": "attention outputs kept for the backward",
    "all_to_all_saved": "all-to-all results kept for the backward",
    "activations": "activations of all layers",
    "layer_activations": "activations of one layer",
    "checkpoints": "checkpointed inputs of all layers",
    "all_to_all_buffers": "all-to-all buffers",
    "fp8_operands": "FP8 operands",
    "loss": "logits and the head",
    "allocator": "the allocator's reserve",
    "context_and_nccl": "CUDA context and NCCL",
}
"""Items of a memory plan whose names say too little to somebody who reads no formulas."""


def item_in_words(name: str) -> str:
    """An item of a memory plan as people call it."""
    return _IN_WORDS.get(name, name.replace("_", " "))


def breaking_item(memory: MemoryPlan) -> str:
    """The largest item of the peak: what there is most to save on."""
    items = {name: size for name, size in memory.peak.items.items() if name != "context_and_nccl"}
    resident = sum(items[name] for name in RESIDENT if name in items)
    largest = max(items, key=items.__getitem__)
    if resident > 0.5 * memory.peak.total and largest in RESIDENT:
        return "model states"
    return largest
