"""fp64 decoders of verify's own: forward and loss of every family, apart from what is trained.

They share with the trained code the seeded weights (by name) and nothing else: no transformers module, no
attention kernel. Sources: RMSNorm (Zhang 2019), rotary embedding (Su 2021; half-split as in Llama's weights,
interleaved as in DeepSeek's), SwiGLU (Shazeer 2020), windows and sinks (gpt-oss model card), latent attention
and routing by sigmoid (arXiv 2405.04434, 2412.19437), routing by softmax (Mixtral, arXiv 2401.04088).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tgsbench.schema.model import Experts, ModelShape
from tgsbench.training.model.build import draw
from tgsbench.training.routes import TieBreaker

_QUERIES = 64
"""At once: their scores stay in a core's cache, and no key after them is looked at."""

Weights = dict[str, Tensor]
Sizes = dict[str, tuple[int, ...]]


class PackRow(NamedTuple):
    """One pack: tokens and labels int64 [S], positions [S], and which keys a query may see, bool [S, S]."""

    tokens: Tensor
    labels: Tensor
    positions: Tensor
    sees: Tensor
    ties: TieBreaker | None = None
    """Knows which experts the tokens of this pack were sent to, where their scores leave it open."""


class Traits(NamedTuple):
    """In what a family differs from Llama."""

    biased: tuple[str, ...] = ()
    """Projections that have a bias whatever the shape says."""
    biased_if_said: tuple[str, ...] = ()
    """Those that have one where the shape says so; empty: all of them."""
    qk_norm: bool = False
    head_norms: tuple[str, str] = ("q_norm", "k_norm")
    norms_all_heads: bool = False
    """Is that one norm over all heads?"""
    turned_first: bool = False
    """Are heads normalised behind RoPE?"""
    norms: tuple[str, str, str, str] = ("input_layernorm", "", "post_attention_layernorm", "")
    """Before and behind attention, before and behind the MLP."""
    gemma: bool = False
    """1 + weight in norms, a scaled embedding, GELU."""
    local_theta: float = 0.0
    """Base of the frequencies in windowed layers; 0: that of the others."""
    pairs: bool = False
    """RoPE turns neighbouring values."""
    still_every: int = 0
    """Each layer of this number has no positions."""
    still_full: bool = False
    """Have full layers no positions where others have a window?"""
    sinks: bool = False
    joined: tuple[str, ...] = ()
    """What is one product: `qkv`, `gate_up`."""
    router: str = "mlp.gate"
    sigmoid: bool = False
    """A router's scores are chances of their own, not shares of one."""
    windows: str = ""
    """Kinds of layers where the shape names none: w sees a window, f everything; repeated."""


_BEHIND = ("", "post_attention_layernorm", "", "post_feedforward_layernorm")
_GEMMA = (
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm",
)  # fmt: skip
_AROUND = ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm")
_GLM = Traits(biased_if_said=("q_proj", "k_proj", "v_proj"), pairs=True, joined=("gate_up",))
_TRAITS = {
    "qwen2": Traits(biased=("q_proj", "k_proj", "v_proj")),
    "qwen3": Traits(qk_norm=True),
    "qwen3_moe": Traits(qk_norm=True),
    "deepseek_v3": Traits(sigmoid=True),
    "glm4_moe": Traits(biased_if_said=("q_proj", "k_proj", "v_proj"), sigmoid=True),
    "phi3": Traits(joined=("qkv", "gate_up")),
    "gemma3_text": Traits(qk_norm=True, gemma=True, norms=_GEMMA, windows="wwwwwf", local_theta=10_000.0),
    "gemma2": Traits(gemma=True, norms=_GEMMA, windows="wf"),
    "gpt_oss": Traits(sinks=True, router="mlp.router", windows="wf"),
    "olmo2": Traits(qk_norm=True, norms_all_heads=True, norms=_BEHIND),
    "olmo3": Traits(qk_norm=True, norms_all_heads=True, norms=_BEHIND, windows="wwwf"),
    "exaone4": Traits(qk_norm=True, norms=_BEHIND, still_full=True),
    "smollm3": Traits(still_every=4),
    "seed_oss": Traits(biased_if_said=("q_proj", "k_proj", "v_proj")),
    "hunyuan_v1_dense": Traits(
        qk_norm=True, head_norms=("query_layernorm", "key_layernorm"), turned_first=True
    ),
    "ernie4_5": Traits(pairs=True),
    "glm": _GLM,
    "glm4": _GLM._replace(norms=_AROUND),
}
_LATENT_EPS = 1e-6
"""Of the norms of latents, whatever the shape's is."""


