"""Layers that take a sequence in chunks: what one chunk holds, what waits on the host, what the link carries.

A chunk has t of a rank's tokens; U(x) is a tensor of t and width x in the compute precision.
"""

from __future__ import annotations

from msgspec.structs import replace

from tgsbench.planner.activations import attention_workspace, lse, mlp_gradients, unit
from tgsbench.planner.workload import StepWorkload

_FP32 = 4.0


def of_chunk(work: StepWorkload) -> StepWorkload:
    """The same work with the tokens of one chunk alone."""
    return replace(
        work,
        seq_len=work.seq_len // work.sequence_chunks,
        attended_len=min(work.attended_len, work.seq_len / work.sequence_chunks),
        sequence_chunks=1,
    )


def working_set(work: StepWorkload) -> dict[str, float]:
    """The backward of a layer at the chunk that holds most.

    Beside it the gradient of the layer's output over all chunks, which becomes that of its input, and the
    fp32 sum of its weights' gradients.
    """
    return {
        "layer_activations": unit(work, work.dims.hidden) + max(_mlp(of_chunk(work)), _attention(work)),
        "chunk_sums": _FP32 * work.dims.layer_weights,
        "angles": unit(work, 2 * work.dims.head_dim),
    }


def _kept(chunk: StepWorkload) -> float:
    """All through: the input, q, k, v, attention's output, log-sum-exp, and what of the next chunk waited."""
    heads, keys = _heads(chunk), _keys(chunk)
    inputs = 2 * unit(chunk, chunk.dims.hidden) if chunk.activation_offload else 0.0
    inputs += max(unit(chunk, keys), _kept_on_host(chunk))
    normed = unit(chunk, chunk.dims.hidden) if makes_keys_again(chunk) else 0.0
    returned = unit(chunk, heads) if chunk.ulysses > 1 else 0.0
    return inputs + normed + unit(chunk, 2 * heads + keys) + lse(chunk) + returned


def _mlp(chunk: StepWorkload) -> float:
    """In the MLP: the residual stream and its norm; unless in tiles gate, up and all three gradients."""
    between = unit(chunk, 3 * chunk.dims.intermediate + chunk.dims.hidden)
    between = 0.0 if chunk.tiled_mlp else between
    return _kept(chunk) + 2 * unit(chunk, chunk.dims.hidden) + between + mlp_gradients(chunk)


def _attention(work: StepWorkload) -> float:
    """In attention: gradients of q, k and v in fp32 and as a block gives them, blocks of earlier chunks."""
    chunk = of_chunk(work)
    heads, keys = _heads(chunk), _keys(chunk)
    sums = _FP32 * chunk.local_tokens * (heads + keys)
    gradients = unit(chunk, 2 * heads + keys)
    return _kept(chunk) + _blocks(work) + sums + gradients + attention_workspace(chunk)


def _blocks(work: StepWorkload) -> float:
    """Keys and fp32 sums of the earlier chunk in use and of the one that comes.

    The last chunk but one holds most: to keys before the last one nobody has given yet. Those of the chunk
    whose turn is next wait all through (`_kept`), and are among these where chunks are few.
    """
    if not work.earlier_chunks:
        return 0.0
    chunks, keys = work.sequence_chunks, unit(of_chunk(work), _keys(work))
    return keys * (min(2, max(0, chunks - 3)) + min(2, chunks - 1) * _FP32 / work.compute_bytes)


def _heads(work: StepWorkload) -> int:
    return work.dims.query_heads * work.dims.head_dim


def _keys(work: StepWorkload) -> int:
    """Values of keys and values together, as many a token of this rank before and after the all-to-alls."""
    return 2 * work.kv_heads_sent * work.dims.head_dim


def host_bytes(work: StepWorkload) -> float:
    """What waits in host memory of one rank beside the layers' inputs.

    Keys and values of one layer and their fp32 gradients. A selective checkpoint keeps outputs and
    log-sum-exp of all layers, and where ranks trade heads q, k, v and what came back.
    """
    of_one = unit(work, _keys(work)) * (1 + _FP32 / work.compute_bytes)
    return of_one + _kept_on_host(work) * work.dims.num_layers


def _kept_on_host(work: StepWorkload) -> float:
    """Of one layer, beside its input."""
    if work.checkpointing == "full":
        return 0.0
    exchanged = unit(work, 2 * _heads(work) + _keys(work)) if work.ulysses > 1 else 0.0
    return unit(work, _heads(work)) + lse(work) + exchanged


def makes_keys_again(work: StepWorkload) -> bool:
    """Does the backward begin with the keys and values of all chunks, from the layer's input?"""
    return work.checkpointing == "full" or work.ulysses == 1


def link_bytes(work: StepWorkload) -> tuple[float, float]:
    """Bytes between device and host of one layer, forward and backward, both ways: one stream has them.

    Keys leave in the forward, and again where they are made again; each meeting with an earlier chunk brings
    its keys, and in the backward their fp32 sums, which go back. Inputs are read twice by a full checkpoint.
    """
    inputs = unit(work, work.dims.hidden) if work.activation_offload else 0.0
    keys, selective = unit(work, _keys(work)), work.checkpointing == "selective"
    sums, kept = keys * _FP32 / work.compute_bytes, _kept_on_host(work)
    made_again = 1.0 if makes_keys_again(work) else 0.0
    met = work.earlier_chunks
    forward = inputs + kept + keys * (1 + met)
    backward = inputs * (1 + made_again) + kept
    backward += keys * (made_again + 1 + (1 if selective else 2) * met) + 2 * sums * met
    return forward, backward
