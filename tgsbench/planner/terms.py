"""Where every number of a plan comes from: its formula, its constant, that constant's source."""

from __future__ import annotations

from tgsbench.planner.machine import Machine, attention_speed
from tgsbench.planner.workload import StepWorkload
from tgsbench.schema.forecast import TermSource

_ATTENTION = "2·S·(local tokens)·a·d FLOPs a layer over speed·S/(S + half length)"
_TIME = {
    "gemm": (
        "Σ products: 2mn(k + product_half_width) / (peak·gemm_share) + operand bytes / "
        "(bandwidth·stream_share)",
        "gemm_share",
    ),
    "attention_forward": (f"{_ATTENTION}, forward speed", "attention"),
    "attention_recompute": (f"{_ATTENTION}, forward speed; full checkpointing only", "attention"),
    "attention_backward": (f"{_ATTENTION}, 2.5 times the FLOPs at backward speed", "attention"),
    "linear_attention": (
        "FLOPs of the chunked recurrence / (peak·gemm_share) + values that its kernels move / "
        "(bandwidth·stream_share); backward three times that; no published row to check it on",
        "gemm_share",
    ),
    "elementwise": ("bytes counted on the operator stream / (bandwidth·stream_share)", "stream_share"),
    "all_to_all_node": (
        "bytes to ranks of the node / (NVLink·nvlink_share) + latency, less what computes meanwhile where "
        "layers hide them",
        "nvlink_share",
    ),
    "all_to_all_network": (
        "bytes to other nodes / network rate of one GPU + latency, less what computes meanwhile where layers "
        "hide them, times 1 + share of hidden gathers",
        "all_to_all",
    ),
    "ring_exposed": (
        "bytes of a ring's keys, values and their fp32 gradients / rate to the next member + latency, less "
        "the attention of a step",
        "all_to_all",
    ),
    "experts_node": (
        "tokens · experts of each · h to ranks of the node and back / (NVLink·nvlink_share) + latency",
        "nvlink_share",
    ),
    "experts_network": (
        "tokens · experts of each · h to other nodes and back / network rate of one GPU + latency",
        "all_to_all",
    ),
    "gather_exposed": ("parameter and gradient traffic that compute does not hide", "gather"),
    "gather_copies": (
        "bytes per parameter · gather_contention / (bandwidth·stream_share)",
        "gather_contention",
    ),
    "gather_step": ("traffic of ZeRO stages 1 and 2, once a step", "gather"),
    "head": ("three products of 2·tokens·h·V", "gemm_share"),
    "loss": ("bytes per token and vocabulary entry / (bandwidth·stream_share)", "stream_share"),
    "optimizer": ("bytes per parameter of the shard / (bandwidth·stream_share), or / PCIe", "stream_share"),
    "offload": (
        "checkpointed inputs, and keys, values and gradients of chunks, over PCIe that compute does not hide",
        "host",
    ),
    "host": ("kernel launches that the GPU waits for; on a CPU all of them", "launch_us"),
    "step_overhead": ("host work between two steps, which no kernel hides", "step_overhead"),
    "stragglers": ("straggler_share · ln(GPUs / 8)", "straggler_share"),
}
_MEMORY = {
    "parameters": "parameters / GPUs · {parameter_bytes} bytes",
    "gradients": "parameters / GPUs · {gradient_bytes} bytes, where a micro-step leaves them",
    "optimizer_states": "parameters / GPUs · {optimizer_bytes} bytes",
    "states_passing": "what is kept on the host, in pieces on its way through the optimizer step",
    "gathered_layers": "weights of the layer in use and of the next, in the compute precision",
    "gradient_buffers": "gradients of the layer before, being reduced",
    "weight_gradients": "gradient of a layer or its down projection being reduced, or of the embedding",
    "checkpoints": "L · (local tokens) · h, the layers' inputs",
    "attention_saved": "L · (attention output + fp32 LSE), selective checkpointing",
    "all_to_all_saved": "L · results of both all-to-alls, selective checkpointing",
    "activations": "L · what autograd saves of a layer, no checkpointing",
    "layer_activations": "what autograd saves of one recomputed layer, and the gradients on their way",
    "all_to_all_buffers": "received q, k and v, and the output that came back",
    "fp8_operands": "s·i + h·i + 2·s·h bytes, or s·(i+h) + 2·h·i: FP8 operands of a product, and its result",
    "ring_buffers": "keys and values of a ring at hand and coming, their fp32 gradients, fp32 gradient of q",
    "angles": "cosines and sines of the rotary embedding, 2·s·d",
    "chunk_sums": "fp32 sum over chunks of the sequence of one layer's weight gradients",
    "expert_buffers": "tokens sent to and come for experts, their results, and gradients of these",
    "loss": "logits, final norm, the head's weight and its gradient",
    "context_and_nccl": "0.5 GiB of CUDA context, 0.4 GiB per NCCL communicator; on a CPU 0.7 GiB of code",
    "allocator": "{allocator_share} of what comes and goes, and {pool_bytes} bytes per weight of a layer for "
    "the collectives' streams: reserved, not allocated",
}


