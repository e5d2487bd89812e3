"""TGS, TFLOPs, MFU and memory fractions: the one place where they are computed."""

from __future__ import annotations

from tgsbench.models.flops import CONVENTIONS, flops_per_token
from tgsbench.schema.forecast import Cost
from tgsbench.schema.hardware import GpuSpec
from tgsbench.schema.preset import Checkpointing, ModelShape
from tgsbench.units import GIB

_TERA = 1e12


def tgs(tokens: float, world_size: int, seconds: float) -> float | None:
    """Real tokens of all ranks / (GPUs · seconds): tokens per GPU per second; None if no time passed."""
    return tokens / (world_size * seconds) if seconds > 0 else None


def gpu_hours_per_billion_tokens(tgs: float) -> float:
    """GPU-hours that a billion tokens take at this TGS."""
    return 1e9 / tgs / 3600.0


def kwh_per_billion_tokens(tgs: float, power_w: float) -> float:
    """Energy of GPUs alone for a billion tokens at this TGS and mean power of a GPU."""
    return gpu_hours_per_billion_tokens(tgs) * power_w / 1e3


def cost_of(tgs: float, usd_per_gpu_hour: float, power_w: float | None = None) -> Cost:
    """What a billion tokens take and cost; a price of 0 is none, `power_w` is a GPU's as it was measured."""
    hours = gpu_hours_per_billion_tokens(tgs)
    kwh = None if power_w is None else kwh_per_billion_tokens(tgs, power_w)
    if not usd_per_gpu_hour:
        return Cost(gpu_hours=hours, kwh=kwh)
    return Cost(gpu_hours=hours, usd=hours * usd_per_gpu_hour, usd_per_gpu_hour=usd_per_gpu_hour, kwh=kwh)


def tgs_of_gpu(tokens_per_gpu: float, step_s: float) -> float:
    """Tokens that one GPU trains in an optimizer step / seconds of that step, which are never 0."""
    return tokens_per_gpu / step_s


def tflops(tokens_per_gpu_s: float, flops_of_token: float) -> float:
    """TFLOPs per GPU: TGS times the FLOPs that one token costs in some convention."""
    return tokens_per_gpu_s * flops_of_token / _TERA


def tflops_in(
    convention: str,
    shape: ModelShape,
    attended_len: float,
    checkpointing: Checkpointing,
    tokens_per_gpu_s: float,
) -> float:
    """TFLOPs per GPU in a named convention at a TGS; KeyError on an unknown convention."""
    return tflops(tokens_per_gpu_s, flops_per_token(convention, shape, attended_len, checkpointing))


def tflops_by_convention(
    shape: ModelShape, attended_len: float, checkpointing: Checkpointing, tokens_per_gpu_s: float
) -> dict[str, float]:
    """TFLOPs per GPU in every named convention at a TGS."""
    return {
        name: tflops_in(name, shape, attended_len, checkpointing, tokens_per_gpu_s) for name in CONVENTIONS
    }


def tflops_deviation(stated_tflops: float, tokens_per_gpu_s: float, flops_of_token: float) -> float:
    """Stated TFLOPs over those that a TGS and a cost per token come to, minus 1."""
    return stated_tflops * _TERA / (tokens_per_gpu_s * flops_of_token) - 1


def kernel_tflops(flops: float, duration_ns: float) -> float | None:
    """TFLOPs that a kernel reached; None where its FLOPs or its time are not known (0)."""
    return flops / duration_ns / 1e3 if flops and duration_ns else None


def mfu(tflops_model: float | None, gpu: GpuSpec | None, linear: str = "") -> float | None:
    """TFLOPs in the `model` convention / dense peak of the GPU: of bf16, or of FP8 where `linear` is in it.

    None without a speed, and for an unknown GPU: no peak is guessed. Source: PaLM paper, appendix B.
    """
    peak = None if gpu is None else peak_tflops(gpu, linear)
    return tflops_model / peak if tflops_model is not None and peak else None


def peak_tflops(gpu: GpuSpec, linear: str) -> float:
    """Dense peak of what the layers' products run in; 0 where that of FP8 is not known."""
    return gpu.fp8_tflops if linear else gpu.bf16_tflops


def tflops_at_mfu(utilisation: float, gpu: GpuSpec) -> float:
    """TFLOPs per GPU behind a stated MFU (1 is the whole peak), in the convention it was stated in."""
    return utilisation * gpu.bf16_tflops


def peak_flops_per_s(gpu: GpuSpec, linear: str = "") -> float:
    """Dense FLOPs per second that the GPU can do at most; at bf16's peak where that of FP8 is not known."""
    return (peak_tflops(gpu, linear) or gpu.bf16_tflops) * _TERA


def memory_fraction(num_bytes: float, gpu: GpuSpec) -> float | None:
    """Bytes over the GPU's memory; None where that is not known, as for a CPU rank."""
    return num_bytes / (gpu.memory_gib * GIB) if gpu.memory_gib else None
