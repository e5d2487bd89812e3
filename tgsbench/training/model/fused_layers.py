"""Norms, SwiGLU and RoPE in fewer passes over memory: torch code, or Liger's kernels if asked for.

At 128k tokens a layer's matrix products and attention leave these to memory bandwidth: transformers' RMSNorm
moves about 36 bytes a value (fp32 copies), the fused one 4. The modules keep their class's parameters, so
names, shapes and initial values stay what they are. Which classes of a family they replace, it says itself.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tgsbench.errors import ExitCode, TgsError
from tgsbench.install import pip_install
from tgsbench.schema.preset import EngineOptions
from tgsbench.training.model.cpu_bf16 import Fp32Linear
from tgsbench.training.model.products import LayerProducts
from tgsbench.training.model.tiled_mlp import TILE_TOKENS, tiled_mlp

_plain_ropes: dict[ModuleType, Any] = {}
"""The RoPE that a module of transformers had before it was replaced."""


@dataclass(frozen=True)
class FusingRules:
    """What of a family can be fused."""

    norm: type[nn.Module] | None
    """RMSNorm with `weight` and `variance_epsilon`; None: the family's is another one."""
    mlp: type[nn.Module] | None
    """SwiGLU with gate_proj, up_proj and down_proj; None: the family has no such module."""
    module: ModuleType | None
    """The module whose `apply_rotary_pos_emb` its attention calls; None: the family's turns other pairs."""


def fuse(decoder: nn.Module, engine: EngineOptions, rules: FusingRules) -> str:
    """Swap a decoder's norms and MLPs in place, and RoPE for the whole process; says what runs.

    Under torch.compile transformers' own code stays, because the compiler fuses it; Liger's kernels need a
    CUDA device at run time. Raises TgsError when Liger is asked for and missing, or an MLP in tiles where
    there is none that can be cut.
    """
    if engine.tiled_mlp and rules.mlp is None:
        raise TgsError("engine.tiled_mlp=true: this model's MLP has no tiles", exit_code=ExitCode.UNSUPPORTED)
    norm: type[nn.Module] | None
    mlp: type[nn.Module] | None
    if engine.liger:
        require_liger()
        norm, mlp, rope, source = LigerNorm, LigerMLP, _liger_rope(), f"liger-kernel {liger_version()}"
    elif engine.compile:
        norm, mlp, rope, source = rules.norm, rules.mlp, None, "torch.compile"
    else:
        norm, mlp, rope, source = FusedNorm, FusedMLP, fused_rope, "torch"
    for module in decoder.modules():
        if norm is not None and type(module) is rules.norm:
            module.__class__ = norm
        elif mlp is not None and type(module) is rules.mlp:
            module.__class__ = TiledMLP if engine.tiled_mlp else mlp
        elif type(module) is nn.Linear and not engine.compile:
            module.__class__ = Fp32Linear
    if rules.module is not None:
        _swap_rope(rules.module, rope)
    kinds = (rules.norm, "norms"), (rules.module, "RoPE"), (rules.mlp, "SwiGLU")
    swapped = [name for of_family, name in kinds if of_family is not None]
    return f"{_listed(swapped)} by {source}" + (", the MLP tiled" if engine.tiled_mlp else "")


def _swap_rope(module: Any, rope: Any) -> None:
    """Another RoPE for all that a module of transformers builds; None: its own."""
    plain = _plain_ropes.setdefault(module, module.apply_rotary_pos_emb)
    module.apply_rotary_pos_emb = rope or plain


