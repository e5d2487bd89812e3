"""An fp64 Llama of verify's own: forward, loss, clipping, AdamW and schedule, apart from what is trained.

It shares with the trained code the seeded weights (by name) and the token stream, and nothing else: no
transformers module, no attention kernel, no FSDP, no optimizer of torch. Sources: RMSNorm (Zhang 2019),
rotary embedding in the half-split form of the Llama weights (Su 2021), SwiGLU (Shazeer 2020), AdamW
(Loshchilov 2019), clipping by global norm as torch.nn.utils.clip_grad_norm_ states it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tgsbench.schema.preset import ModelShape, Preset
from tgsbench.training.model.build import draw
from tgsbench.training.observers import pack_arrays
from tgsbench.workload import PackedDataset

_EPS_ADAM = 1e-8
_EPS_CLIP = 1e-6
_QUERIES = 64
"""At once: their scores stay in a core's cache, and no key after them is looked at."""


@dataclass
class OracleStep:
    """What one optimizer step gave."""

    loss_sum: float
    num_labels: int
    grad_norm: float
    gradients: dict[str, Tensor] = field(default_factory=dict)
    """Whole gradients before clipping, fp64, by the names of the trained parameters."""


class Oracle:
    """Trains a shrunken Llama in fp64 on one process."""

    def __init__(self, preset: Preset, data: PackedDataset) -> None:
        self._preset = preset
        self._data = data
        self.start = dict(_weights(preset))
        self.weights = {name: w.clone().requires_grad_() for name, w in self.start.items()}
        self._first = {name: torch.zeros_like(w) for name, w in self.start.items()}
        self._second = {name: torch.zeros_like(w) for name, w in self.start.items()}

    def step(self, index: int, num_steps: int) -> OracleStep:
        """Optimizer step `index` of `num_steps`: loss, gradients, clipping, AdamW."""
        size = self._preset.packs_per_step
        rows = [_Row.of(self._preset, self._data, index * size + i) for i in range(size)]
        num_labels = sum(int((row.labels >= 0).sum()) for row in rows)
        loss_sum = 0.0
        for row in rows:
            loss = _loss(self._preset.model, self.weights, row)
            loss_sum += float(loss.detach())
            (loss / max(1, num_labels)).backward()
        gradients = {name: w.grad for name, w in self.weights.items() if w.grad is not None}
        norm = math.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
        self._update(index, num_steps, gradients, norm)
        return OracleStep(loss_sum, num_labels, norm, gradients)

    def _update(self, index: int, num_steps: int, gradients: dict[str, Tensor], norm: float) -> None:
        """AdamW with decoupled weight decay on clipped gradients; clears them."""
        training = self._preset.training
        scale = min(1.0, training.clip_norm / (norm + _EPS_CLIP))
        lr, count = _rate(self._preset, index, num_steps), index + 1
        with torch.no_grad():
            for name, raw in gradients.items():
                gradient, weight = raw * scale, self.weights[name]
                first, second = self._first[name], self._second[name]
                first += (1 - training.beta1) * (gradient - first)
                second += (1 - training.beta2) * (gradient * gradient - second)
                corrected = second.sqrt() / math.sqrt(1 - training.beta2**count) + _EPS_ADAM
                weight -= lr * training.weight_decay * weight
                weight -= lr * (first / (1 - training.beta1**count)) / corrected
                weight.grad = None


@dataclass(frozen=True)
class _Row:
    """One pack: tokens and labels int64 [S], positions [S], and which keys a query may see, bool [S, S]."""

    tokens: Tensor
    labels: Tensor
    positions: Tensor
    sees: Tensor

    @staticmethod
    def of(preset: Preset, data: PackedDataset, index: int) -> _Row:
        masked = preset.workload.document_mask
        tokens, labels, num_tokens, starts = pack_arrays(data, index % data.num_packs, masked)
        place = torch.arange(len(tokens))
        borders = sorted({0, *starts, num_tokens}) if masked else [0]
        document = torch.zeros_like(place)
        for border in borders[1:]:
            document += place >= border
        begin = torch.tensor(borders)[document.clamp(max=len(borders) - 1)]
        causal = place[:, None] >= place[None, :]
        same = document[:, None] == document[None, :]
        return _Row(torch.from_numpy(tokens), torch.from_numpy(labels), place - begin, causal & same)


