"""Fake collectives hand on finite values, also where torch's own leave their outputs as they were."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from tgsbench.training.fake_process_group import _copying


def _writes_nothing(output, input, group=None, **_):
    return "work"


@pytest.mark.parametrize("size", [6, 2], ids=["all-to-all", "reduce-scatter"])
def test_outputs_that_torch_leaves_alone_get_this_ranks_values(monkeypatch, size):
    monkeypatch.setattr(dist, "get_backend", lambda group: "fake")
    sent, received = torch.arange(6.0), torch.full((size,), torch.nan)
    assert _copying(_writes_nothing)(output=received, input=sent, group="g", async_op=True) == "work"
    torch.testing.assert_close(received, sent[:size])


def test_collectives_of_a_real_group_in_the_same_process_stay_their_own(monkeypatch):
    monkeypatch.setattr(dist, "get_backend", lambda group: "gloo")
    received = torch.full((4,), torch.nan)
    _copying(_writes_nothing)(received, torch.ones(4), group="g")
    assert received.isnan().all()
