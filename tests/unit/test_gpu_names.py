"""A GPU is known by its whole name: a part of it may be another card's."""

from __future__ import annotations

import pytest

from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.planner.machine import find_machine, unknown_gpu


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA GB200", "GB200-NVL72"),
        ("NVIDIA B200", "B200-SXM-180GB"),
        ("NVIDIA H100 PCIe", "H100-PCIE-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIE-80GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090-24GB"),
        ("AMD Instinct MI300X", "MI300X-192GB"),
        ("mi300x", "MI300X-192GB"),
    ],
)
def test_drivers_names_are_found(device, name):
    assert presets.find_gpu(device).name == name


@pytest.mark.parametrize(
    "device", ["NVIDIA H200 NVL", "NVIDIA GH200 480GB", "NVIDIA A100-SXM4-80GB MIG 3g.40gb"]
)
def test_a_part_of_a_name_is_no_match(device):
    assert presets.find_gpu(device) is None


def test_an_unknown_gpu_names_the_nearest():
    with pytest.raises(TgsError, match="MI355X-288GB"):
        find_machine("MI350X-288GB")


@pytest.mark.parametrize("gpu", ["GB300-NVL72", "MI355X-288GB", "RTX-PRO-6000-96GB", "L40S-48GB"])
def test_a_gpu_without_rows_is_planned_with_a_wide_interval(gpu):
    from tgsbench.planner import forecast_preset

    asked = presets.resolve("llama3_1b_8k", []).preset
    measured, carried = forecast_preset(asked).tgs, forecast_preset(asked, gpu).tgs
    assert carried.high / carried.low > 1.15 * measured.high / measured.low


@pytest.mark.parametrize(("word", "near"), [("H10O", "H100-SXM5-80GB"), ("B2OO", "B200-SXM-180GB")])
def test_a_short_name_with_a_slip_is_near_names_that_begin_so(word, near):
    message = unknown_gpu(word).msg
    assert near in message.partition("known:")[0]
