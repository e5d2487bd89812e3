"""Liger's kernels against the plain path in fp32, on a CPU: Triton's interpreter runs them.

Needs `pip install liger-kernel triton`, which the tested set leaves out; tests/gpu runs them as they are.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

_MISSING = [name for name in ("triton", "liger_kernel") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"needs {' and '.join(_MISSING)}")

_SCRIPT = """
import copy, importlib, json
import torch
import triton.language as tl
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding
from triton.runtime.interpreter import GridExecutor
from tgsbench.training.model import fused_layers
from tgsbench.training.model.loss import liger_linear_cross_entropy, linear_cross_entropy

# The interpreter leaves floats what they are, where a compiled kernel gets scalars with a dtype ...
class Scalar(float):
    def to(self, dtype):
        return self

def scalar(value):
    return Scalar(value) if type(value) is float else value

call = GridExecutor.__call__
GridExecutor.__call__ = lambda self, *args, **kwargs: call(
    self, *map(scalar, args), **{name: scalar(value) for name, value in kwargs.items()}
)
# ... and knows no function of CUDA's library.
importlib.import_module("liger_kernel.ops.rms_norm").rsqrt = lambda x: 1.0 / tl.sqrt(x)

CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2
)

def gradients(function, *inputs):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    torch.manual_seed(1)
    return [out.detach(), *torch.autograd.grad(out, leaves, torch.randn_like(out))]

def error(ours, plain, *inputs):
    pairs = zip(gradients(ours, *inputs), gradients(plain, *inputs), strict=True)
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)

def called(module):
    return lambda x, weight: torch.func.functional_call(module, {"weight": weight}, (x,))

def with_class(module, kind):
    twin = copy.deepcopy(module)
    twin.__class__ = kind
    return twin

torch.manual_seed(0)
x = torch.randn(1, 30, 64)
norm, mlp = LlamaRMSNorm(64, eps=1e-5), LlamaMLP(CONFIG)
q, k = torch.randn(1, 30, 4, 16), torch.randn(1, 30, 2, 16)
cos, sin = LlamaRotaryEmbedding(CONFIG)(q, torch.arange(30)[None] * 7)

def rotated(rope):
    # It rotates in place: q and k come fresh from their projections.
    return lambda q, k: torch.cat(
        [y.flatten() for y in rope(q.clone().transpose(1, 2), k.clone().transpose(1, 2), cos, sin)]
    )

weight, labels = torch.randn(100, 64), torch.randint(0, 100, (30,))
labels[::7] = -100
print(json.dumps({
    "RMSNorm": error(called(with_class(norm, fused_layers.LigerNorm)), called(norm), x, torch.randn(64)),
    "SwiGLU": error(with_class(mlp, fused_layers.LigerMLP), mlp, x),
    "RoPE": error(rotated(fused_layers._liger_rope()), rotated(modeling_llama.apply_rotary_pos_emb), q, k),
    "loss": error(
        lambda h, w: liger_linear_cross_entropy(h, w, labels),
        lambda h, w: linear_cross_entropy(h, w, labels, 0),
        x[0], weight,
    ),
}))
"""


@pytest.fixture(scope="module")
def errors() -> dict[str, float]:
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", _SCRIPT], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kernel", ["RMSNorm", "SwiGLU", "RoPE", "loss"])
def test_outputs_and_gradients_are_those_of_the_plain_path(errors, kernel):
    assert errors[kernel] < 2e-6
