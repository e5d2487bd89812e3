"""FP8 operands of matrix products: their scales, their rounding, and the product on a GPU or a CPU.

Scales are powers of two, so that multiplying by one rounds nothing: an operand is rounded once, to FP8. Each
operand is scaled along the sum of its product, from what it holds at that moment (no history). On a CPU the
same rounded operands are multiplied in fp32. Sources: Micikevicius et al. 2022 (arXiv 2209.05433) for the
formats, OCP Microscaling Formats 1.0 for blocks of 32.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import ScalingType, SwizzleType, scaled_mm
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from tgsbench.errors import ExitCode, TgsError

BLOCK = 32
"""Values along the sum that share a scale under "mxfp8"."""
_LARGEST_EXPONENT = {torch.float8_e4m3fn: 8, torch.float8_e5m2: 15}
"""Both formats end at 1.75 · 2^exponent: 448 and 57,344."""
_EXPONENT_BITS, _ONE_EXPONENT = 0x7F800000, 1 << 23
_ABOVE_175 = 0x1FFFFF
"""Added to an fp32 number's bits it moves the exponent up where the mantissa is above 1.75."""
_MOST_VARIANTS = 64
_KINDS = {"rowwise": ScalingType.RowWise, "tensorwise": ScalingType.TensorWise,
          "mxfp8": ScalingType.BlockWise1x32}  # fmt: skip


class Operand(NamedTuple):
    """A matrix in FP8, row-major, the sum of its product along its rows."""

    values: Tensor
    """[rows, k], or [rows, k / 32, 32] as they were scaled; see `matrix`."""
    scale_bits: Tensor
    """Bits of the fp32 scales: [rows, 1], [rows, k / 32] or []."""
    dtype: torch.dtype
    """What it was before."""

    @property
    def matrix(self) -> Tensor:
        """Values [rows, k]."""
        return self.values.flatten(1)

    @property
    def scales(self) -> Tensor:
        """What values are multiplied by, in fp32."""
        return self.scale_bits.view(torch.float32)


@dataclass(frozen=True)
class Scaling:
    """How the operands of a product get their scales."""

    recipe: str
    """rowwise, tensorwise or mxfp8."""
    left_format: torch.dtype
    """FP8 format of left operands; right ones are e4m3."""
    is_fast: bool
    """May a Hopper GPU keep sums in fewer bits than fp32?"""

    def left(self, a: Tensor) -> Operand:
        """`a` [m, k] in FP8."""
        return quantised(a, self.recipe, self.left_format)

    def right(self, b: Tensor) -> Operand:
        """`b` [k, n] in FP8, transposed: [n, k]."""
        return quantised(b.t(), self.recipe, torch.float8_e4m3fn)


def quantised(x: Tensor, recipe: str, kind: torch.dtype) -> Operand:
    """x [rows, k] of any strides in FP8, so that the largest value of each scale uses up the format.

    On a GPU by one to three kernels of torch's compiler in place of seven.
    """
    values, bits = _fused(cast_to_fp8, x)(x, recipe, kind)
    return Operand(values, bits, x.dtype)


def cast_to_fp8(x: Tensor, recipe: str, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values and scale bits of an operand; see `quantised`."""
    if recipe == "mxfp8":
        x = x.unflatten(1, (-1, BLOCK))
    dim = None if recipe == "tensorwise" else -1
    largest = torch.linalg.vector_norm(x, torch.inf, dim, keepdim=dim is not None, dtype=torch.float32)
    bits = scale_bits(largest, kind)
    inverse = (254 * _ONE_EXPONENT - bits).view(torch.float32).to(x.dtype)
    if torch.compiler.is_compiling():
        values = (x * inverse).to(kind).contiguous()
    else:  # in one pass over memory
        values = torch.mul(x, inverse, out=torch.empty(x.shape, dtype=kind, device=x.device))
    return values, bits.squeeze(-1) if recipe == "mxfp8" else bits


def _fused(function: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    """The function compiled where x is on a GPU, Triton is there, and nobody compiles or watches it."""
    watched = torch.compiler.is_compiling() or is_in_torch_dispatch_mode()
    return fused(function) if x.is_cuda and _has_triton() and not watched else function


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function by torch's compiler, for all sizes at once: a layer's operands have a dozen.

    It compiles again for each order of strides and where two sizes happen to be equal, more often than the 8
    times after which torch would go back to eager kernels.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_VARIANTS)
    return torch.compile(function, dynamic=True)


def scale_bits(largest: Tensor, kind: torch.dtype) -> Tensor:
    """Bits of the least power of two that brings fp32 values into a format's range; writes over `largest`."""
    bits = largest.view(torch.int32).add_(_ABOVE_175 - _LARGEST_EXPONENT[kind] * _ONE_EXPONENT)
    return bits.clamp_(min=_ONE_EXPONENT).bitwise_and_(_EXPONENT_BITS)


def multiply(a: Operand, b: Operand, scaling: Scaling) -> Tensor:
    """a · bᵀ in the dtype that `a` had: a [m, k], b [n, k] -> [m, n]."""
    if a.values.device.type == "cpu":
        return (_restored(a) @ _restored(b).t()).to(a.dtype)
    kind = _KINDS[scaling.recipe]
    swizzle = SwizzleType.SWIZZLE_32_4_4 if scaling.recipe == "mxfp8" else SwizzleType.NO_SWIZZLE
    return scaled_mm(
        a.matrix,
        b.matrix.t(),
        _scales_for(a, scaling.recipe),
        kind,
        _scales_for(b, scaling.recipe).t() if scaling.recipe == "rowwise" else _scales_for(b, scaling.recipe),
        kind,
        swizzle_a=swizzle,
        swizzle_b=swizzle,
        output_dtype=a.dtype,
        use_fast_accum=scaling.is_fast and scaling.recipe != "mxfp8",
    )


def _restored(x: Operand) -> Tensor:
    """The rounded values in fp32, which holds them exactly."""
    scales = x.scales.unsqueeze(-1) if x.values.dim() == 3 else x.scales
    return x.values.float().mul_(scales).flatten(1)


def _scales_for(x: Operand, recipe: str) -> Tensor:
    if recipe != "mxfp8":
        return x.scales
    swizzle = _fused(swizzled, x.scale_bits)
    return swizzle(x.scale_bits).view(torch.float8_e8m0fnu)  # type: ignore[no-any-return]


def swizzled(bits: Tensor) -> Tensor:
    """Scales [rows, blocks] as tensor cores read them: one byte each, in tiles of 128 x 4 as 32 x 4 x 4.

    Source: cuBLAS documentation, "1D block scaling factors layout".
    """
    rows, columns = bits.shape
    exponents = (bits >> 23).to(torch.uint8)
    padded = torch.nn.functional.pad(exponents, (0, -columns % 4, 0, -rows % 128))
    tiles = padded.view(-(-rows // 128), 4, 32, -(-columns // 4), 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(-1)


def require_fp8(device: torch.device, recipe: str) -> None:
    """Raise TgsError unless this device multiplies in FP8 with such scales; a CPU emulates it."""
    if device.type == "cpu":
        return
    have, need = torch.cuda.get_device_capability(device), (10, 0) if recipe == "mxfp8" else (8, 9)
    if have < need:
        name = torch.cuda.get_device_name(device)
        raise TgsError(
            f"training.fp8_recipe={recipe}: {name} is of compute capability {have[0]}.{have[1]}, "
            f"its products need {need[0]}.{need[1]}",
            hint="--set training.linear=plain" if have < (8, 9) else "--set training.fp8_recipe=rowwise",
            exit_code=ExitCode.UNSUPPORTED,
        )
