"""Several ranks: skew, findings, comparison, one time line; the command itself."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.cli import environment, tgsbench, tgsbench_json
from tests.traces.made import COMM_STREAM, Made, nccl_step
from tgsbench.errors import TgsError
from tgsbench.traces.analyse import analyse
from tgsbench.traces.diff import diff
from tgsbench.traces.perfetto import merge

GOLDEN = Path(__file__).parents[1] / "data" / "traces"


def exchanging(
    rank: int, starts: list[float], end: float = 100.0, group: str = "mesh_sp", ranks: str = "[0, 1]"
) -> Made:
    """Steps of 1 ms with all-to-alls that end `end` µs after the full 200 µs they belong to."""
    made = Made(rank=rank)
    made.mark("ProfilerStep#5", 0, 1000)
    for index, start in enumerate(starts):
        at = 200 * index
        args = {
            "Collective name": "all_to_all", "In msg nelems": 1000, "Out msg nelems": 1000,
            "dtype": "BFloat16", "Group size": 2, "Process Group Name": "1",
            "Process Group Description": group, "Process Group Ranks": ranks,
        }  # fmt: skip
        made.kernel(
            "ncclDevKernel_SendRecv(x)", at + start, end - start, launch=at, stream=COMM_STREAM, **args
        )
    return made


def written(folder: Path, *ranks: Made) -> list[Path]:
    return [made.write(folder / f"host_{i:04d}.pt.trace.json") for i, made in enumerate(ranks)]


def test_who_waits_for_whom(tmp_path):
    paths = written(tmp_path, exchanging(0, [0, 10, 20]), exchanging(1, [40, 60, 5]))
    (skew,) = analyse(paths, "x").skew
    assert (skew.name, skew.group, skew.calls) == ("all_to_all", "sp", 3)
    assert (skew.last_rank, skew.last_share) == (1, pytest.approx(2 / 3))
    assert skew.wait_ms == {0: pytest.approx(0.09), 1: pytest.approx(0.015)}  # 40 + 50, and 15 µs
    assert skew.mean_skew_us == pytest.approx((40 + 50 + 15) / 3)
    assert skew.max_skew_us == pytest.approx(50)


def test_groups_of_one_name_are_matched_apart(tmp_path):
    paths = written(
        tmp_path,
        exchanging(0, [0]),
        exchanging(1, [30]),
        exchanging(2, [50, 0], ranks="[2, 3]"),
        exchanging(3, [0, 0], ranks="[2, 3]"),
    )
    assert sorted(skew.last_rank for skew in analyse(paths, "x").skew) == [1, 2]


def test_ranks_with_different_calls_are_not_matched(tmp_path):
    found = analyse(written(tmp_path, exchanging(0, [0, 0]), exchanging(1, [30])), "x")
    assert found.skew == []
    assert any("differ in their calls of all_to_all on sp" in text for text in found.caveats)


def test_findings_have_figures_and_advice(tmp_path):
    spanning = exchanging(0, [0, 0, 0], ranks="[0, 8]")
    found = analyse(written(tmp_path, spanning), "x").findings
    by_code = {finding.code: finding for finding in found}
    text = by_code["exposed_all_to_all"].text
    # 2 kB in 100 µs, half of it over the link: 0.01 GB/s; H100 servers: 50 GB/s a GPU between nodes.
    assert text.startswith("all-to-all on sp: 30 % of the step, 100 % exposed, 0.01 of 50 GB/s")
    assert "span nodes" in text
    assert by_code["exposed_all_to_all"].hint == "sp of at most 8, inside a node"
    assert by_code["idle"].share == pytest.approx(0.7)
    assert [finding.share for finding in found] == sorted((f.share for f in found), reverse=True)


def test_nothing_stands_out_in_a_busy_step(tmp_path):
    made = Made(world_size=1)
    made.mark("ProfilerStep#1", 0, 1000)
    made.kernel("nvjet", 0, 990, launch=1)
    assert analyse(written(tmp_path, made), "x").findings == []


def test_diff_of_two_profiles(tmp_path):
    (a,) = written(tmp_path, nccl_step())
    slower = nccl_step()
    slower.kernel("nvjet_tst_256x128", 905, 50, launch=650)
    b = slower.write(tmp_path / "b.json")
    found = diff(analyse([a], "a"), analyse([b], "b"))
    parts = {change.name: change for change in found.parts}
    assert parts["gemm"].delta == pytest.approx(0.05)
    assert parts["gemm"].ratio == pytest.approx(1.25)
    assert parts["idle"].delta == pytest.approx(-0.05)
    assert found.step_ms.ratio == pytest.approx(1.0)
    assert {change.name for change in found.parts[:2]} == {"gemm", "idle"}


@pytest.mark.parametrize("name", ["all.json", "all.json.gz"])
def test_one_time_line_aligned_by_steps(tmp_path, name):
    late = exchanging(1, [0])
    for event in late.events:
        event["ts"] += 5_000_000.0
    late.events.append(
        {"ph": "s", "id": 4, "pid": 1, "tid": 1, "ts": 5_000_001, "cat": "ac2g", "name": "ac2g"}
    )
    count = merge(written(tmp_path, exchanging(0, [0]), late), tmp_path / name)
    data = (tmp_path / name).read_bytes()
    events = json.loads(gzip.decompress(data) if name.endswith("gz") else data)["traceEvents"]
    assert len(events) == count
    steps = [event for event in events if event["name"] == "ProfilerStep#5"]
    assert [event["ts"] for event in steps] == [0.0, 0.0]
    assert len({event["pid"] for event in steps}) == 2
    titles = {e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert titles == {"rank 0: 1", "rank 1: 1"}
    assert next(e["id"] for e in events if e.get("cat") == "ac2g") == "1:4"
    kernels = [event for event in events if event.get("cat") == "kernel"]
    assert all(event["args"]["Collective name"] == "all_to_all" for event in kernels)


def test_a_time_line_of_a_torn_trace_leaves_nothing_behind(tmp_path):
    (path,) = written(tmp_path, exchanging(0, [0]))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(TgsError, match="cut off"):
        merge([path], tmp_path / "all.json")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_command_prints_json_text_and_a_comparison(tmp_path):
    document = tgsbench_json(tmp_path, "profile", str(GOLDEN), "--json")
    assert {"ranks", "step_ms", "shares", "exposed_ms", "collectives", "top", "findings"} <= set(document)
    assert {"name", "group", "calls", "bytes", "gb_per_s", "exposed_ms"} <= set(document["collectives"][0])
    text = tgsbench(tmp_path, "profile", str(GOLDEN)).stdout
    assert "all-to-all" in text
    assert "2 of 2 ranks" in text
    first = str(next(GOLDEN.glob("*_0000*")))
    assert tgsbench_json(tmp_path, "profile", first, "--against", first, "--json")["step_ms"]["ratio"] == 1.0
    assert "b/a" in tgsbench(tmp_path, "profile", first, "--against", first).stdout


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["profile", "nothing.json"], 17, ["nothing.json", "no such file"]),
        (["profile", "."], 17, ["no trace in", "--profile hotspots"]),
        (["profile", "unknown"], 7, ["no run called"]),
    ],
)
def test_what_cannot_be_analysed_says_so(tmp_path, args, code, words):
    done = tgsbench(tmp_path, *args)
    assert done.returncode == code
    assert all(word in done.stderr for word in words), done.stderr


def test_without_numpy_the_remedy_is_named(tmp_path):
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        f"sys.argv = ['tgsbench', 'profile', {str(GOLDEN)!r}]\n"
        "from tgsbench.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 6, done.stderr
    assert "[profile]" in done.stderr
