"""The virtual device under torch: what it answers, what it writes down, what it does not know."""

from __future__ import annotations

import pytest

from tgsbench.virtual_gpu.log import Kind, log_path, read_log

pytestmark = pytest.mark.virtual


def _records(folder):
    return list(read_log(log_path(folder, 0)))


def test_products_copies_and_waits_are_written_down(on_device):
    out, folder = on_device(
        "import torch\n"
        "a = torch.empty(64, 32, device='cuda', dtype=torch.bfloat16)\n"
        "b = torch.empty(32, 16, device='cuda', dtype=torch.bfloat16)\n"
        "c = a @ b\n"
        "print(torch.arange(4, device='cuda').shape, torch.tensor([1, 2, 3]).cuda().tolist())\n"
        "torch.cuda.synchronize()\n"
    )
    assert "[1, 2, 3]" in out  # small data is moved for real
    records = _records(folder)
    (product,) = [record for record in records if record.kind == Kind.GEMM]
    assert product.name == "gemm bf16"
    assert sorted(product.args[:3]) == [16, 32, 64]
    assert records[-1].kind == Kind.SYNCHRONIZE
    copies = [record for record in records if record.kind == Kind.COPY]
    assert [record.name for record in copies] == ["Memcpy HtoD", "Memcpy DtoH"]
    assert all(record.args[0] == 24 for record in copies)


def test_a_number_that_nobody_computed_reads_as_zero_where_it_would_be_nan(on_device):
    out, _ = on_device(
        "import torch\n"
        "labels = torch.full((8,), -100, dtype=torch.int64).cuda()\n"
        "print(labels.tolist()[0], labels.view(torch.float32)[1].item())\n"
    )
    assert out.split() == ["-100", "0.0"]


def test_a_truth_value_that_nobody_computed_reads_as_false_whatever_lay_there(on_device):
    out, _ = on_device(
        "import torch\n"
        "numbers = torch.zeros(4, device='cuda')\n"
        "mask = torch.ones(4, dtype=torch.bool).cuda()\n"
        "flag = torch.tensor(True, device='cuda')\n"
        "print(mask.tolist()[0], flag.item())\n"
        "del mask\n"
        "print(numbers.isnan().any().item(), numbers.isinf().any().item())\n"
    )
    assert out.split() == ["True", "True", "False", "False"]


def test_what_fills_a_small_tensor_is_read_back(on_device):
    out, _ = on_device(
        "import torch\n"
        "sizes = torch.full((3,), 32768, dtype=torch.int64, device='cuda')\n"
        "print(*sizes.tolist(), torch.full((), 0.5, device='cuda').item())\n"
        "print(torch.ones((), dtype=torch.bool, device='cuda').item())\n"
        "print(*torch.full((2,), 3, dtype=torch.bfloat16, device='cuda').tolist())\n"
    )
    assert out.split() == ["32768"] * 3 + ["0.5", "True", "3.0", "3.0"]


def test_a_full_card_fails_as_a_real_one_does(on_device):
    out, folder = on_device(
        "import torch\n"
        "kept = torch.empty(3 << 30, device='cuda', dtype=torch.uint8)\n"
        "try: torch.empty(2 << 30, device='cuda', dtype=torch.uint8)\n"
        "except torch.OutOfMemoryError as error: print(error)\n",
        TGSBENCH_VGPU_MEMORY=str(4 << 30),
    )
    assert "Tried to allocate 2.00 GiB" in out
    assert "total capacity of 4.00 GiB" in out
    assert any(record.kind == Kind.MEMORY and record.args[3] == 1 for record in _records(folder))


def test_pages_are_locked_once(on_device):
    out, _ = on_device(
        "import torch\n"
        "torch.cuda.init()\n"
        "lib, host, pinned = torch.cuda.cudart(), torch.empty(4096), torch.empty(4096, pin_memory=True)\n"
        "lock = lambda x: int(lib.cudaHostRegister(x.data_ptr(), x.nbytes, 0))\n"
        "print(lock(host), host.is_pinned(), lock(host), lock(pinned))\n"
        "lib.cudaHostUnregister(host.data_ptr())\n"
        "print(lock(host))\n"
    )
    assert out.split() == ["0", "True", "712", "712", "0"]  # cudaErrorHostMemoryAlreadyRegistered