def term_sources(
    work: StepWorkload, machine: Machine, times: dict[str, float], items: dict[str, float]
) -> dict[str, TermSource]:
    """Formula, constant and source of every item of time and memory that a plan shows."""
    sources = {f"memory.{name}": _memory(name, work) for name in items}
    return sources | {f"time.{name}": _time(name, work, machine) for name in times}


_SHARDED = ("parameters", "gradients", "optimizer_states")
_WHOLE = {"parameters": ", and a whole copy in the compute precision below ZeRO-3"}


def _memory(name: str, work: StepWorkload) -> TermSource:
    text, system = _MEMORY.get(name, name), work.system
    if name in _SHARDED and work.sharing_ranks != work.world:
        text = text.replace("GPUs", "GPUs of a copy")
    if work.zero_stage < 3 and system.shards_masters:
        text += _WHOLE.get(name, "")
    for field in ("parameter_bytes", "gradient_bytes", "optimizer_bytes", "allocator_share", "pool_bytes"):
        text = text.replace("{" + field + "}", str(getattr(system, field)))
    return TermSource(formula=text, source=f"planner/memory.py for system {system.name}")


def _time(name: str, work: StepWorkload, machine: Machine) -> TermSource:
    formula, constant = _TIME[name]
    value, source = _constant(constant, work, machine)
    if name == "gemm" and work.fp8:
        gain, of_gain = _constant("fp8_gain", work, machine)
        formula, value, source = f"{formula}; peak·fp8_gain", f"{value}, {gain}", f"{source}; {of_gain}"
    return TermSource(formula=formula, constant=value, source=source)


def _constant(name: str, work: StepWorkload, machine: Machine) -> tuple[str, str]:
    """A constant's value in words and its source."""
    link, constants = machine.link, machine.fitted
    source = constants.sources.get(name, f"presets/constants/{constants.name}.toml")
    if name == "attention":
        speed = attention_speed(constants, work.kernel, work.dims.head_dim)
        value = (
            f"{speed.kernel}: {speed.forward_tflops:.0f} forward, {speed.backward_tflops:.0f} backward TFLOPs"
        )
        return f"{value}, half length {speed.half_len:.0f}", speed.source
    if name in ("gather", "all_to_all"):
        fitted = getattr(link, f"{name}_gb_per_s")
        if fitted is not None:
            return f"{fitted:g} GB/s per GPU", f"presets/links/{link.name}.toml, fitted on {link.fitted_on}"
        shares = f"{link.inter_node_gb_per_s:g} GB/s per GPU · {constants.network_share:g}"
        return f"{shares}; inside a node NVLink · {constants.nvlink_share:g}", link.source
    if name == "step_overhead":
        source = f"fitted on rows of {work.system.name}" if work.system.measured else "assumed"
        if constants.step_overhead_factor != 1.0:
            source = f"{constants.sources.get(name, constants.fitted_on)}, from {source}"
        return f"{work.system.step_overhead_s * constants.step_overhead_factor:.3g} s", source
    if name == "host":
        return f"{machine.gpu.host_gb_per_s:g} GB/s", machine.gpu.source
    value = f"{name} = {getattr(constants, name):.4g}"
    return value, source + (f" ({constants.carried_over})" if constants.carried_over else "")
