"""How each training system shards, sends, saves and recomputes: what its steps cost beyond the arithmetic.

Bytes of the eager decoder were counted on the operator stream of a step (`tgsbench plan --trace`); those
of other systems follow from their published sources. What an engine costs stands in its own file.
"""

from __future__ import annotations

from msgspec import Struct


class ElementwiseTraffic(Struct, frozen=True, kw_only=True):
    """Bytes that element-wise kernels read and write, forward and backward, per element of each width.

    `hidden` counts norms and residual adds of a layer, `rotary` the query and key heads, `mlp` the
    intermediate width, `exchange` what is packed and unpacked around an all-to-all.
    """

    hidden: tuple[float, float]
    rotary: tuple[float, float]
    mlp: tuple[float, float]
    exchange: tuple[float, float] = (6.0, 6.0)
    logits: float = 50.0
    """Per token and vocabulary entry, loss forward and backward."""


EAGER = ElementwiseTraffic(hidden=(84.0, 224.0), rotary=(20.0, 32.0), mlp=(10.0, 18.0))
"""transformers' Llama layer, one kernel per operator: RMSNorm in fp32 takes 36 and 106 bytes."""

FUSED = ElementwiseTraffic(hidden=(20.0, 36.0), rotary=(4.0, 4.0), mlp=(6.0, 10.0))
"""One kernel each for norm, rotary embedding and gated activation, in and out in bf16."""


OWN = ElementwiseTraffic(hidden=(20.0, 36.0), rotary=(10.0, 10.0), mlp=(10.0, 20.0))
"""This project's torch code: norms in one kernel, rotary embedding and gated activation in a few each."""


class System(Struct, frozen=True, kw_only=True):
    """One training system."""

    name: str
    parameter_bytes: int
    """Resident per parameter, sharded by stage 3: what is trained or its low-precision copy."""
    shards_masters: bool = False
    """Below stage 3 parameters stay sharded in fp32, and beside them is a whole copy in compute precision."""
    gradient_bytes: int
    optimizer_bytes: int
    """AdamW moments, and the fp32 master copy where parameters are kept in bf16."""
    streams_states: bool = False
    """Optimizer states in host memory pass the device, where the step runs, and gradients stay beside the
    parameters; False: the step runs on the host, and gradients lie there."""
    reduce_bytes: int = 4
    """Per gradient in a reduce-scatter, where the compute precision has no more."""
    copy_bytes: float = 26.0
    """Memory traffic per gathered parameter and micro-step: what collectives and their copies move."""
    optimizer_traffic: float = 40.0
    """Bytes per parameter of the shard: clip, AdamW, cast."""
    fused_exchange: bool = True
    """q, k and v travel in one all-to-all; False: three."""
    repeats_kv: bool = False
    """KV heads are repeated to all query heads before the all-to-all; False: only up to sp."""
    whole_logits: bool = False
    """Logits of the whole shard exist, whatever the preset says."""
    logits_bytes: float = 12.0
    """Per entry of whole logits at their peak: fp32 logits, log-softmax and its gradient."""
    norm_units: float = 8.0
    """What a layer's two norms save, in U(h): input in fp32, normed and scaled value each."""
    norm_keeps_checkpoint: bool = False
    """One of these is the layer's input itself, which a checkpoint keeps anyway."""
    seen_on_allocator: bool = False
    """Was it looked at on torch's allocator what a layer's backward holds, and until when? Elsewhere count to
    the layer's end the input of the norm before the MLP, results of heads' norms and what came back from
    attention, and gradients of the rows of experts do not."""
    mlp_units: float = 4.0
    """What a gated MLP saves, in U(i): gate, up, activation, product."""
    mlp_gradients: float = 2.0
    """Gradients of width i that are alive at once in its backward, in U(i)."""
    sequence_parallel: bool = True
    ring_kernel: str = ""
    """Attention kernel of its rings, where they are all the sequence parallelism it has."""
    mlp_tile_tokens: int = 0
    """Tokens of one tile of a tiled MLP; 0: as many as the hidden size (ALST's rule)."""
    mlp_tile_again: float = 1.0
    """Share of the MLP's products that a tiled MLP's backward computes again."""
    early_stop: bool = False
    """Recomputation of a layer stops at the last tensor that the backward needs: no down projection."""
    live_parameters: int = 0
    """Gathered parameters that are kept at most; 0: the layer in use and the next."""
    keeps_live: bool = False
    """Those that are live when the forward ends are not gathered again for the backward."""
    regathers_embedding: bool = True
    """The embedding is gathered for its backward too, which needs no weights."""
    gradients_resident: bool = False
    """The gradient shard is allocated for good, not per step."""
    allocator_share: float = 0.02
    """Of tensors that come and go: fragments that the allocator cannot use."""
    one_pool: bool = False
    """Buffers of collectives lie in memory of the stream that computes on a GPU, unless experts are shared
    out or copies sum their shards."""
    pool_bytes: float = 0.0
    """Per weight of a layer: blocks that the allocator holds for the collectives' streams and cannot lend."""
    kernel_ops: float = 550.0
    """Kernels launched per layer and micro-step with full recomputation."""
    traffic: ElementwiseTraffic = EAGER
    measured: bool = False
    """Were published rows of it among those that constants are fitted on?"""
    product_share: float = 1.0
    """Speed of its matrix products beside that of an average stack on the same GPU."""
    step_overhead_s: float = 0.02
    """Of every optimizer step, on the host, between the last kernel and the first of the next step."""
    broadcast_hop_s: float = 0.0
    """Where ZeRO-1 gives each rank whole tensors, and one rank after another broadcasts its own: of each
    further rank of such a broadcast, beyond its bytes. 0: parameters come by one all-gather."""
    recompute_share: float = 1.0
    """Of a layer's products, those that selective checkpointing computes again."""
    checkpointed_share: float = 1.0
    """Of the layers, those that selective checkpointing covers; they are then recomputed in full."""
    attention_share: float = 1.0
    """Speed of its attention kernel beside the published one."""
