"""What the backward of a whole layer holds where memory counts: it is made again, its MLP runs in tiles.

Attention goes in parts of its heads, each of which frees what it took, so the peak lies in one of several
moments: `training/model/whole_layer.py` has them in this order.
"""

from __future__ import annotations

from tgsbench.planner.activations import attention_workspace, lse, mlp_tiles, unit
from tgsbench.planner.counts import exchange_bytes
from tgsbench.planner.workload import StepWorkload


def are_tiled(work: StepWorkload) -> bool:
    """Are the layers of this kind?"""
    return work.whole_layers and work.tiled_mlp and work.checkpointing == "full"


def tiled_backward(work: StepWorkload) -> tuple[float, float]:
    """Activations, and buffers of all-to-alls with what attention received, at the fullest moment."""
    parts = (_attention_part(work, number) for number in range(1, work.head_parts + 1))
    held = max(_made_again(work), _mlp(work), _projections(work), *parts)
    received = exchange_bytes(work)[0] if work.ulysses > 1 else 0.0
    return held - received, received


def _hidden(work: StepWorkload) -> float:
    return unit(work, work.dims.hidden)


def _heads(work: StepWorkload) -> float:
    return unit(work, work.dims.query_heads * work.dims.head_dim)


def _keys(work: StepWorkload) -> float:
    """Keys and values."""
    return unit(work, 2 * work.kv_heads_sent * work.dims.head_dim)


def _kept(work: StepWorkload) -> float:
    """The gradient that came, the log-sum-exp, and input and its norm's result unless these are let go."""
    return _hidden(work) * (1 if work.lets_inputs_go else 3) + lse(work)


def _made_again(work: StepWorkload) -> float:
    """The output projection: q, k, v and attention's output, which comes back in parts, each copied once."""
    back = (1.0 + 1.0 / work.head_parts) * _heads(work) if work.ulysses > 1 else 0.0
    own_input = _hidden(work) if work.lets_inputs_go else 0.0
    return _kept(work) + own_input + _hidden(work) + _keys(work) + 2 * _heads(work) + back


def _mlp(work: StepWorkload) -> float:
    """The residual stream, and the norm's result whose place its gradient takes."""
    back = _heads(work) if work.ulysses > 1 else 0.0
    of_attention = _keys(work) + 2 * _heads(work) + back
    held = _kept(work) + 2 * _hidden(work) + of_attention
    return held + mlp_tiles(work)


def _attention_part(work: StepWorkload, number: int) -> float:
    """One part's attention: what the parts before gave, and what those behind still need."""
    share = 1.0 / work.head_parts
    behind, before = 1.0 - (number - 1) * share, (number - 1) * share
    ahead = share if behind > share else 0.0
    if work.ulysses > 1:
        # Of the next part's gradient there is what is sent and what comes, of q's that left before too.
        sent = before if not work.lets_inputs_go else min(before, share)
        queries = 2 * behind + share + 2 * ahead + share + before + sent
        returned = 0.0 if work.lets_inputs_go else 1.0
        sums = (1.0 + (number > 1)) if work.shares_kv else number * share
    else:
        queries = 1.0 + behind + share + ahead + before + share
        returned, sums = 0.0, number * share
    of_queries = (queries + returned) * _heads(work)
    return _kept(work) + of_queries + (1.0 + sums) * _keys(work) + attention_workspace(work)


def _projections(work: StepWorkload) -> float:
    """Gradients of q, k and v before and after RoPE, the input, its norm's result and gradient.

    Where heads are normed also what a part's norm took, made again, and one more gradient.
    """
    needed = _hidden(work) * (2 if work.lets_inputs_go else 0)
    own, part, is_normed = _heads(work) + _keys(work), _heads(work) / work.head_parts, _are_normed(work)
    if work.ulysses == 1:
        return _kept(work) + max(2 * own, own + needed + 3 * part * is_normed)
    turned = (2 + is_normed) * part
    return _kept(work) + needed + _hidden(work) + own + turned


def _are_normed(work: StepWorkload) -> bool:
    """Has every query's and every key's head a norm?"""
    return work.dims.head_norm_width > 0