def _listed(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def unfuse() -> None:
    """Give transformers its own RoPE back."""
    for module, rope in _plain_ropes.items():
        module.apply_rotary_pos_emb = rope  # type: ignore[attr-defined]


def liger_version() -> str:
    """Version of liger-kernel, or an empty string where it is not installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        return ""
    return importlib.metadata.version("liger-kernel")


def require_liger() -> None:
    """Raise TgsError unless liger-kernel is installed."""
    if not liger_version():
        raise TgsError(
            "engine.liger=true needs liger-kernel",
            hint=f"{pip_install('gpu')}, or engine.liger=false: torch code does the same",
            exit_code=ExitCode.MISSING_DEPENDENCY,
        )


class FusedNorm(nn.Module):
    """RMSNorm that keeps its input alone: torch's one kernel on CUDA (since 2.9), a function elsewhere."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states [..., h] -> the same shape and dtype."""
        weight = self.weight.to(hidden_states.dtype)
        if hidden_states.is_cuda:
            return functional.rms_norm(hidden_states, weight.shape, weight, self.variance_epsilon)
        out: Tensor = _RmsNorm.apply(hidden_states, weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
        return out


class FusedMLP(nn.Module):
    """SwiGLU that keeps gate and up only, and makes the rest of its gradient's inputs again."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """x [..., h] -> [..., h]."""
        product = _SiluMul.apply(self.gate_proj(x), self.up_proj(x))  # type: ignore[no-untyped-call]
        out: Tensor = self.down_proj(product)
        return out


class TiledMLP(nn.Module):
    """The MLP over one stretch of the sequence after the other: no [s, i] tensor exists."""

    tile_tokens = TILE_TOKENS
    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear
    products: LayerProducts | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., h] -> [..., h]."""
        weights = self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight
        return tiled_mlp(x, *weights, self.tile_tokens, self.products)


class LigerNorm(nn.Module):
    """Liger's RMSNorm kernel."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states [..., h] -> the same shape and dtype."""
        from liger_kernel.ops.rms_norm import LigerRMSNormFunction

        # Not in place: the incoming gradient may be the residual stream's, which others still read.
        out: Tensor = LigerRMSNormFunction.apply(
            hidden_states, self.weight, self.variance_epsilon, 0.0, "llama", False
        )
        return out


class LigerMLP(nn.Module):
    """Liger's SwiGLU kernel."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """x [..., h] -> [..., h]."""
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        out: Tensor = self.down_proj(LigerSiLUMulFunction.apply(self.gate_proj(x), self.up_proj(x)))
        return out


def fused_rope(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *_: Any, unsqueeze_dim: int = 1, **__: Any
) -> tuple[Tensor, Tensor]:
    """Rotate q [B, a, s, d] and k [B, n, s, d] by cos and sin [B, s, d] without temporaries of their size."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    rotate: Any = _Rotate.apply
    return rotate(q, cos, sin), rotate(k, cos, sin)


class _Rotate(torch.autograd.Function):
    """(x1, x2) -> (x1·cos − x2·sin, x2·cos + x1·sin) over the halves of the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return rotated(grads[0], cos, sin, -1.0), None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float, into: Tensor | None = None) -> Tensor:
    """RoPE of x [..., d], or for sign -1 back; written to `into` if given.

    cos and sin: [..., d], where both halves are alike, or one half alone.
    """
    if cos.shape[-1] < x.shape[-1]:
        cos = torch.cat([cos, cos], dim=-1)
    out = torch.mul(x, cos, out=torch.empty_like(x) if into is None else into)
    # transformers repeats the angles in both halves, so either half of sin is enough.
    half = x.shape[-1] // 2
    sin = sin[..., :half]
    out[..., :half].addcmul_(x[..., half:], sin, value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin, value=sign)
    return out


def norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x) · w in fp32, rounded once, and 1 / rms(x) [..., 1] in fp32; one kernel on CUDA."""
    if x.is_cuda:
        return torch.ops.aten._fused_rms_norm(x, weight.shape, weight, eps)  # type: ignore[no-any-return]
    # Contiguous: rows of a tensor laid out as a transposed x would be copies, and what they got lost.
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    inverse = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    for rows, into, scale in _cached_rows(x, out, inverse):
        wide = rows.float()
        scale.copy_(wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_())
        torch.mul(wide * scale, weight, out=into)
    return out, inverse


def norm_backward(grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a norm's input and weight; `inverse` as `norm_forward` gave it."""
    if x.is_cuda:
        return torch.ops.aten._fused_rms_norm_backward(  # type: ignore[no-any-return]
            grad, x, weight.shape, inverse, weight, [True, True]
        )
    grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_weight = torch.zeros_like(weight, dtype=torch.float32)
    mean = weight.float() / weight.numel()
    for of_rows, rows, scale, into in _cached_rows(grad, x, inverse, grad_x):
        unit, wide = rows.float() * scale, of_rows.float()
        of_weights = wide * unit
        grad_weight.add_(of_weights.sum(0))
        along = torch.mv(of_weights, mean).unsqueeze(1)
        torch.mul((wide * weight).addcmul_(unit, along, value=-1), scale, out=into)
    return grad_x, grad_weight.to(weight.dtype)


_CACHED_BYTES = 256 << 10
"""Of a CPU's second cache, which holds 1 MiB or more: a norm has three tensors of its rows at once."""


def _cached_rows(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """[..., n] of each tensor as [t, n], a few rows of all at a time.

    Passes over more than a core's cache wait for memory, which all cores share: forward and backward of a
    norm over [4096, 256] take 3.7 ms whole and 2.3 ms by rows.
    """
    flat = [tensor.flatten(0, -2) for tensor in tensors]
    num_rows = max(1, _CACHED_BYTES // (4 * flat[0].shape[1]))
    return zip(*(tensor.split(num_rows) for tensor in flat), strict=True)


def add_norm_backward(
    total: Tensor, grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor, num_rows: int = 0
) -> Tensor:
    """Add the gradient of a norm's input to `total`, all [T, h], and give that of its weight.

    So many rows at a time, which spares a tensor [T, h]; 0: all at once.
    """
    if not num_rows:
        grad_x, of_weight = norm_backward(grad, x, inverse, weight)
        total.add_(grad_x)
        return of_weight
    of_weight = torch.zeros_like(weight, dtype=torch.float32)
    for into, *own in zip(*(tensor.split(num_rows) for tensor in (total, grad, x, inverse)), strict=True):
        grad_x, of_rows = norm_backward(own[0], own[1], own[2], weight)
        into.add_(grad_x)
        of_weight.add_(of_rows)
    return of_weight.to(weight.dtype)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, inverse = norm_forward(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        return *norm_backward(grads[0], x, inverse, weight), None


class _SiluMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        # The incoming gradient was made by down_proj for this function alone.
        return swiglu_backward(grads[0], *ctx.saved_tensors)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up outside autograd."""
    return functional.silu(gate).mul_(up)


def swiglu_backward(
    grad: Tensor, gate: Tensor, up: Tensor, silu: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up from that of silu(gate) · up, whose place the gate's takes.

    Two [s, i] tensors less at the peak of a layer's backward: 5.4 GiB of 7B shapes at 128k tokens. `silu`: of
    the gate, where it is there; the gradient of up takes its place.
    """
    grad_up = (functional.silu(gate) if silu is None else silu).mul_(grad)
    grad_gate = grad.mul_(up)
    torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
    return grad_gate, grad_up


def _liger_rope() -> Any:
    """Liger's RoPE; it rotates in place, which is safe for outputs of q_proj and k_proj that nobody saves."""
    from liger_kernel.transformers.rope import liger_rotary_pos_emb

    return liger_rotary_pos_emb
