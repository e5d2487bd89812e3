"""The interval around a planned TGS: never narrower where less is known."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from tgsbench import presets
from tgsbench.planner.interval import known_of, spread_of
from tgsbench.planner.machine import find_constants
from tgsbench.planner.plan import estimate, machine_of, tgs_range
from tgsbench.presets import catalog
from tgsbench.schema.hardware import Constants, Spread
from tgsbench.systems.registry import find_system

ORDER = {"stack and GPU": ("stack", "GPU"), "stack": ("neither",), "GPU": ("neither",)}


@pytest.mark.parametrize("constants", catalog.load_constants(), ids=lambda found: found.name)
def test_what_is_less_known_is_never_narrower(constants: Constants):
    for known, less in ORDER.items():
        for other in less:
            narrow, wide = spread_of(known, constants), spread_of(other, constants)
            assert wide.below >= narrow.below
            assert wide.above >= narrow.above


@pytest.mark.parametrize("name", ["llama2_7b_8k", "llama2_70b_8k", "yi_34b_256k"])
def test_width_never_shrinks_when_something_becomes_unknown(name):
    preset = presets.resolve(name, []).preset
    machine = machine_of(preset)
    carried = replace(machine, constants=replace(machine.constants, carried_over="made up"))
    xtuner, unseen = find_system("xtuner"), replace(find_system("xtuner"), name="unseen", measured=False)
    for (one, first), (other, second) in itertools.product(
        [("measured", (xtuner, machine))],
        [("stack", (xtuner, carried)), ("gpu", (unseen, machine)), ("none", (unseen, carried))],
    ):
        assert _width(preset, *second) >= _width(preset, *first), (one, other)
    assert _width(preset, unseen, carried) >= max(
        _width(preset, unseen, machine), _width(preset, xtuner, carried)
    )


def _width(preset, system, machine):
    bar, _ = tgs_range(estimate(preset, machine, system))
    return (bar.high - bar.low) / bar.estimate


def test_what_is_known_of_a_stack_and_a_gpu():
    work = estimate(*(lambda p: (p, machine_of(p)))(presets.resolve("llama2_7b_8k", []).preset)).work
    xtuner = replace(work, system=find_system("xtuner"))
    a100, b200 = find_constants("A100-SXM4-80GB"), find_constants("B200-SXM-180GB")
    assert known_of(xtuner, a100) == "stack and GPU"
    assert known_of(work, a100) == "GPU"
    assert known_of(xtuner, b200) == "stack"
    assert known_of(work, b200) == "neither"


def test_constants_of_an_older_version_keep_their_one_width():
    old = replace(find_constants("A100-SXM4-80GB"), spreads={}, error_share=0.17)
    assert spread_of("neither", old) == Spread(0.17, 0.17)


def test_a_plan_across_nodes_and_a_tight_one_are_less_certain():
    inside = presets.resolve("llama2_7b_8k", []).preset
    across = presets.resolve("llama2_70b_8k", []).preset
    tight = presets.resolve("yi_34b_256k", ["engine.name=xtuner"]).preset
    shares = []
    for preset in (inside, across, tight):
        bar, why = tgs_range(estimate(preset, machine_of(preset), find_system("xtuner")))
        shares.append(1 - bar.low / bar.estimate)
    assert shares[0] < shares[1]
    assert shares[0] < shares[2]
    assert "tight memory" in why