def seeded_weights(shape: ModelShape, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Values by the names of the trained parameters, drawn in fp32 as training does, then widened."""
    traits = _TRAITS.get(shape.family, Traits())
    h = shape.hidden_size
    sizes: Sizes = {"model.embed_tokens.weight": (shape.vocab_size, h)}
    for layer in range(shape.num_layers):
        own = _attention_sizes(shape, traits) | _mlp_sizes(shape, traits, layer) | _norm_sizes(shape, traits)
        sizes |= {f"model.layers.{layer}.{name}": size for name, size in own.items()}
    sizes["model.norm.weight"] = (h,)
    if not shape.tie_word_embeddings:
        sizes["head.weight"] = (shape.vocab_size, h)
    for name, size in sizes.items():
        if name.endswith("norm.weight"):
            yield name, torch.full(size, 0.0 if traits.gemma else 1.0, dtype=torch.float64)
        else:
            yield name, draw(name, torch.Size(size), seed, torch.device("cpu")).double()


def _attention_sizes(shape: ModelShape, traits: Traits) -> Sizes:
    h, heads = shape.hidden_size, shape.num_query_heads
    if (mla := shape.latent) is not None:
        sizes = {
            "kv_a_proj_with_mqa": (mla.kv_rank + mla.rope_dim, h),
            "kv_b_proj": (heads * (mla.nope_dim + mla.value_dim), mla.kv_rank),
            "o_proj": (h, heads * mla.value_dim),
        }
        queries = heads * (mla.nope_dim + mla.rope_dim)
        low = {"q_a_proj": (mla.query_rank, h), "q_b_proj": (queries, mla.query_rank)}
        sizes |= low if mla.query_rank else {"q_proj": (queries, h)}
    else:
        q, kv = heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
        sizes = {"q_proj": (q, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, q)}
        if "qkv" in traits.joined:
            sizes = {"qkv_proj": (q + 2 * kv, h), "o_proj": (h, q)}
    biased = (traits.biased_if_said or tuple(sizes)) if shape.attention_bias else traits.biased
    found: Sizes = {f"self_attn.{name}.weight": size for name, size in sizes.items()}
    found |= {f"self_attn.{name}.bias": (sizes[name][0],) for name in biased}
    return found | ({"self_attn.sinks": (heads,)} if traits.sinks else {})


def _mlp_sizes(shape: ModelShape, traits: Traits, layer: int) -> Sizes:
    h, experts = shape.hidden_size, shape.experts
    if experts is None or layer < experts.dense_first:
        i = shape.intermediate_size
        if "gate_up" in traits.joined:
            return {"mlp.gate_up_proj.weight": (2 * i, h), "mlp.down_proj.weight": (h, i)}
        return _gated("mlp", h, i)
    e, i, num = experts, experts.intermediate_size, experts.num
    sizes: Sizes = {f"{traits.router}.weight": (num, h)}
    if traits.sinks:  # gpt-oss keeps its experts transposed, and has biases
        sizes |= {
            f"{traits.router}.bias": (num,),
            "mlp.experts.gate_up_proj": (num, h, 2 * i),
            "mlp.experts.gate_up_proj_bias": (num, 2 * i),
            "mlp.experts.down_proj": (num, i, h),
            "mlp.experts.down_proj_bias": (num, h),
        }
    else:
        sizes |= {"mlp.experts.gate_up_proj": (num, 2 * i, h), "mlp.experts.down_proj": (num, h, i)}
    shared = e.shared_intermediate_size
    return sizes | (_gated("mlp.shared_experts", h, shared) if shared else {})


def _gated(at: str, h: int, i: int) -> Sizes:
    return {
        f"{at}.gate_proj.weight": (i, h), f"{at}.up_proj.weight": (i, h), f"{at}.down_proj.weight": (h, i),
    }  # fmt: skip


def _norm_sizes(shape: ModelShape, traits: Traits) -> Sizes:
    sizes: Sizes = {f"{name}.weight": (shape.hidden_size,) for name in traits.norms if name}
    if traits.qk_norm or shape.qk_norm is True:
        heads = (shape.num_query_heads, shape.num_kv_heads) if traits.norms_all_heads else (1, 1)
        for name, num in zip(traits.head_norms, heads, strict=True):
            sizes[f"self_attn.{name}.weight"] = (num * shape.head_dim,)
    if (mla := shape.latent) is not None:
        ranks = {"q_a_layernorm": mla.query_rank, "kv_a_layernorm": mla.kv_rank}
        sizes |= {f"self_attn.{name}.weight": (rank,) for name, rank in ranks.items() if rank}
    return sizes


def loss_sum(shape: ModelShape, weights: Weights, row: PackRow) -> Tensor:
    """Sum of the token losses of one pack."""
    traits = _TRAITS.get(shape.family, Traits())
    x = weights["model.embed_tokens.weight"][row.tokens]
    if traits.gemma:
        x = x * math.sqrt(shape.hidden_size)
    for layer in range(shape.num_layers):
        at = f"model.layers.{layer}."
        w = {name.removeprefix(at): value for name, value in weights.items() if name.startswith(at)}
        x = _layer(shape, traits, w, x, row, _place_of(shape, traits, layer))
    x = _normed(shape, traits, x, weights["model.norm.weight"])
    head = weights.get("head.weight", weights["model.embed_tokens.weight"])
    kept = row.labels >= 0
    logits = x[kept] @ head.T
    right = logits.gather(1, row.labels[kept][:, None])[:, 0]
    return (torch.logsumexp(logits, 1) - right).sum()


class _Place(NamedTuple):
    """What a layer's place among the others means for its attention."""

    windowed: bool
    turns: bool
    """Has it positions?"""


def _place_of(shape: ModelShape, traits: Traits, layer: int) -> _Place:
    kinds = [kind[0] for kind in shape.layer_pattern] or list(traits.windows) or ["f"]
    windowed = kinds[layer % len(kinds)] == "w"
    still = traits.still_full and "w" in kinds and not windowed
    if traits.still_every:
        still = (layer + 1) % traits.still_every == 0
    return _Place(windowed, not still)


def _layer(shape: ModelShape, traits: Traits, w: Weights, x: Tensor, row: PackRow, place: _Place) -> Tensor:
    def norm(value: Tensor, name: str) -> Tensor:
        return _normed(shape, traits, value, w[f"{name}.weight"]) if name else value

    before, behind, before_mlp, behind_mlp = traits.norms
    x = x + norm(_attention(shape, traits, w, norm(x, before), row, place), behind)
    return x + norm(_mlp(shape, traits, w, norm(x, before_mlp), row.ties), behind_mlp)


def _normed(shape: ModelShape, traits: Traits, x: Tensor, weight: Tensor, eps: float | None = None) -> Tensor:
    scale = 1 + weight if traits.gemma else weight
    mean = (x * x).mean(-1, keepdim=True)
    return x / torch.sqrt(mean + (shape.rms_norm_eps if eps is None else eps)) * scale


def _projected(w: Weights, name: str, x: Tensor) -> Tensor:
    made = x @ w[f"self_attn.{name}.weight"].T
    bias = w.get(f"self_attn.{name}.bias")
    return made if bias is None else made + bias


def _attention(
    shape: ModelShape, traits: Traits, w: Weights, x: Tensor, row: PackRow, place: _Place
) -> Tensor:
    """Softmax attention [S, h] -> [S, h]: query head n reads KV head n // (query heads per KV head)."""
    heads = _latent_heads if shape.latent is not None else _grouped_heads
    q, k, v = heads(shape, traits, w, x, row, place)
    sees = row.sees
    if place.windowed:
        index = torch.arange(len(x))
        sees = sees & (index[:, None] - index[None, :] < shape.window)
    owner = torch.arange(shape.num_query_heads) // (shape.num_query_heads // k.shape[1])
    q, k, v = (value.transpose(0, 1) for value in (q, k[:, owner], v[:, owner]))
    sink = w["self_attn.sinks"][:, None, None] if traits.sinks else None
    mixed = torch.cat([_mixed(q, k, v, sees, sink, begin) for begin in range(0, len(x), _QUERIES)], 1)
    return _projected(w, "o_proj", mixed.transpose(0, 1).reshape(len(x), -1))


def _mixed(q: Tensor, k: Tensor, v: Tensor, sees: Tensor, sink: Tensor | None, begin: int) -> Tensor:
    """Values [n, t, d] that a block of queries from `begin` on attends to; a sink takes its share of each."""
    end = min(begin + _QUERIES, q.shape[1])
    scores = q[:, begin:end] @ k[:, :end].transpose(1, 2) / math.sqrt(q.shape[-1])
    scores = scores.masked_fill(~sees[begin:end, :end], -math.inf)
    if sink is not None:
        scores = torch.cat([scores, sink.expand(-1, end - begin, 1)], -1)
    return torch.softmax(scores, -1)[..., :end] @ v[:, :end]


def _grouped_heads(
    shape: ModelShape, traits: Traits, w: Weights, x: Tensor, row: PackRow, place: _Place
) -> tuple[Tensor, Tensor, Tensor]:
    a, n, d = shape.num_query_heads, shape.num_kv_heads, shape.head_dim
    if "qkv" in traits.joined:
        q, k, v = _projected(w, "qkv_proj", x).split([a * d, n * d, n * d], -1)
    else:
        q, k, v = (_projected(w, f"{name}_proj", x) for name in "qkv")
    theta = (traits.local_theta if place.windowed else 0.0) or shape.rope_theta
    turn = _rotated_pairs if traits.pairs else _rotated
    heads = [q.view(-1, a, d), k.view(-1, n, d)]
    for turns in (traits.turned_first, not traits.turned_first):
        if turns and place.turns:
            heads = [turn(x, row.positions, theta) for x in heads]
        elif not turns:
            names = zip(heads, traits.head_norms, strict=True)
            heads = [_normed_head(shape, traits, x, w.get(f"self_attn.{name}.weight")) for x, name in names]
    return heads[0], heads[1], v.view(-1, n, d)


def _normed_head(shape: ModelShape, traits: Traits, x: Tensor, weight: Tensor | None) -> Tensor:
    """Each head of [S, n, d] for itself, or all of them together, where there is such a norm."""
    if weight is None:
        return x
    return _normed(shape, traits, x.flatten(1) if traits.norms_all_heads else x, weight).view_as(x)


def _latent_heads(
    shape: ModelShape, traits: Traits, w: Weights, x: Tensor, row: PackRow, place: _Place
) -> tuple[Tensor, Tensor, Tensor]:
    mla, heads = shape.latent, shape.num_query_heads
    assert mla is not None
    if mla.query_rank:
        low = _projected(w, "q_a_proj", x)
        q = _projected(
            w, "q_b_proj", _normed(shape, traits, low, w["self_attn.q_a_layernorm.weight"], _LATENT_EPS)
        )
    else:
        q = _projected(w, "q_proj", x)
    q_plain, q_turned = q.view(-1, heads, mla.nope_dim + mla.rope_dim).split([mla.nope_dim, mla.rope_dim], -1)
    low, k_turned = _projected(w, "kv_a_proj_with_mqa", x).split([mla.kv_rank, mla.rope_dim], -1)
    low = _normed(shape, traits, low, w["self_attn.kv_a_layernorm.weight"], _LATENT_EPS)
    both = _projected(w, "kv_b_proj", low).view(-1, heads, mla.nope_dim + mla.value_dim)
    k_plain, v = both.split([mla.nope_dim, mla.value_dim], -1)
    q_turned = _rotated_pairs(q_turned, row.positions, shape.rope_theta)
    k_turned = _rotated_pairs(k_turned[:, None], row.positions, shape.rope_theta).expand(-1, heads, -1)
    return torch.cat([q_plain, q_turned], -1), torch.cat([k_plain, k_turned], -1), v


def _rotated(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Pair (j, j + d/2) of every head turned by position / theta^(2j/d)."""
    half = x.shape[-1] // 2
    return torch.cat(_turned(x[..., :half], x[..., half:], positions, theta), -1)


def _rotated_pairs(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Pair (2j, 2j + 1) turned by the same angle."""
    return torch.stack(_turned(x[..., 0::2], x[..., 1::2], positions, theta), -1).flatten(-2)


def _turned(a: Tensor, b: Tensor, positions: Tensor, theta: float) -> tuple[Tensor, Tensor]:
    """Frequencies and angles are fp32 numbers, as the weights are; what follows from them is not rounded.

    Every implementation states the model so; at position 500 an angle in fp64 is another by 1.5e-5.
    """
    half = a.shape[-1]
    frequencies = (theta ** (-torch.arange(half).double() / half)).float()
    angle = (positions[:, None] * frequencies).double()
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    return a * cos - b * sin, b * cos + a * sin


def _mlp(shape: ModelShape, traits: Traits, w: Weights, x: Tensor, ties: TieBreaker | None) -> Tensor:
    if f"{traits.router}.weight" in w and shape.experts is not None:
        return _mixture(shape, traits, w, x, ties)
    act = _gelu if traits.gemma else _silu
    if "gate_up" in traits.joined:
        gate, up = (x @ w["mlp.gate_up_proj.weight"].T).chunk(2, -1)
        return (act(gate) * up) @ w["mlp.down_proj.weight"].T
    return _gated_mlp(w, "mlp", x, act)


def _gated_mlp(w: Weights, at: str, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    gate, up = x @ w[f"{at}.gate_proj.weight"].T, x @ w[f"{at}.up_proj.weight"].T
    return (act(gate) * up) @ w[f"{at}.down_proj.weight"].T


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _gelu(x: Tensor) -> Tensor:
    """Hendrycks and Gimpel's form by tanh."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _mixture(shape: ModelShape, traits: Traits, w: Weights, x: Tensor, ties: TieBreaker | None) -> Tensor:
    """Each token through its experts, one expert after the other, and through the shared MLP."""
    experts = shape.experts
    assert experts is not None
    chosen, shares = _routed(shape, traits, w, x, ties or TieBreaker())
    out = torch.zeros_like(x)
    for index in range(experts.num):
        token, place = (chosen == index).nonzero(as_tuple=True)
        made = _expert(traits, w, index, x[token]) * shares[token, place][:, None]
        out = out.index_add(0, token, made)
    if experts.shared_intermediate_size:
        out = out + _gated_mlp(w, "mlp.shared_experts", x, _silu)
    return out


def _routed(
    shape: ModelShape, traits: Traits, w: Weights, x: Tensor, ties: TieBreaker
) -> tuple[Tensor, Tensor]:
    """Experts of each token and what each counts for, [S, k]."""
    experts = shape.experts
    assert experts is not None
    scores = x @ w[f"{traits.router}.weight"].T + w.get(f"{traits.router}.bias", 0.0)
    chances = torch.sigmoid(scores) if traits.sigmoid else torch.softmax(scores, -1)
    ranked = chances.detach() if traits.sigmoid else scores.detach()
    own = _in_best_groups(ranked, experts).topk(experts.used, -1)[1]
    chosen = ties.settle(ranked, own, experts.groups, experts.used_groups)
    if traits.sinks:
        return chosen, torch.softmax(scores.gather(1, chosen), -1)
    shares = chances.gather(1, chosen)
    if experts.normalised:
        shares = shares / shares.sum(-1, keepdim=True)
    return chosen, shares * experts.scale


def _in_best_groups(chances: Tensor, experts: Experts) -> Tensor:
    """Chances of the groups whose two best experts have most; those of other groups are -inf."""
    if experts.groups == 1:
        return chances
    grouped = chances.view(len(chances), experts.groups, -1)
    best = grouped.topk(2, -1)[0].sum(-1).topk(experts.used_groups, -1)[1]
    kept = torch.zeros(grouped.shape[:2], dtype=torch.bool).scatter(1, best, True)
    return grouped.masked_fill(~kept[..., None], -math.inf).view_as(chances)


def _expert(traits: Traits, w: Weights, index: int, x: Tensor) -> Tensor:
    gate_up, down = w["mlp.experts.gate_up_proj"][index], w["mlp.experts.down_proj"][index]
    if not traits.sinks:
        gate, up = (x @ gate_up.T).chunk(2, -1)
        return (_silu(gate) * up) @ down.T
    both = x @ gate_up + w["mlp.experts.gate_up_proj_bias"][index]
    gate, up = both[:, ::2].clamp(max=7.0), both[:, 1::2].clamp(-7.0, 7.0)
    made = (up + 1) * gate / (1 + torch.exp(-1.702 * gate))
    return made @ down + w["mlp.experts.down_proj_bias"][index]
