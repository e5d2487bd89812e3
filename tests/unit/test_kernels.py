"""Every attention adapter against attention written out, with stand-ins for packages that need a GPU."""

from __future__ import annotations

import inspect
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.plain_attention import draw, plain, with_gradients
from tgsbench.errors import ExitCode, TgsError
from tgsbench.training import torch_info
from tgsbench.training.attention import flash, kernels
from tgsbench.training.attention.documents import documents
from tgsbench.training.parallel.checkpointing import saved_ops

CPU = torch.device("cpu")
BOUNDS = torch.tensor([0, 3, 40, 41, 96], dtype=torch.int32)


def _close(run, *, docs, batch: int = 1) -> None:
    q, k, v, grad = draw(batch, 96, 4, 2, 16)
    for ours, theirs in zip(
        with_gradients(run, q, k, v, grad, docs), with_gradients(plain, q, k, v, grad, docs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


@pytest.fixture(params=["whole pack", "documents"])
def docs(request):
    return documents(BOUNDS, CPU) if request.param == "documents" else None


def test_sdpa_matches_attention_written_out(docs):
    _close(kernels.sdpa, docs=docs)


def test_a_long_sequence_reaches_a_cpus_kernel_one_kv_head_at_a_time(docs, monkeypatch):
    monkeypatch.setattr(kernels, "_LONG_TOKENS", 1)
    seen, attended = [], kernels._attended
    monkeypatch.setattr(kernels, "_attended", lambda x, scale: seen.append(x) or attended(x, scale))
    _close(kernels.sdpa, docs=docs, batch=1 if docs else 2)
    for q, k, v in seen:
        assert (q.shape[1], k.shape[1], v.shape[1]) == (2, 1, 1)
        assert all(x.is_contiguous() for x in (q, k, v))


def _dense(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
    assert causal
    return plain(q, k, v, softmax_scale, None)


def _ragged(q, k, v, cu_q, cu_k, max_q, max_k, softmax_scale=None, causal=False):
    assert causal and max_q == max_k == int(cu_q.diff().max()) and cu_q.dtype == torch.int32
    torch.testing.assert_close(cu_q, cu_k)
    packed = documents(cu_q, CPU)
    return plain(q[None], k[None], v[None], softmax_scale, packed)[0]


_BOUNDS = "cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k"
_TAIL2 = "dropout_p softmax_scale causal window_size softcap alibi_slopes deterministic return_attn_probs"
_TAIL3 = (
    "softmax_scale causal qv q_descale k_descale v_descale window_size attention_chunk softcap num_splits "
    "pack_gqa deterministic sm_margin return_attn_probs"
)
_PARAMETERS = {
    "flash2": (f"q k v {_TAIL2}", f"q k v {_BOUNDS} {_TAIL2} block_table"),
    "flash3": (f"q k v {_TAIL3}", f"q k v {_BOUNDS} seqused_q seqused_k {_TAIL3}"),
    "flash4": (
        "q k v qv cu_seqlens_q cu_seqlens_k seqused_q seqused_k max_seqlen_q max_seqlen_k min_seqlen_k "
        "page_table softmax_scale causal softcap window_size_left window_size_right learnable_sink tile_mn "
        "mma_pv_is_rs intra_wg_overlap num_threads num_splits pack_gqa _arch score_mod mask_mod "
        "block_sparse_tensors return_lse out lse aux_tensors",
        "q k v out dout lse softmax_scale causal softcap window_size_left window_size_right m_block_size "
        "n_block_size num_threads pack_gqa num_stages_Q num_stages_dO SdP_swapAB dKV_swapAB dQ_swapAB "
        "AtomLayoutMSdP AtomLayoutNdKV AtomLayoutMdQ V_in_regs cu_seqlens_q cu_seqlens_k seqused_q seqused_k "
        "max_seqlen_q max_seqlen_k deterministic dq dk dv score_mod score_mod_bwd mask_mod aux_tensors",
    ),
}
"""Parameters in their order: flash-attn 2.8.4, flash-attn 3 of August 2026, and the two private functions of
flash-attn 4.0.0b36, to their first forty."""


def _as_released(names: str, run):
    """`run` behind the very parameters of a release: another name or one too many is a TypeError."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(n, kind, default=None) for n in names.split()])

    def call(*args, **kwargs):
        bound = list(signature.bind(*args, **kwargs).arguments)
        assert bound[: len(args)] == names.split()[: len(args)]
        return run(*args, **kwargs)

    return call


@pytest.mark.parametrize("lse", [False, True], ids=["output", "output and LSE"])
@pytest.mark.parametrize(("name", "module"), [("flash2", "flash_attn"), ("flash3", "flash_attn_interface")])
def test_flash_2_and_3_get_scale_mask_and_boundaries_right(monkeypatch, name, module, lse, docs):
    dense, ragged = (_as_released(*p) for p in zip(_PARAMETERS[name], (_dense, _ragged), strict=True))
    stand_in = ModuleType(module)
    stand_in.flash_attn_func = lambda *a, **k: (dense(*a, **k), None) if lse else dense(*a, **k)
    stand_in.flash_attn_varlen_func = lambda *a, **k: (ragged(*a, **k), None) if lse else ragged(*a, **k)
    monkeypatch.setitem(sys.modules, module, stand_in)
    _, run = flash.LOADERS[name]()
    _close(run, docs=docs)


def test_flash2_is_missing_where_only_flash4_made_the_namespace(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    with pytest.raises(ImportError):
        flash.LOADERS["flash2"]()


def _old_varlen(q, k, v, cu_q, cu_k, max_q, max_k, is_causal=False, *, scale=None):
    assert is_causal and k.shape[1] == q.shape[1], "torch 2.10 has no grouped KV heads here"
    return _ragged(q, k, v, cu_q, cu_k, max_q, max_k, scale, True)


def _varlen_2_11(q, k, v, cu_q, cu_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)):
    assert window_size == (-1, 0) and k.shape[1] == q.shape[1], "it takes no grouped KV heads"
    return _ragged(q, k, v, cu_q, cu_k, max_q, max_k, scale, True)


def _new_varlen(q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    assert window_size == (-1, 0) and enable_gqa
    return _ragged(q, k, v, cu_q, cu_k, max_q, max_k, scale, True)


@pytest.mark.parametrize(
    "varlen_attn", [_old_varlen, _varlen_2_11, _new_varlen], ids=["torch 2.10", "torch 2.11", "torch 2.13"]
)
def test_torch_varlen_is_called_as_its_version_wants(varlen_attn, docs):
    _close(flash._from_torch_varlen(varlen_attn), docs=docs)


def test_torch_varlen_takes_every_row_of_a_batch_as_a_document():
    _close(flash._from_torch_varlen(_new_varlen), docs=None, batch=2)


def test_this_torchs_varlen_has_a_signature_the_adapter_knows():
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    assert "scale" in known
    assert "window_size" in known or "is_causal" in known


class _CuteStandIn:
    """The two private functions of flash-attn 4 that torch's own registration also relies on."""

    @staticmethod
    def _flash_attn_fwd(q, k, v, *, softmax_scale, causal, return_lse, cu_seqlens_q=None, **_):
        assert causal and return_lse
        if cu_seqlens_q is None:
            return plain(q, k, v, softmax_scale, None), torch.zeros(1), None, None
        out = plain(q[None], k[None], v[None], softmax_scale, documents(cu_seqlens_q, CPU))[0]
        return out, torch.zeros(1), None, None

    @staticmethod
    def _flash_attn_bwd(q, k, v, out, dout, lse, *, softmax_scale, causal, cu_seqlens_q=None, **_):
        assert causal and lse is not None
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        with torch.enable_grad():
            if cu_seqlens_q is None:
                again = plain(*leaves, softmax_scale, None)
            else:
                batched = (x[None] for x in leaves)
                again = plain(*batched, softmax_scale, documents(cu_seqlens_q, CPU))[0]
        torch.testing.assert_close(out, again.detach())
        return torch.autograd.grad(again, leaves, dout)


@pytest.fixture
def flash4(monkeypatch):
    forward, backward = _PARAMETERS["flash4"]
    released = SimpleNamespace(
        _flash_attn_fwd=_as_released(forward, _CuteStandIn._flash_attn_fwd),
        _flash_attn_bwd=_as_released(backward, _CuteStandIn._flash_attn_bwd),
    )
    monkeypatch.setattr(flash._Flash4, "module", released)
    library = torch.library.Library("tgsbench", "FRAGMENT")
    library.impl("flash4_forward", flash._flash4_forward, "CPU")
    yield flash.flash4
    library._destroy()


def test_flash4_forward_and_backward_pass_everything_on(flash4, docs):
    _close(flash4, docs=docs)


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[object] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func)
        return func(*args, **(kwargs or {}))


def test_a_selective_checkpoint_keeps_what_sdpa_and_flash4_return(flash4):
    saved_ops.cache_clear()
    q, k, v, _ = draw(1, 64, 4, 2, 16)
    for run in (kernels.sdpa, flash4):
        with _Recorder() as recorder:
            run(q.requires_grad_(), k, v, 0.25, None)
        assert recorder.seen & saved_ops(), run


def test_auto_on_a_cpu_is_sdpa_and_says_why():
    kernel = kernels.choose("auto", CPU, document_mask=True)
    assert (kernel.name, kernel.version) == ("sdpa", torch.__version__)
    assert "CPU" in kernel.reason


@pytest.mark.parametrize("name", ["flash2", "flash3", "flash4", "cudnn", "varlen"])
def test_a_cuda_kernel_on_a_cpu_is_refused_with_a_remedy(name):
    with pytest.raises(TgsError) as caught:
        kernels.choose(name, CPU, document_mask=False)
    assert caught.value.exit_code == ExitCode.MISSING_DEPENDENCY
    assert "sdpa" in caught.value.hint


@pytest.mark.parametrize("error", [AttributeError("gone"), OSError("undefined symbol"), RuntimeError("abi")])
def test_a_package_that_breaks_as_it_is_imported_is_a_missing_kernel(monkeypatch, error):
    def load():
        raise error

    monkeypatch.setitem(flash.LOADERS, "flash3", load)
    with pytest.raises(TgsError, match=f"flash3.*{error}") as caught:
        kernels.make("flash3", torch.device("cuda"))
    assert caught.value.exit_code == ExitCode.MISSING_DEPENDENCY


def test_a_cudnn_that_torch_refuses_is_a_missing_kernel_and_a_fact(monkeypatch):
    def refused():
        raise RuntimeError("cuDNN version incompatibility: compiled against 9.26\nmore")

    monkeypatch.setattr(torch.backends.cudnn, "version", refused)
    with pytest.raises(TgsError, match="incompatibility") as caught:
        kernels.make("cudnn", torch.device("cuda"))
    assert "LD_LIBRARY_PATH" in caught.value.hint
    facts = torch_info.facts()
    assert facts.cudnn == "cuDNN version incompatibility: compiled against 9.26"
    assert "sdpa" in facts.kernels


def test_auto_takes_the_fastest_kernel_that_runs_and_records_all_times(monkeypatch):
    took_s = {"flash3": 0.002, "cudnn": 0.003, "sdpa": 0.009}

    def make(name, device):
        if name == "flash2":
            raise TgsError("not installed")
        return kernels.AttentionKernel(name, "1", lambda *a: name)

    def measure(run, probe, device):
        if run() not in took_s:
            raise RuntimeError("no kernel image is available")
        return took_s[run()]

    monkeypatch.setattr(kernels, "make", make)
    monkeypatch.setattr(kernels, "forward_backward_s", measure)
    kernel = kernels.choose("auto", torch.device("cuda"), document_mask=False)
    assert kernel.name == "flash3"
    assert "flash3 2 ms, cudnn 3 ms, sdpa 9 ms" in kernel.reason
    assert "flash2" not in kernel.reason and "flash4" not in kernel.reason


def test_auto_says_what_went_wrong_when_no_kernel_runs(monkeypatch):
    def broken(run, probe, device):
        raise RuntimeError("driver too old")

    monkeypatch.setattr(
        kernels, "make", lambda name, device: kernels.AttentionKernel(name, "1", kernels.sdpa)
    )
    monkeypatch.setattr(kernels, "forward_backward_s", broken)
    with pytest.raises(TgsError, match="driver too old"):
        kernels.choose("auto", torch.device("cuda"), document_mask=False)


def test_fp32_heads_are_repeated_for_the_one_fused_kernel_that_takes_them():
    """Grouped heads in fp32 would go to the math path, whose S x S scores take 2.3 GiB at 2k tokens."""
    q, k, v, _ = draw(1, 8, 4, 2, 16)
    repeated = kernels._heads_for_fused(q, k, v)
    assert [x.shape[2] for x in repeated] == [4, 4]
    assert torch.equal(repeated[0][:, :, 1], k[:, :, 0])
    half = [x.bfloat16() for x in (q, k, v)]
    assert kernels._heads_for_fused(*half)[0] is half[1]