def _weights(preset: Preset) -> Iterator[tuple[str, Tensor]]:
    """Seeded values by the names of transformers' Llama, drawn in fp32 as training does, then widened."""
    shape, seed = preset.model, preset.training.seed
    h, i = shape.hidden_size, shape.intermediate_size
    q, kv = shape.num_query_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocab_size, h)}
    for layer in range(shape.num_layers):
        at = f"model.layers.{layer}"
        sizes |= {
            f"{at}.self_attn.q_proj.weight": (q, h),
            f"{at}.self_attn.k_proj.weight": (kv, h),
            f"{at}.self_attn.v_proj.weight": (kv, h),
            f"{at}.self_attn.o_proj.weight": (h, q),
            f"{at}.mlp.gate_proj.weight": (i, h),
            f"{at}.mlp.up_proj.weight": (i, h),
            f"{at}.mlp.down_proj.weight": (h, i),
            f"{at}.input_layernorm.weight": (h,),
            f"{at}.post_attention_layernorm.weight": (h,),
        }
    sizes["model.norm.weight"] = (h,)
    if not shape.tie_word_embeddings:
        sizes["head.weight"] = (shape.vocab_size, h)
    for name, size in sizes.items():
        ones = len(size) == 1
        drawn = torch.ones(size) if ones else draw(name, torch.Size(size), seed, torch.device("cpu"))
        yield name, drawn.double()


def _loss(shape: ModelShape, weights: dict[str, Tensor], row: _Row) -> Tensor:
    """Sum of the token losses of one pack."""
    x = weights["model.embed_tokens.weight"][row.tokens]
    for layer in range(shape.num_layers):
        w = {name: weights[f"model.layers.{layer}.{name}.weight"] for name in _LAYER}
        x = x + _attention(shape, w, _norm(x, w["input_layernorm"], shape.rms_norm_eps), row)
        y = _norm(x, w["post_attention_layernorm"], shape.rms_norm_eps)
        gate = y @ w["mlp.gate_proj"].T
        x = x + (gate / (1 + torch.exp(-gate)) * (y @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T
    x = _norm(x, weights["model.norm.weight"], shape.rms_norm_eps)
    head = weights.get("head.weight", weights["model.embed_tokens.weight"])
    kept = row.labels >= 0
    logits = x[kept] @ head.T
    right = logits.gather(1, row.labels[kept][:, None])[:, 0]
    return (torch.logsumexp(logits, 1) - right).sum()


_LAYER = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
)  # fmt: skip


def _attention(shape: ModelShape, w: dict[str, Tensor], x: Tensor, row: _Row) -> Tensor:
    """Softmax attention [S, h] -> [S, h]: query head n reads KV head n // (query heads per KV head)."""
    size, group = len(x), shape.num_query_heads // shape.num_kv_heads
    q = (x @ w["self_attn.q_proj"].T).view(size, shape.num_query_heads, shape.head_dim)
    k = (x @ w["self_attn.k_proj"].T).view(size, shape.num_kv_heads, shape.head_dim)
    v = (x @ w["self_attn.v_proj"].T).view(size, shape.num_kv_heads, shape.head_dim)
    q, k = _rotated(q, row.positions, shape.rope_theta), _rotated(k, row.positions, shape.rope_theta)
    owner = torch.arange(shape.num_query_heads) // group
    q, k, v = (x.transpose(0, 1) for x in (q, k[:, owner], v[:, owner]))
    out = []
    for begin in range(0, size, _QUERIES):
        end = min(begin + _QUERIES, size)
        scores = q[:, begin:end] @ k[:, :end].transpose(1, 2) / math.sqrt(shape.head_dim)
        chances = torch.softmax(scores.masked_fill(~row.sees[begin:end, :end], -math.inf), -1)
        out.append(chances @ v[:, :end])
    return torch.cat(out, 1).transpose(0, 1).reshape(size, -1) @ w["self_attn.o_proj"].T


def _rotated(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Pair (j, j + d/2) of every head turned by position / theta^(2j/d)."""
    half = x.shape[-1] // 2
    angle = positions[:, None].double() * theta ** (-torch.arange(half).double() / half)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def _rate(preset: Preset, index: int, num_steps: int) -> float:
    """Learning rate of a step: a linear rise over the warm-up's steps, then half a cosine down to 0."""
    rise = max(1, round(preset.training.lr_warmup_ratio * num_steps))
    if index < rise:
        return preset.training.lr * (index + 1) / rise
    gone = min(1.0, (index - rise) / max(1, num_steps - rise))
    return preset.training.lr * (1 + math.cos(gone * math.pi)) / 2
