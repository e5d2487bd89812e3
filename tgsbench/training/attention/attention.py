"""Sequence-parallel attention as a transformers attention function."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from tgsbench.schema import spans
from tgsbench.training.attention.documents import PackDocuments
from tgsbench.training.attention.kernels import AttentionKernel
from tgsbench.training.attention.windowed import PLAIN, Own
from tgsbench.training.parallel.tracing import span
from tgsbench.training.parallel.ulysses import gather_heads, own_heads, scatter_heads

NAME = "tgsbench"
"""The `attn_implementation` that models are built with; transformers makes no mask for it."""


class UlyssesAttention:
    """All-to-all, one kernel over the whole sequence with a share of the heads, all-to-all."""

    def __init__(self, kernel: AttentionKernel, group: dist.ProcessGroup | None) -> None:
        self.kernel = kernel
        self.group = group
        self.documents: PackDocuments | None = None
        """Boundaries of the current micro-step's pack; None: causal over the whole pack."""

    def register(self) -> None:
        """Make every layer built with NAME call this object.

        It stays outside compiled layers: traced into one, a selective checkpoint gave wrong gradients at
        sp 2 (torch 2.13: the loss was off by 0.19 after three steps).
        """
        AttentionInterface.register(NAME, torch.compiler.disable(self.__call__))

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float = 1.0,
        sliding_window: int | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """query and key [B, a or n, s, d], value [B, n, s, e] -> [B, s, a, e].

        `sliding_window`: tokens that a query sees, itself included; `s_aux`: a sink for each head [a].
        """
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        q, k, v = scatter_heads(q, k, v, self.group)
        own = Own(sliding_window or 0, None if s_aux is None else own_heads(s_aux, self.group))
        with span(spans.ATTENTION):
            out = self.attend(q, k, v, scaling, own)
        return gather_heads(out, self.group), None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, own: Own = PLAIN) -> Tensor:
        """One kernel over the whole sequence: q [B, S, a, d], k and v [B, S, n, d or e] -> [B, S, a, e]."""
        if self.documents is None or q.shape[0] == 1:
            return self._run(q, k, v, scaling, own)
        # Document boundaries run through all rows of a micro-batch laid end to end.
        rows_q, rows_k, rows_v = (x.flatten(0, 1).unsqueeze(0) for x in (q, k, v))
        return self._run(rows_q, rows_k, rows_v, scaling, own).view(*q.shape[:3], v.shape[3])

    def _run(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, own: Own) -> Tensor:
        """Values narrower than keys (latent attention) are padded: few kernels take two widths."""
        width = v.shape[3]
        if width != q.shape[3]:
            v = functional.pad(v, (0, q.shape[3] - width))
        extra = {} if own.is_plain else {"own": own}
        out = self.kernel.run(q, k, v, scaling, self.documents, **extra)
        return out[..., :width]
