"""Evidence runs of builds that are broken on purpose, and the checks that need no other run beside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tgsbench.launch.evidence_runs import EvidenceRun
from tgsbench.metrics import verification
from tgsbench.schema.preset import Preset
from tgsbench.schema.verify import Check

BROKEN = Path(__file__).parent / "broken"


def break_builds(patch: pytest.MonkeyPatch) -> None:
    """Let each rank of a run called fault-NAME train by the build NAME of broken/builds.py."""
    patch.setenv("PYTHONPATH", os.pathsep.join([str(BROKEN), os.environ.get("PYTHONPATH", "")]))
    patch.setenv("TGSBENCH_TEST_BUILDS", "1")


def checks_of_one(preset: Preset, run: EvidenceRun) -> list[Check]:
    """What the ranks of one run say by themselves: data, traffic, masks."""
    return [
        verification.labels(preset, run.ranks),
        verification.tokens(preset, run.ranks),
        verification.all_to_alls(preset, run.ranks),
        verification.ring_sends(preset, run.ranks),
        verification.expert_exchanges(preset, run.ranks),
        verification.kv_hops(preset, run.ranks),
        verification.shards(preset, run.ranks),
        verification.mask(preset, run.ranks),
        verification.causality(preset, run.ranks),
    ]
