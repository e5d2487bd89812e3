"""Every kernel that imports here, in bf16, against attention written out in fp32."""

from __future__ import annotations

import pytest
import torch

from tests.plain_attention import draw, plain, with_gradients
from tests.unit.test_kernels import _Recorder
from tgsbench.errors import TgsError
from tgsbench.training.attention import kernels
from tgsbench.training.attention.documents import documents
from tgsbench.training.attention.kernel_timing import KernelShape
from tgsbench.training.attention.windowed import Own
from tgsbench.training.parallel.checkpointing import saved_ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")
BOUNDS = torch.tensor([0, 3, 400, 401, 1000, 1536], dtype=torch.int32)


def _kernel(name):
    try:
        return kernels.make(name, CUDA)
    except TgsError as error:
        pytest.skip(error.msg)


@pytest.mark.parametrize("mask", [False, True], ids=["whole pack", "documents"])
@pytest.mark.parametrize("heads", [(8, 8), (8, 2), (4, 1)], ids=str)
@pytest.mark.parametrize("name", ["flash2", "flash3", "flash4", "cudnn", "sdpa", "varlen"])
def test_bf16_kernels_match_fp32_attention(name, heads, mask):
    if mask and name == "cudnn":
        pytest.skip("cuDNN has no document mask here")
    kernel = _kernel(name)
    docs = documents(BOUNDS, CUDA) if mask else None
    fp32 = draw(1, 1536, *heads, 128, device="cuda")
    bf16 = [x.bfloat16() for x in fp32]
    ours = with_gradients(kernel.run, *bf16, docs)
    theirs = with_gradients(plain, *(x.float() for x in bf16), docs)
    for got, want in zip(ours, theirs, strict=True):
        error = (got.float() - want).norm() / want.norm()
        assert error < 1e-2, float(error)


@pytest.mark.parametrize("name", ["flash2", "flash3", "flash4", "cudnn", "sdpa", "varlen"])
def test_selective_checkpoints_know_the_forward_op_of_each_kernel(name):
    kernel = _kernel(name)
    saved_ops.cache_clear()
    q, k, v, _ = (x.bfloat16() for x in draw(1, 512, 8, 8, 128, device="cuda"))
    with _Recorder() as recorder:
        kernel.run(q.requires_grad_(), k, v, 128**-0.5, None)
    assert recorder.seen & saved_ops(), sorted(map(str, recorder.seen))


def test_auto_measures_and_picks_a_kernel():
    kernel = kernels.choose("auto", CUDA, False, KernelShape(seq_len=4096))
    assert kernel.name in kernels.CUDA_KERNELS
    assert "measured forward and backward" in kernel.reason


@pytest.mark.parametrize("window", [0, 128])
@pytest.mark.parametrize("mask", [False, True], ids=["whole pack", "documents"])
def test_sinks_on_the_flash_kernel_match_scores_written_out_in_fp32(mask, window):
    docs = documents(BOUNDS, CUDA) if mask else None
    fp32 = [x.bfloat16().float() for x in draw(1, 1536, 8, 2, 64, device="cuda")]
    sinks = torch.linspace(-1.0, 2.0, 8, device=CUDA)

    def results(run, dtype):
        *leaves, scores = (x.to(dtype).requires_grad_() for x in (*fp32[:3], sinks))
        out = run(*leaves, 64**-0.5, docs, own=Own(window, scores))
        return out, *torch.autograd.grad(out, [*leaves, scores], fp32[3].to(dtype))

    ours = results(_kernel("varlen").run, torch.bfloat16)
    for got, want in zip(ours, results(kernels.sdpa, torch.float32), strict=True):
        error = (got.float() - want).norm() / want.norm()
        assert error < 2e-2, float(error)
