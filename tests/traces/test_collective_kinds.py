"""A kind of collective is one row of one table: a made-up row is known everywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys

from tgsbench.schema import collective_kinds
from tgsbench.traces import categories

ROW = """    CollectiveKind(
        name="ring_shift",
        title="ring shift",
        patterns=(r"ring_?shift",),
        markers=(r"^made_up::",),
        operators=("made_up::ring_shift",),
        spans=("made_up::ring",),
        span_group="cp",
        link_passes=3,
        remedy="turn the ring the other way",
        remedy_across_nodes="rings of at most {node}",
    ),
"""
PROGRAM = """
import json, sys, types
from pathlib import Path
import tgsbench.schema
path = Path(tgsbench.schema.__file__).with_name("collective_kinds.py")
module = types.ModuleType("tgsbench.schema.collective_kinds")
head, tail = path.read_text().split("    OTHER,\\n    UNKNOWN,\\n")
sys.modules[module.__name__] = module
exec(compile(head + ROW + "    OTHER,\\n    UNKNOWN,\\n" + tail, str(path), "exec"), module.__dict__)

from tests.traces.made import COMM_STREAM, Made
from tgsbench.live.explain import TEXTS
from tgsbench.report.profile import profile_lines
from tgsbench.traces import categories
from tgsbench.traces.analyse import analyse
from tgsbench.tui.profile_rows import collective_rows, share_rows

made = Made()
made.mark("ProfilerStep#1", 0, 1000)
made.kernel("nvjet", 0, 500, launch=1)
recorded = {"Collective name": "ring_shiftv", "In msg nelems": 1_000_000, "Out msg nelems": 1_000_000,
            "dtype": "BFloat16", "Group size": 4, "Process Group Name": "1",
            "Process Group Description": "mesh_cp", "Process Group Ranks": "[0, 1, 2, 3]"}
made.kernel("ncclDevKernel_SendRecv(x)", 500, 200, stream=COMM_STREAM, launch=2, **recorded)
made.mark("made_up::ring", 20, 10)
made.kernel("ncclDevKernel_SendRecv(y)", 700, 100, stream=COMM_STREAM, launch=25)
made.kernel("made_up::ring_shift_kernel", 800, 50, stream=COMM_STREAM, launch=40)
profile = analyse([made.write(Path(sys.argv[1]) / "rank0.pt.trace.json")], "made")
json.dump({
    "collectives": {f"{c.name} {c.group}": [c.calls, c.bus_gb_per_s, c.resolved_by]
                    for c in profile.collectives},
    "parts_ms": {part: ms for part, ms in profile.parts_ms.items() if ms},
    "findings": [[f.text, f.hint] for f in profile.findings],
    "lines": profile_lines(profile),
    "tui": [str(cells[0]) for _, cells in share_rows(profile)]
           + [str(cells[0]) for _, cells in collective_rows(profile)],
    "annotation": categories.kind_of("gloo:ring_shift"),
    "explained": TEXTS["profile_bandwidth"].formula,
    "operator": module.BY_OPERATOR["made_up::ring_shift"],
}, sys.stdout)
"""


def test_a_made_up_kind_is_classified_titled_rated_and_explained(tmp_path):
    argv = [sys.executable, "-c", f"ROW = {ROW!r}\n{PROGRAM}", str(tmp_path)]
    found = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    recorded = found["collectives"]["ring_shift cp"]
    assert recorded == [1, 2e6 / 200e-6 / 1e9 * 3 * 3 / 4, "kernel"]  # 2 MB in 200 µs, 3 passes, 4 ranks
    assert found["collectives"]["ring_shift "][0] == 2  # by the span around it, and by the kernel's name
    assert round(found["parts_ms"]["ring_shift"], 6) == 0.35
    assert found["annotation"] == "ring_shift"
    said = "ring shift on cp: 20 % of the step, 100 % exposed, "
    assert any(
        text.startswith(said) and hint == "turn the ring the other way" for text, hint in found["findings"]
    )
    assert found["tui"].count("ring shift") == 3
    assert any(re.match(r"ring shift +35\.0 %", line) for line in found["lines"])
    assert "ring shift: bytes · 3(n−1)/n / time" in found["explained"]
    assert found["operator"] == "ring_shift"


def test_every_kind_has_a_title_of_its_own_and_the_last_two_stand_for_the_rest():
    kinds = collective_kinds.KINDS
    assert len({kind.title for kind in kinds}) == len({kind.name for kind in kinds}) == len(kinds)
    assert kinds[-2:] == (collective_kinds.OTHER, collective_kinds.UNKNOWN)
    assert all(kind.patterns and kind.remedy for kind in kinds[:-2])


def test_a_kinds_own_name_is_of_that_kind():
    for kind in collective_kinds.KINDS[:-2]:
        wanted = "send_recv" if kind.name == "p2p" else kind.name
        assert categories.collective_kind(f"nccl:{wanted}") == kind.name


def test_bus_factors_are_those_of_the_nccl_tests():
    factors = {kind.name: kind.bus_factor(8) for kind in collective_kinds.KINDS}
    assert factors == {
        "all_to_all": 7 / 8, "all_gather": 7 / 8, "reduce_scatter": 7 / 8, "all_reduce": 14 / 8,
        "expert_all_to_all": 7 / 8, "shard_copy": 1,
        "broadcast": 1, "ring": 1, "p2p": 1, "barrier": 1, "comm_other": 1, "comm_unknown": 1,
    }  # fmt: skip