@pytest.mark.parametrize("rank", [0, 5])
def test_the_sizes_of_a_meshs_groups_are_known(on_device, rank):
    _, folder = on_device(
        "import datetime, os, torch, torch.distributed as dist\n"
        "store = dist.HashStore()\n"
        "store.set('0//cuda//0', chr(0) * 128)\n"
        "device = torch.device('cuda', 0); torch.cuda.set_device(device)\n"
        f"dist.init_process_group('nccl', store=store, rank={rank}, world_size=16, device_id=device)\n"
        "from torch.distributed.device_mesh import init_device_mesh\n"
        "mesh = init_device_mesh('cuda', (8, 2), mesh_dim_names=('dp', 'sp'))\n"
        "mesh._flatten('all')\n"
        "dist.new_group(range(4, 8)) if 4 <= dist.get_rank() < 8 else dist.new_group(range(0, 16, 4))\n"
        "x = torch.ones(32, device='cuda')\n"
        "dist.all_to_all_single(torch.empty_like(x), x, group=mesh.get_group('sp'))\n"
        "torch.cuda.synchronize(); os._exit(0)\n",
        TGSBENCH_VGPU_MESH="8x2,2x1", TORCH_NCCL_ENABLE_MONITORING="0",
    )  # fmt: skip
    records = _records(folder)
    groups = [record.args for record in records if record.kind == Kind.COMMUNICATOR]
    assert [size for _, size, _, _ in groups] == [16, 8, 2, 4]
    assert not [record.name for record in records if record.kind == Kind.UNKNOWN]
    (exchange,) = [record for record in records if record.kind == Kind.COLLECTIVE]
    assert (exchange.name, exchange.args[0], exchange.args[1]) == ("all_to_all", 128, groups[2][0])


@pytest.mark.parametrize("compute", ["89", "103"])
def test_a_gpu_without_code_of_its_own_runs_that_of_an_older_one(on_device, compute):
    code = "import torch; print(len(torch.sort(torch.zeros(65536, device='cuda', dtype=torch.int64))))"
    out, _ = on_device(code, TGSBENCH_VGPU_COMPUTE=compute)
    assert out.split() == ["2"]


def test_a_call_that_is_not_known_is_told_by_its_name(on_device):
    # The size of its workspace is never written: torch 2.14 asks for whatever lay there.
    _, folder = on_device(
        "import contextlib, torch\n"
        "with contextlib.suppress(RuntimeError):\n"
        "    torch.fft.fft(torch.ones(8, device='cuda'))\n"
    )
    assert "cufftCreate" in {record.name for record in _records(folder) if record.kind == Kind.UNKNOWN}


def test_a_race_between_streams_is_found_by_torchs_sanitizer(on_device):
    out, _ = on_device(
        "import torch, torch.cuda._sanitizer as sanitizer\n"
        "torch.cuda.init(); sanitizer.enable_cuda_sanitizer()\n"
        "x = torch.ones(1024, device='cuda')\n"
        "with torch.cuda.stream(torch.cuda.Stream()):\n"
        "    try: x.mul_(2)\n"
        "    except sanitizer.CUDASanitizerErrors as error: print('race', len(error.errors))\n"
        "side = torch.cuda.Stream(); side.wait_stream(torch.cuda.current_stream())\n"
        "y = torch.ones(8, device='cuda'); side.wait_stream(torch.cuda.current_stream())\n"
        "with torch.cuda.stream(side): y.mul_(2)\n"
        "print('no race')\n"
    )
    assert out.splitlines()[-2:] == ["race 1", "no race"]


@pytest.mark.parametrize(("dtype", "backend"), [("bfloat16", "flash"), ("float32", "efficient")])
def test_grouped_heads_run_by_a_fused_kernel_that_the_reason_names(on_device, dtype, backend):
    out, _ = on_device(
        "import torch\n"
        "from tgsbench.training.attention import kernels\n"
        "from tgsbench.training.attention.kernel_timing import KernelShape\n"
        f"shape = KernelShape(seq_len=2048, num_kv_heads=2, dtype=torch.{dtype})\n"
        "kernel = kernels.choose('sdpa', torch.device('cuda', 0), False, shape)\n"
        "print(kernel.reason)\n"
        "q, k, v, grad = shape.tensors(torch.device('cuda', 0))\n"
        "torch.cuda.reset_peak_memory_stats(); before = torch.cuda.memory_allocated()\n"
        "kernel.run(q, k, v, 0.1, None).backward(grad); torch.cuda.synchronize()\n"
        "print((torch.cuda.max_memory_allocated() - before) / grad.nbytes, flush=True)\n"
        # Autograd's thread wants Python's lock when it is through, and ends the process if the interpreter is
        # ending: "terminate called without an active exception", once in some runs at load 30.
        "import os; os._exit(0)\n"
    )
    reason, ratio = out.splitlines()
    assert reason == f"the preset names it; torch's {backend} attention"
    assert float(ratio) < 12  # S x S scores of 8 heads would be 16 times the output, several times over
