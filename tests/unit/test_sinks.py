"""Flash attention with sinks and windows against scores written out; kernels for layers with them."""

from __future__ import annotations

import pytest
import torch

from tests.plain_attention import draw
from tgsbench.errors import TgsError
from tgsbench.training.attention import kernels
from tgsbench.training.attention.documents import documents
from tgsbench.training.attention.kept import Keeping, KeptResults, Replaying
from tgsbench.training.attention.kernel_timing import KernelShape, forward_backward_s
from tgsbench.training.attention.sinks import flash_with_sinks
from tgsbench.training.attention.windowed import Own
from tgsbench.training.parallel.checkpointing import saved_ops

CPU = torch.device("cpu")
BOUNDS = torch.tensor([0, 3, 40, 41, 96], dtype=torch.int32)


def results(run, docs, window):
    """Output and gradients of q, k, v and the sinks, of a run in fp32."""
    *inputs, grad = draw(1, 96, 4, 2, 16)
    sinks = torch.linspace(-1.0, 2.0, 4).requires_grad_()
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = run(*leaves, 0.25, docs, own=Own(window, sinks))
    return out, *torch.autograd.grad(out, [*leaves, sinks], grad)


@pytest.mark.parametrize("window", [0, 1, 7])
@pytest.mark.parametrize("masked", [False, True])
def test_flash_with_sinks_is_what_scores_written_out_give(masked, window):
    docs = documents(BOUNDS, CPU) if masked else None
    pairs = zip(results(flash_with_sinks, docs, window), results(kernels.sdpa, docs, window), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


def test_rows_of_a_batch_are_apart():
    q, k, v, _ = draw(2, 32, 4, 2, 16)
    own = Own(0, torch.zeros(4))
    whole = flash_with_sinks(q, k, v, 0.25, None, own)
    alone = [flash_with_sinks(q[[i]], k[[i]], v[[i]], 0.25, None, own) for i in range(2)]
    torch.testing.assert_close(whole, torch.cat(alone))


def test_what_a_selective_checkpoint_keeps_is_not_written_into():
    q, k, v, _ = draw(1, 32, 4, 2, 16)
    kept = KeptResults(saved_ops())
    with Keeping(kept):
        once = flash_with_sinks(q, k, v, 0.25, None, Own(0, torch.ones(4)))
    assert kept.results
    with Replaying(kept):
        again = flash_with_sinks(q, k, v, 0.25, None, Own(0, torch.ones(4)))
    assert torch.equal(once, again)


def test_layers_with_sinks_take_the_kernel_that_has_them(monkeypatch):
    timed = []

    def measure(run, probe, device):
        timed.append(run())
        return 1.0

    monkeypatch.setattr(kernels, "make", lambda name, _: kernels.AttentionKernel(name, "1", lambda: name))
    monkeypatch.setattr(kernels, "forward_backward_s", measure)
    cuda = torch.device("cuda")
    assert kernels.choose("auto", cuda, False, KernelShape(sinks=True, window=128)).name == "varlen"
    assert timed == ["varlen", "sdpa"]
    with pytest.raises(TgsError, match="it has no sinks"):
        kernels.choose("flash2", cuda, False, KernelShape(sinks=True, window=128))
    with pytest.raises(TgsError, match="it has no windows"):
        kernels.choose("cudnn", cuda, False, KernelShape(window=128))


@pytest.mark.parametrize(("window", "sinks"), [(0, False), (16, False), (16, True)])
def test_kernels_are_timed_with_what_their_layers_have(monkeypatch, window, sinks):
    seen = []

    def run(q, k, v, scale, docs, own=None):
        seen.append(own)
        return kernels.sdpa(q, k, v, scale, docs)

    monkeypatch.setattr("tgsbench.training.attention.kernel_timing.cuda_seconds", lambda work: work() or 1.0)
    shape = KernelShape(64, 4, 2, 16, torch.float32, window=window, sinks=sinks)
    forward_backward_s(run, shape, CPU)
    own = seen[-1]
    assert (own is None) == (not window)
    assert own is None or (own.window, own.sinks is not None) == (window, sinks)
