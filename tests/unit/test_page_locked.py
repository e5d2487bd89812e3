"""Host blocks of offloaded layer inputs are locked at their own size, and unlocked with their owner."""

from __future__ import annotations

import pytest
import torch

from tgsbench.errors import TgsError
from tgsbench.training.parallel.offload import PageLocked


class Runtime:
    """Stands for CUDA's runtime: refuses an address twice, as it does."""

    def __init__(self) -> None:
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, address: int, num_bytes: int, flags: int) -> int:
        if address in self.registered:
            return 712
        self.registered[address] = num_bytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        del self.registered[address]
        return 0


@pytest.fixture
def runtime(monkeypatch) -> Runtime:
    found = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: found)
    return found


def test_a_block_is_locked_at_its_own_size_and_unlocked_with_its_owner(runtime):
    blocks = PageLocked("a layer's input", "engine.activation_offload=false")
    host = torch.empty(3, 1000, dtype=torch.bfloat16)
    blocks.lock(host)
    assert runtime.registered == {host.data_ptr(): 6000}
    del blocks
    assert runtime.registered == {}


def test_a_host_that_cannot_lock_so_much_is_told(runtime):
    blocks, host = PageLocked("a layer's input", "engine.activation_offload=false"), torch.empty(4)
    blocks.lock(host)
    with pytest.raises(TgsError, match=r"a layer's input beside 1 others \(CUDA error 712\)") as raised:
        blocks.lock(host)
    hint = raised.value.hint
    del raised  # it holds this frame, and with it the owner
    assert "engine.activation_offload=false" in hint
