"""Rates that stand for those of hardware that nobody measured: for an order by counted work, never a figure.

FLOPs, bytes, messages and launches are counted alike everywhere; what each costs is guessed here. A step's
seconds under these rates say which way does less work, and which share of it each kind of work has.
"""

from __future__ import annotations

from msgspec.structs import replace

from tgsbench.planner.machine import CPU, Machine
from tgsbench.schema.hardware import AttentionSpeed, Constants
from tgsbench.schema.preset import Preset

_KERNELS = ("flash2", "flash3", "flash4", "cudnn")
_SOURCE = "a guess, for an order alone"
_CPU_TFLOPS = 0.07
"""fp32 products of one core, as a share of a nominal 1 TFLOP/s of a CPU rank."""
_GPU_SHARE, _FLOAT32_SHARE = 0.6, 1 / 16


def nominal_machine(machine: Machine, preset: Preset) -> Machine:
    """The same machine; with guessed rates where none are known for the preset's precision."""
    if machine.constants is not None:
        return machine
    if machine.gpu.name == CPU.name:
        shares = (_CPU_TFLOPS, 0.3, 0.2, 40.0)
    else:
        slow = _FLOAT32_SHARE if preset.training.compute_dtype == "float32" else 1.0
        shares = (_GPU_SHARE * slow, 0.8, 0.7, 5.0)
    return replace(machine, constants=_constants(machine.gpu.bf16_tflops, *shares))


def _constants(
    peak_tflops: float, products: float, stream: float, link: float, launch_us: float
) -> Constants:
    tflops = peak_tflops * products
    return Constants(
        name="nominal",
        gpus=[],
        gemm_share=products,
        stream_share=stream,
        nvlink_share=link,
        network_share=link,
        gather_contention=1.0,
        straggler_share=0.0,
        launch_us=launch_us,
        attention=[
            AttentionSpeed(
                kernel=kernel,
                head_dim=128,
                forward_tflops=tflops,
                backward_tflops=tflops,
                half_len=256,
                source=_SOURCE,
            )
            for kernel in _KERNELS
        ],
        carried_over=_SOURCE,
    )
