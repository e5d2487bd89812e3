"""Any file a user has: packed, in archives, in folders of any program; whose rank each is."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from benchmarks import cuda_trace
from tests.contract.cli import environment, tgsbench, tgsbench_json
from tests.traces.made import Made, nccl_step
from tgsbench.errors import ExitCode, TgsError
from tgsbench.traces.analyse import analyse
from tgsbench.traces.files import expanded, ranks_of, trace_files
from tgsbench.traces.perfetto import merge

TEXT = json.dumps(nccl_step().document()).encode()


def of_rank(rank: int | None) -> bytes:
    made = nccl_step()
    made.head["distributedInfo"] = None if rank is None else {"rank": rank, "world_size": 4}
    return json.dumps(made.document()).encode()


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").compress(data)


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("t.json.gz", gzip.compress),
        ("t.json.zst", zstd),
        ("t.json.bz2", bz2.compress),
        ("t.json.xz", lzma.compress),
    ],
)
def test_packed_traces_read_as_plain_ones(tmp_path, name, packed):
    (tmp_path / name).write_bytes(packed(TEXT))
    (tmp_path / "plain.json").write_bytes(TEXT)
    found, plain = analyse([tmp_path / name], "x"), analyse([tmp_path / "plain.json"], "x")
    assert found.parts_ms == plain.parts_ms
    assert trace_files(tmp_path) == [tmp_path / "plain.json", tmp_path / name]


def archive(path: Path, members: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in members.items():
                packed.writestr(name, data)
        return path
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = buffer.getvalue()
    data = gzip.compress(data) if path.suffix in (".gz", ".tgz") else data
    path.write_bytes(zstd(data) if path.suffix == ".zst" else data)
    return path


@pytest.mark.parametrize("name", ["job.zip", "job.tar", "job.tar.gz", "job.tgz", "job.tar.zst"])
def test_an_archive_is_a_folder_of_ranks(tmp_path, name):
    members = {
        "job/rank1.json.gz": gzip.compress(of_rank(None)), "job/rank0.json": of_rank(None),
        "job/config.json": b'{"lr": 1}', "job/README.txt": b"hello",
    }  # fmt: skip
    path = archive(tmp_path / name, members)
    found = analyse([path], "x")
    assert [rank.rank for rank in found.ranks] == [0, 1]
    assert trace_files(tmp_path) == expanded(path)
    count = merge([path], tmp_path / "all.json")
    assert count > 2 * len(nccl_step().events)
    assert "2 of 2 ranks" in tgsbench(tmp_path, "profile", str(path)).stdout


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.zip", None, "holds no trace"),
        ("broken.zip", b"PK\x03\x04 and nothing", "cannot be read"),
        ("broken.tar.gz", b"\x1f\x8bgarbage garbage", "cannot be read"),
        ("broken.json.zst", b"\x28\xb5\x2f\xfdgarbage garbage", "cannot be read"),
    ],
)
def test_a_broken_archive_says_so(tmp_path, name, data, words):
    path = tmp_path / name
    archive(path, {"a.json": b"{}"}) if data is None else path.write_bytes(data)
    with pytest.raises(TgsError) as caught:
        analyse([path], "x")
    assert words in caught.value.msg
    assert str(path) in caught.value.msg
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_other_files_of_json_in_a_folder_are_no_traces(tmp_path):
    (tmp_path / "config.json").write_text('{"a": [1, 2]}')
    (tmp_path / "rows.json").write_text("[1, 2]")
    with pytest.raises(TgsError, match=r"no trace in .*2 other files"):
        trace_files(tmp_path)
    (tmp_path / "events.json").write_text(json.dumps(nccl_step().events))
    assert trace_files(tmp_path) == [tmp_path / "events.json"]


def test_where_torchs_own_names_are_the_rest_is_left_alone(tmp_path):
    for name in ("a_0000.pt.trace.json", "merged.json"):
        (tmp_path / name).write_bytes(TEXT)
    assert trace_files(tmp_path) == [tmp_path / "a_0000.pt.trace.json"]


@pytest.mark.parametrize(
    ("names", "ranks"),
    [
        (["rank0_trace.json", "rank1_trace.json"], [0, 1]),
        (["trace-rank-10.json.gz", "trace-rank-2.json.gz"], [10, 2]),
        (["tp1_rank_3.1700000000000.pt.trace.json.gz", "tp0_rank_2.1700000000000.pt.trace.json.gz"], [3, 2]),
        (["rank_7/trace.json", "rank_5/trace.json"], [7, 5]),
        (["e2e_rank[3].json", "e2e_rank[1].json"], [3, 1]),
        (["localrank0_globalrank16.json", "localrank1_globalrank17.json"], [16, 17]),
        (["iteration_100/rank3_trace.json", "iteration_100/rank2_trace.json"], [3, 2]),
        (["node0_local_rank_1.json", "node1_local_rank_1.json"], [0, 1]),
        (["host_0003.pt.trace.json", "host_0001.pt.trace.json"], [3, 1]),
        (["host_0003.1700000000000.pt.trace.json", "host_1001.1700000000000.pt.trace.json"], [3, 1001]),
        (["host_4711.1700000000000.pt.trace.json", "host_4712.1700000000001.pt.trace.json"], [0, 1]),
        (["trace_0.json", "trace_1.json", "trace_2.json"], [0, 1, 2]),
        (["trace_100.json", "trace_200.json"], [0, 1]),
        (["trace_step_200.json", "trace_step_100.json"], [1, 0]),
        (["rank0_step10.json", "rank0_step20.json"], [0, 1]),
        (["1700-TP-0.trace.json.gz", "1700-TP-1.trace.json.gz"], [0, 1]),
        (["worker3.json", "worker1.json"], [3, 1]),
        (["profile.r05.json", "profile.r06.json"], [5, 6]),
        (["7.json"], [0]),
        (["0/trace.json", "10/trace.json", "2/trace.json", "1/trace.json"], [0, 3, 2, 1]),
        (["1/t.json", "0/t.json"], [1, 0]),
        (["a9.json", "a10.json"], [0, 1]),
        (["rank7.json"], [7]),
        (["trace-rank:5.json", "trace-rank:6.json"], [5, 6]),
        (["transformer_0.json", "transformer_1.json"], [0, 1]),
    ],
)  # fmt: skip
def test_rank_by_name_never_from_a_process_id_or_a_step(names, ranks):
    assert ranks_of([Path("/runs/job") / name for name in names]) == ranks


@pytest.mark.parametrize("where", ["before", "after", "in metadata", "without rank"])
def test_the_rank_that_the_trace_says_wherever_it_stands(tmp_path, where):
    document = nccl_step().document()
    job = document.pop("distributedInfo")
    job["rank"] = 3
    wrapped = {
        "before": {"distributedInfo": job, **document},
        "after": {**document, "distributedInfo": job},
        "in metadata": {**document, "metadata": {"job": {"distributedInfo": job}}},
        "without rank": {**document, "distributedInfo": {"world_size": 2}},
    }
    path = tmp_path / "rank1.json"
    path.write_text(json.dumps(wrapped[where]))
    (rank,) = analyse([path], "x").ranks
    assert rank.rank == (1 if where == "without rank" else 3)
    assert rank.device_name == "NVIDIA H100 80GB HBM3"


def test_a_broken_end_behind_the_events_does_no_harm(tmp_path):
    path = tmp_path / "t.json"
    path.write_bytes(json.dumps(nccl_step().document()).encode()[:-1] + b', "distributedInfo": {"ra')
    assert analyse([path], "x").step_ms == 1.0


@pytest.mark.parametrize("as_written", [float, int, str, lambda ts: f"{ts:e}", lambda ts: f" {ts} "])
def test_one_time_line_of_times_in_any_form(tmp_path, as_written):
    made = Made()
    made.mark("ProfilerStep#1", 5_000_000, 1000)
    made.op("aten::mm", 5_000_100, 10)
    for event in made.events:
        event["ts"] = as_written(event["ts"])
        event["args"] = None
    merge([made.write(tmp_path / "t.json")], tmp_path / "all.json")
    events = json.loads((tmp_path / "all.json").read_text())["traceEvents"]
    assert [event["ts"] for event in events if event["ph"] == "X"] == [0.0, 100.0]


def test_the_command_takes_a_folder_of_another_program(tmp_path):
    for rank in (0, 1):
        (tmp_path / f"rank{rank}_trace.json").write_bytes(of_rank(None))
    document = tgsbench_json(tmp_path, "profile", str(tmp_path), "--json")
    assert [rank["rank"] for rank in document["ranks"]] == [0, 1]


def test_a_first_look_at_a_large_trace(tmp_path, monkeypatch):
    from tgsbench.traces import first_look as looking

    path = tmp_path / "large.json"
    cuda_trace.write(path, 6_000_000)
    monkeypatch.setattr(looking, "_PIECE", 100_000)
    found = looking.first_look([path])
    assert 0 < found.num_bytes < 2_000_000
    shares = dict(found.shares())
    whole = analyse([path], "x")
    device = {op.name: op.total_ms for op in whole.top if op.source == "kernel" and op.kind == "gemm"}
    assert shares["gemm"] == pytest.approx(max(shares.values()))
    assert device
    assert sum(shares.values()) == pytest.approx(1.0)
    seen = found.num_bytes
    found.look_on(3)
    assert found.num_bytes == seen + 3 * 100_000
    assert [looking._place(n) for n in range(5)] == [1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8]
    packed = tmp_path / "packed.json"
    packed.write_bytes(gzip.compress(TEXT))
    assert looking.first_look([packed]).shares() == []


def test_how_far_reading_is_adds_up_to_the_file(tmp_path):
    path = tmp_path / "t.json"
    path.write_bytes(TEXT)
    got = []
    analyse([path, path], "x", on_read=got.append)
    assert sum(got) == 2 * len(TEXT)


def test_the_command_prints_first_figures_of_large_traces_on_stderr(tmp_path, monkeypatch):
    path = tmp_path / "large.json"
    cuda_trace.write(path, 3_000_000)
    code = (
        "import sys; from tgsbench.traces import first_look; first_look.LARGE = 1\n"
        f"sys.argv = ['tgsbench', 'profile', {str(path)!r}]\n"
        "from tgsbench.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("first look (")
    assert "GEMM" in done.stderr
    assert "first look" not in done.stdout
