"""FLOPs per token in each convention against an exact count of operators, on fake tensors of full width."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from tests.unit.family_shapes import TRAINED, read
from tgsbench.models.flops import flops_per_token
from tgsbench.models.registry import find_family
from tgsbench.training.dry_run.stream import OperatorStream
from tgsbench.training.model import fused_layers
from tgsbench.training.model.build import build
from tgsbench.training.model.experts import EXPERT_LOAD
from tgsbench.training.parallel.checkpointing import wrap_layer

LENGTHS = (1024, 3072)
NAME = "exact_pairs"
COUNTED_ALONE = (
    "qwen3_next_80b_a3b",
    "qwen3_5_9b",
    "granite33_8b",
    "qwen2_57b_a14b",
    "deepseek_v2",
    "olmoe_1b_7b",
    "dots_llm1",
    "granite31_3b_a800m",
    "ernie45_21b_a3b",
    "phi35_moe",
    "minitron_4b",
    "starcoder2_3b",
    "command_r7b",
)

_library = torch.library.Library("tgsbench_test", "DEF")
_library.define("attend(Tensor q, Tensor k, Tensor v, int window) -> Tensor")
_library.define(
    "attend_backward(Tensor g, Tensor q, Tensor k, Tensor v, int window) -> (Tensor, Tensor, Tensor)"
)
torch.library.register_fake(
    "tgsbench_test::attend", lambda q, k, v, w: q.new_empty(*q.shape[:3], v.shape[3]), lib=_library
)
torch.library.register_fake(
    "tgsbench_test::attend_backward",
    lambda g, q, k, v, w: (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)),
    lib=_library,
)
ATTEND, BACKWARD = torch.ops.tgsbench_test.attend.default, torch.ops.tgsbench_test.attend_backward.default


@pytest.fixture(autouse=True)
def _plain_rope_after():
    yield
    fused_layers.unfuse()
    EXPERT_LOAD.forget()  # its tensors are fake


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, window):
        ctx.save_for_backward(q, k, v)
        ctx.window = window
        return ATTEND(q, k, v, window)

    @staticmethod
    def backward(ctx, grad):
        return *BACKWARD(grad, *ctx.saved_tensors, ctx.window), None


def attend(module, q, k, v, mask, sliding_window=None, **_):
    """[B, a, S, d] -> [B, S, a, e]; every other kernel's name for what it computes is avoided."""
    return _Attend.apply(q, k, v, sliding_window or 0).transpose(1, 2), None


class Count(OperatorStream):
    """Products as the stream counts them, attention by the pairs that a causal window has."""

    def __init__(self, fake):
        super().__init__(fake)
        self.pairs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (ATTEND, BACKWARD):
            q, _, v, window = args[-4:]
            batch, heads, length, width = q.shape
            seen = sum(min(i + 1, window or length) for i in range(length))
            self.pairs += (1 if func is ATTEND else 2) * 2 * batch * heads * seen * (width + v.shape[3])
        return super().__torch_dispatch__(func, types, args, kwargs)

    @property
    def flops(self):
        return self.pairs + sum(self.phase.flops.values())


