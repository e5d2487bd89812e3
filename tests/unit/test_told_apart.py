"""Names of kernels, cut to a column's width, still tell the kernels apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgsbench.tui.profile_rows import told_apart

GEMM = "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_{}_32x3_tn_align8>(Params)"
ELEMENTWISE = "void at::native::vectorized_elementwise_kernel<4, at::native::{}<float>, std::array<char*, 3>>"
KERNELS = [
    *(GEMM.format(tile) for tile in ("128x256", "256x128", "128x128", "64x256")),
    *(ELEMENTWISE.format(name) for name in ("AUnaryFunctor", "BUnaryFunctor", "CUDAFunctor_add")),
    "flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel",
    "ncclDevKernel_AllGather_RING_LL(ncclDevComm*, unsigned long, ncclWork*)",
    "ncclDevKernel_SendRecv(ncclDevComm*, unsigned long, ncclWork*)",
    "aten::mm",
]


@pytest.mark.parametrize("width", [24, 30, 44])
def test_kernels_of_one_library_have_different_short_names(width):
    short = told_apart(KERNELS, width)
    assert len(set(short)) == len(KERNELS)
    assert all(len(name) <= width for name in short)


def test_what_fits_stays_and_what_does_not_keeps_its_beginning():
    short = told_apart(KERNELS, 30)
    assert short[-1] == "aten::mm"
    long = [(name, cut) for name, cut in zip(KERNELS, short, strict=True) if len(name) > 30]
    assert all("…" in cut and name.startswith(cut.partition("…")[0]) for name, cut in long)


def test_the_tile_sizes_of_products_are_what_is_shown():
    short = told_apart([GEMM.format("128x256"), GEMM.format("256x128")], 30)
    assert "128x256" in short[0] and "256x128" in short[1]


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="…"), max_size=60), max_size=8))
def test_no_name_is_ever_wider_than_its_column(names):
    short = told_apart(names, 20)
    assert len(short) == len(names)
    assert all(len(cut) <= 20 for cut in short)
