"""Each name of the table of kernels stands for what its entry says."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

import pytest

from tgsbench.schema.hotspots import COMPUTE
from tgsbench.traces import categories

ENTRIES = tomllib.loads(files("tgsbench.traces").joinpath("kernel_names.toml").read_text())["kernel"]
NAMES = [(number, name) for number, entry in enumerate(ENTRIES) for name in entry["examples"]]


@pytest.mark.parametrize(("number", "name"), NAMES, ids=[name[:60] for _, name in NAMES])
def test_a_kernel_is_what_its_entry_says(number, name):
    found = next(i for i, e in enumerate(ENTRIES) if re.search(e["pattern"], name, re.IGNORECASE))
    assert found == number, ENTRIES[found]["pattern"]
    assert categories.device_kind("kernel", name) == ENTRIES[number]["kind"]


def test_every_entry_has_a_source_and_a_kind_of_ours():
    assert all(entry["source"] and entry["kind"] in COMPUTE for entry in ENTRIES)
    assert len(NAMES) > 150


COMMUNICATION = {
    "all_gather": [
        "ncclSymkDevKernel_AllGather_STMC(ncclSymkDevWorkArgs4K)",
        "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "void (anonymous namespace)::multimem_all_gather_kernel<16>(x)",
        "hcom_allGather__201_3_1",
        "ncclSymkDevKernel_AllGather_RailRing_LsaSTMC(ncclSymkDevWorkArgs4K)",
        "void allgather6<true>(x)",
    ],
    "reduce_scatter": [
        "ncclSymkDevKernel_ReduceScatter_LDMC_sum_bf16(x)",
        "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(x)",
        "hcom_reduceScatter_",
    ],
    "all_reduce": [
        "ncclSymkDevKernel_AllReduce_RSxLDMC_AGxSTMC_sum_bf16(ncclSymkDevWorkArgs4K)",
        "ncclSymDevKernel_AllReduce_AGxLL_R_sum_f32(x)",
        "ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long, ncclWork*)",
        "void vllm::cross_device_reduce_2stage<__nv_bfloat16, 8>(vllm::RankData*, vllm::RankSignals)",
        "void sglang::cross_device_reduce_1stage<__half, 8>(sglang::RankData*)",
        "void aiter::cross_device_reduce_2stage<hip_bfloat16, 8>(x)",
        "void (anonymous namespace)::two_shot_all_reduce_kernel_inplace<c10::BFloat16, 16, 2>(x)",
        "void (anonymous namespace)::one_shot_all_reduce_kernel<c10::BFloat16, 16, 8>(x)",
        "void (anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(x)",
        "void (anonymous namespace)::multimem_one_shot_all_reduce_kernel<c10::BFloat16, 16>(x)",
        "void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<x>(y)",
        "void (anonymous namespace)::all_reduce_one_shot_push_kernel<__nv_bfloat16, 4u, true>(x)",
        "void tensorrt_llm::kernels::oneShotAllReduceKernel<__nv_bfloat16, 8>(x)",
        "allreduce_two_shot_multimem_intra_node_kernel",
        "void userbuffers_fp16_sum_inplace_gpu_rw_ag<4>(x)",
        "hcom_allReduce__503_0_1",
        "oneccl_allreduce_pcie",
        "void allreduce8<__half>(x)",
        "void mscclpp::collective::allreduceNvlsWithCopy<__nv_bfloat16>(x)",
        "allreduce_nvls_kernel",
    ],
    "expert_all_to_all": [
        "void dpsk::ep::internode::dispatch<false, 8, false, 8>(int4*, float*, long*)",
        "void deep_ep::internode::combine<false, 8, __nv_bfloat16, 8, 2, 16, 24>(int4*)",
        "void deep_ep::intranode::notify_dispatch<8>(int const*)",
        "void deep_ep::intranode::cached_notify_combine<8>(x)",
        "void deep_ep::internode_ll::dispatch<true, false, 7168>(x)",
        "void primus_turbo::deep_ep::intranode::dispatch<8, 768, 8192>(x)",
        "void mori::moe::EpDispatchIntraNodeKernel<hip_bfloat16>(x)",
        "void tensorrt_llm::kernels::moe_comm::moeAllToAllKernel<x>(y)",
        "moeA2ADispatchKernel",
        "allToAllV_2d",
        "aclnnMoeDistributeDispatch_MoeDistributeDispatch_MoeDistributeDispatch",
    ],
    "all_to_all": ["nvshmemi_alltoall_kernel", "hcom_alltoallv_", "ncclDevKernel_AlltoAll_PIVOT(x)"],
    "p2p": ["void kuserbuffers_pushsend(x)", "hcom_send__401_2_1"],
    "barrier": ["nvshmem_barrier_all_kernel"],
    "comm_unknown": [
        "ncclDevKernel_Generic(ncclDevComm*, unsigned long, ncclWork*)",
        "ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)",
        "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
        "mscclKernel_Sum_hip_bfloat16_Simple_false(x)",
        "void mscclpp::executionKernel<__half, mscclpp::LL16Packet>(x)",
        "rccl_main_kernel",
    ],
    "comm_other": ["ncclDevKernel_Reduce_Sum_f32_RING_LL(x)"],
    "norm_elementwise": [
        "void deep_ep::layout::get_dispatch_layout<256, 32, 8>(x)",
        "void at::native::(anonymous namespace)::gatherTopK<float, unsigned int, 2, false>(x)",
    ],
    "other": ["my_unheard_of_kernel", "void dispatch_tokens<4>(x)"],
}


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in COMMUNICATION.items() for n in names])
def test_libraries_of_collectives_by_name(kind, name):
    assert categories.device_kind("kernel", name) == kind


OPERATORS = {
    "attention_fwd": ["FlashAttnFunc", "flash_attn::_flash_attn_forward", "aten::_flash_attention_forward"],
    "attention_bwd": [
        "FlashAttnVarlenFuncBackward", "ScaledDotProductCudnnAttentionBackward0",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    ],
    "gemm": ["aten::mm", "aten::addmm_", "MmBackward0", "autograd::engine::evaluate_function: MmBackward0"],
    "loss": [
        "aten::_log_softmax", "LigerFusedLinearCrossEntropyFunction", "_ChunkedLossBackward",
        "NllLossBackward0",
    ],
    "optimizer": ["Optimizer.step#AdamW.step", "aten::_fused_adamw_", "aten::_foreach_norm"],
    "norm_elementwise": [
        "aten::_foreach_copy_", "aten::softmax", "aten::native_layer_norm",
        "triton_poi_fused__scaled_dot_product_flash_attention_cat_transpose_view_10",
    ],
    "all_reduce": ["_C_custom_ar::all_reduce", "c10d::allreduce_", "_c10d_functional::all_reduce"],
    "all_to_all": ["nccl:all_to_all", "c10d::alltoall_base_", "c10d::alltoall_"],
    "p2p": ["nccl:send 0->1"],
    "other": [
        "MyGemmFlashAttnOptimizer", "GemmGeluMLPBackward", "CompiledFunction", "CompiledFunctionBackward",
        "forward pass with flash attention", "dispatch(F)", "Torch-Compiled Region: 5/3", "AdamGemm",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, names in OPERATORS.items() for n in names])
def test_operators_functions_and_annotations(kind, name):
    assert categories.kind_of(name) == kind


def test_an_all_to_all_among_experts_is_told_by_its_group():
    for group in ("ep", "mesh_ep", "EXPERT_MODEL_PARALLEL_GROUP", "dp_ep", "etp_ep"):
        assert categories.collective_kind("all_to_allv", group) == "expert_all_to_all", group
        assert categories.collective_kind("all_gather", group) == "all_gather"
    for group in ("sp", "", "world", "step", "repeat"):
        assert categories.collective_kind("all_to_allv", group) == "all_to_all", group
