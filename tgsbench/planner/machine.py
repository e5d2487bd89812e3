"""The hardware a plan is made for: datasheet, interconnect, fitted constants."""

from __future__ import annotations

import math
import re

from msgspec import Struct
from msgspec.structs import replace

from tgsbench.errors import ExitCode, TgsError, nearest
from tgsbench.presets import catalog
from tgsbench.schema.hardware import AttentionSpeed, Constants, GpuSpec, Link

CPU = GpuSpec(
    name="cpu",
    matches=[],
    bf16_tflops=1.0,
    memory_gib=0.0,
    memory_gb_per_s=20.0,
    nvlink_gb_per_s=5.0,
    inter_node_gb_per_s=1.0,
    source="nominal figures of a CPU rank; only calibrated shares of them mean anything",
)
"""Stands for a CPU rank, so that calibrated constants have something to be a share of."""


class Machine(Struct, frozen=True):
    """One GPU model, how its nodes are joined, and what it reaches."""

    gpu: GpuSpec
    link: Link
    constants: Constants | None
    """None: nothing was measured; memory can be planned, time cannot."""

    @property
    def fitted(self) -> Constants:
        """The constants, for code that plans time: its callers have seen that there are some."""
        assert self.constants is not None, f"no constants of {self.gpu.name}"
        return self.constants

    @property
    def product_share(self) -> float:
        """Of the bf16 peak, in long products at this card's power limit."""
        constants = self.fitted
        if not constants.power_w or not self.gpu.power_w:
            return constants.gemm_share
        power = min(1.0, self.gpu.power_w / constants.power_w)
        return constants.gemm_share * math.pow(power, constants.power_exponent)


def find_machine(gpu: str, link: str = "") -> Machine:
    """The machine of a GPU key or driver name; raises TgsError for names that nobody has described."""
    found = CPU if gpu in ("", "cpu") else catalog.find_gpu(gpu)
    if found is None:
        raise unknown_gpu(gpu)
    return Machine(found, find_link(link, found), find_constants(found.name))


def find_link(name: str, gpu: GpuSpec) -> Link:
    """An interconnect by name, or the network cards usual beside this GPU.

    Raises TgsError when no interconnect has that name.
    """
    if not name:
        return Link(
            name=f"default of {gpu.name}",
            inter_node_gb_per_s=gpu.inter_node_gb_per_s,
            source=f"presets/hardware/{gpu.name}.toml",
        )
    if (found := catalog.load_link(name)) is not None:
        return found
    raise TgsError(
        f"no interconnect called {name!r}; {nearest(name, catalog.load_links())}",
        hint="describe yours in ./presets/links/NAME.toml: name, inter_node_gb_per_s (per GPU), source",
        exit_code=ExitCode.UNKNOWN_HARDWARE,
    )


def find_constants(gpu: str) -> Constants | None:
    """Constants fitted for a GPU, the user's own before the shipped ones."""
    return catalog.constants_of(gpu)


def unknown_gpu(name: str) -> TgsError:
    """The error for a GPU without datasheet figures: they are not guessed."""
    known = sorted(catalog.load_gpus())
    chip = re.split(r"[\W_]+", name.upper().removeprefix("NVIDIA ").removeprefix("AMD "))[0]
    others = [gpu for gpu in known if chip and chip in gpu.upper().split("-")]
    near = f"others of that chip: {', '.join(others)}" if others else nearest(name, known)
    return TgsError(
        f"unknown GPU {name!r}: no peak is known and none is guessed; {near}; known: {', '.join(known)}",
        hint="describe it in ./presets/hardware/NAME.toml (copy a shipped one: `tgsbench plan --list-gpus`)",
        exit_code=ExitCode.UNKNOWN_HARDWARE,
    )


def attention_speed(constants: Constants, kernel: str, head_dim: int) -> AttentionSpeed:
    """Speed of a kernel at a head dimension: measured, interpolated, or the nearest measured one.

    Raises TgsError when the kernel was never measured on this GPU.
    """
    rows = sorted((row for row in constants.attention if row.kernel == kernel), key=lambda row: row.head_dim)
    if not rows:
        known = sorted({row.kernel for row in constants.attention})
        raise TgsError(
            f"no speed of attention kernel {kernel!r} on {constants.name}; known: {', '.join(known)}",
            hint="choose one of them with --set engine.kernel=NAME",
            exit_code=ExitCode.UNKNOWN_HARDWARE,
        )
    below = [row for row in rows if row.head_dim <= head_dim]
    above = [row for row in rows if row.head_dim >= head_dim]
    if not below or not above:
        # A kernel works in tiles of the head dimension: narrower heads waste a share of the nearest tile.
        edge = rows[0] if not below else rows[-1]
        scale = min(1.0, head_dim / edge.head_dim)
        return replace(
            edge,
            head_dim=head_dim,
            forward_tflops=edge.forward_tflops * scale,
            backward_tflops=edge.backward_tflops * scale,
        )
    low, high = below[-1], above[0]
    if low.head_dim == high.head_dim:
        return low
    share = (head_dim - low.head_dim) / (high.head_dim - low.head_dim)

    def between(a: float, b: float) -> float:
        return a + share * (b - a)

    return replace(
        low,
        head_dim=head_dim,
        forward_tflops=between(low.forward_tflops, high.forward_tflops),
        backward_tflops=between(low.backward_tflops, high.backward_tflops),
        half_len=between(low.half_len, high.half_len),
    )