@contextmanager
def _bf16():
    """The only type that the fake grouped product takes (torch 2.13)."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def shallow(name: str):
    """The public shape with each kind of layer at least once."""
    shape = read(name).shape
    family = find_family(shape.family)
    kinds = tuple(dict.fromkeys(family.pattern(shape)))
    layers = len(kinds)
    if shape.experts is not None and shape.experts.dense_first:
        shape, layers = replace(shape, experts=replace(shape.experts, dense_first=1)), 2
    pattern = kinds if len(kinds) > 1 else shape.layer_pattern
    return replace(shape, num_layers=layers, layer_pattern=pattern)


def counted(shape, length: int, checkpointing: str) -> float:
    """FLOPs per token of a forward and backward of what ranks train."""
    AttentionInterface.register(NAME, attend)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    count = Count(fake)
    with fake:
        with _bf16():
            model = build(shape, length, NAME, 1024)
        layers = [
            wrap_layer(x, checkpointing, kept_ops=("tgsbench_test::attend",)) for x in model.model.layers
        ]
        model.model.layers = nn.ModuleList(layers)
        model.restore_buffers(torch.device("cpu"))
        ids = torch.zeros(1, length, dtype=torch.int64)
        with count:
            model(ids, ids, ids).backward()
    return count.flops / length


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("family", TRAINED)
def test_model_flops_are_the_operators_of_a_step(family, length):
    shape = shallow(TRAINED[family])
    ran = counted(shape, length, "none")
    assert flops_per_token("model", shape, length, "none") == pytest.approx(ran, rel=1e-3)
    assert flops_per_token("hardware", shape, length, "none") == pytest.approx(ran, rel=1e-3)


@pytest.mark.parametrize("checkpointing", ["full", "selective"])
@pytest.mark.parametrize("family", TRAINED)
def test_hardware_flops_are_the_operators_of_a_checkpointed_step(family, checkpointing):
    shape = shallow(TRAINED[family])
    ran = counted(shape, 1024, checkpointing)
    assert flops_per_token("hardware", shape, 1024, checkpointing) == pytest.approx(ran, rel=1e-3)


def transformers_own(shape, length: int):
    """transformers' own model on fake tensors; inside of a fake mode."""
    AttentionInterface.register(NAME, attend)
    settings = find_family(shape.family).config(shape, length)
    config = AutoConfig.for_model(**settings, attn_implementation=NAME)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", COUNTED_ALONE)
def test_a_forward_that_is_counted_alone_is_the_operators_of_transformers(name, length):
    """Only the forward: a triangular solve has three products' work in its backward, where 2 are counted."""
    shape = shallow(name)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    count = Count(fake)
    with fake:
        model = transformers_own(shape, length)
        ids = torch.zeros(1, length, dtype=torch.int64)
        with count, torch.no_grad():
            model(input_ids=ids, use_cache=False)
    assert find_family(shape.family).forward_flops(shape, length) == pytest.approx(
        count.flops / length, rel=1e-3
    )


@pytest.mark.parametrize("checkpointing", ["none", "full"])
@pytest.mark.parametrize("name", [name for name in COUNTED_ALONE if read(name).shape.linear is None])
def test_a_step_that_is_counted_alone_is_the_operators_of_transformers(name, checkpointing):
    shape = shallow(name)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    count = Count(fake)
    with fake:
        model = transformers_own(shape, 1024)
        layers = [wrap_layer(x, checkpointing, kept_ops=()) for x in model.model.layers]
        model.model.layers = nn.ModuleList(layers)
        ids = torch.zeros(1, 1024, dtype=torch.int64)
        with count:
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    ran = count.flops / 1024
    assert flops_per_token("hardware", shape, 1024, checkpointing) == pytest.approx(ran, rel=1e-3)


def test_palm_is_full_attention_and_whole_windows():
    shape = shallow("gpt_oss_20b")
    family = find_family(shape.family)
    more = flops_per_token("palm", shape, 4096, "none") - flops_per_token("model", shape, 4096, "none")
    pairs = 4 * shape.num_query_heads * shape.head_dim
    window = shape.window
    assert more == 3 * pairs * (4096 / 2 + window * window / (2 * 4096))
    assert family.pattern(shape) == ("window", "full")


def test_torch_s_own_counter_takes_grouped_products_for_free():
    """Why the stream counts them itself, as it does causal halves, which torch's takes for whole squares."""
    rows, experts, k, n = 64, 4, 32, 16
    x = torch.randn(rows, k, dtype=torch.bfloat16, requires_grad=True)
    w = torch.randn(experts, k, n, dtype=torch.bfloat16, requires_grad=True)
    offsets = torch.arange(1, experts + 1, dtype=torch.int32) * (rows // experts)
    with FlopCounterMode(display=False) as theirs:
        torch.nn.functional.grouped_mm(x, w, offs=offsets).square().sum().backward()
    assert theirs.get_total_flops() == 0
