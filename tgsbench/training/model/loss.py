"""Linear + cross-entropy in chunks: no [s, V] logits tensor exists."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tgsbench.schema import spans
from tgsbench.training.model import fused_layers
from tgsbench.training.model.cpu_bf16 import linear, to_fp32
from tgsbench.training.parallel.tracing import span

IGNORE_INDEX = -100


class PassingNorm(nn.Module):
    """The last norm of a decoder whose loss head norms each chunk itself."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """hidden_states as they are."""
        return hidden_states


class LossHead(nn.Module):
    """The output projection and its loss as one module, so that FSDP gathers its weight around it."""

    def __init__(self, hidden_size: int, vocab_size: int, chunk_tokens: int, liger: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))
        self.chunk_tokens = chunk_tokens
        self.liger = liger
        self._norm: list[PassingNorm] = []
        """A module that is not one of this one's own."""

    def take_over(self, norm: nn.Module) -> None:
        """Norm each chunk before its logits: neither normed rows nor their gradients exist for all.

        The rows themselves become their gradients.
        """
        norm.__class__ = PassingNorm
        assert isinstance(norm, PassingNorm)
        self._norm.append(norm)

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Sum of token losses in fp32; hidden [B, s, h], labels [B, s] already shifted."""
        rows, targets = hidden.flatten(0, 1), labels.flatten()
        with span(spans.LOSS):
            if self.liger:
                return liger_linear_cross_entropy(rows, self.weight, targets)
            for norm in self._norm:
                weights, eps = (norm.weight, self.weight), norm.variance_epsilon
                total: Tensor = _NormedLoss.apply(rows, *weights, targets, eps, self.chunk_tokens)  # type: ignore[no-untyped-call]
                return total
            return linear_cross_entropy(rows, self.weight, targets, self.chunk_tokens)


def linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int) -> Tensor:
    """Sum over labelled tokens of −log softmax(hidden · weightᵀ)[label], in fp32.

    hidden [T, h], weight [V, h], labels [T] with IGNORE_INDEX for none. chunk_tokens = 0 makes whole
    logits. The chunks' gradients are computed in the forward, as Liger's kernel does (arXiv 2410.10989),
    so that logits are never recomputed. The weight's is summed over chunks in fp32: 128 sums in bf16
    (128k tokens) would round away what the later chunks add.
    """
    if chunk_tokens == 0:
        logits = linear(hidden, weight).float()
        return functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return _ChunkedLoss.apply(hidden, weight, labels, chunk_tokens)  # type: ignore[no-any-return, no-untyped-call]


def liger_linear_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The same by Liger's fused kernel, which picks its own chunks (CUDA)."""
    from liger_kernel.transformers.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyLoss

    options: dict[str, Any] = {"ignore_index": IGNORE_INDEX, "reduction": "sum"}
    if "accum_dtype" in inspect.signature(LigerFusedLinearCrossEntropyLoss).parameters:
        options["accum_dtype"] = torch.float32
    loss: Tensor = LigerFusedLinearCrossEntropyLoss(**options)(weight, hidden, labels)
    return loss.float()


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int) -> Tensor:
        needs_grad, dtype = hidden.requires_grad or weight.requires_grad, weight.dtype
        hidden, weight = to_fp32(hidden), to_fp32(weight)
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_grad else None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        labelled = (labels != IGNORE_INDEX).unsqueeze(1)
        target = labels.unsqueeze(1) * labelled
        for start in range(0, len(labels), chunk_tokens):
            piece = slice(start, start + chunk_tokens)
            rows = hidden[piece], target[piece], labelled[piece]
            total += _chunk(*rows, weight, _row(grad_hidden, piece), grad_weight)
        ctx.save_for_backward(*(None if g is None else g.to(dtype) for g in (grad_hidden, grad_weight)))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return grad_hidden.mul_(scale), grad_weight.mul_(scale), None, None


class _NormedLoss(torch.autograd.Function):
    """Norm, projection and loss of rows [T, h], whose gradient takes their place in the forward."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, norm_weight: Tensor, weight: Tensor, labels: Tensor, eps: float, tokens: int
    ) -> Tensor:
        dtype, wide = weight.dtype, to_fp32(weight)
        # Without its history: nobody reads the rows again, and autograd would take them for changed.
        into = rows.data if any(ctx.needs_input_grad) else None
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        of_norm, of_weight = (torch.zeros_like(w, dtype=torch.float32) for w in (norm_weight, weight))
        for piece, targets in zip(rows.split(tokens), labels.split(tokens), strict=True):
            normed, inverse = fused_layers.norm_forward(piece, norm_weight, eps)
            labelled = (targets != IGNORE_INDEX).unsqueeze(1)
            hidden = to_fp32(normed)
            grad = None if into is None else torch.empty_like(hidden)
            total += _chunk(hidden, targets.unsqueeze(1) * labelled, labelled, wide, grad, of_weight)
            if grad is not None:
                of_piece, share = fused_layers.norm_backward(grad.to(dtype), piece, inverse, norm_weight)
                piece.data.copy_(of_piece)
                of_norm.add_(share)
        ctx.save_for_backward(of_norm.to(dtype), of_weight.to(dtype))
        ctx.into = into
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        of_norm, of_weight = ctx.saved_tensors
        grad, ctx.into = ctx.into, None
        scaled = (each.mul_(grads[0]) for each in (grad, of_norm, of_weight))
        return *scaled, None, None, None


def _row(tensor: Tensor | None, piece: slice) -> Tensor | None:
    return None if tensor is None else tensor[piece]


def _chunk(
    hidden: Tensor,
    target: Tensor,
    labelled: Tensor,
    weight: Tensor,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
) -> Tensor:
    """Loss of one chunk of rows [t, h], targets and whether they count [t, 1].

    Its gradients are written to grad_hidden and added to grad_weight. Logits become exp(logit - max) in
    place, so that each is exponentiated once: torch.logsumexp does it in a second [t, V] and keeps none.
    """
    logits = functional.linear(hidden, weight).float()
    largest = logits.amax(dim=1, keepdim=True)
    from_largest = largest - logits.gather(1, target)
    odds = logits.sub_(largest).exp_()
    total = odds.sum(dim=1, keepdim=True)
    loss = (from_largest.add_(total.log()) * labelled).sum()
    if grad_hidden is not None and grad_weight is not None:
        # d loss / d logits = softmax − one-hot, in place of the logits.
        low = odds.mul_(labelled / total).scatter_add_(1, target, -labelled.float()).to(weight.dtype)
        torch.mm(low, weight, out=grad_hidden)
        _add_product(grad_weight, low.t(), hidden)
    return loss


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a · b; in a wider type than theirs it takes a product of its own."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)
