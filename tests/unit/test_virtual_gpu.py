"""A virtual GPU without its environment: the log, its account, what cannot be asked for, the lone rank."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from tests.unit.stored import a_forecast, a_preset, a_result
from tgsbench import api
from tgsbench.cli.main import cli
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch.command import agent_argv
from tgsbench.live.session import live_run
from tgsbench.presets.catalog import find_gpu
from tgsbench.report.summary import summary_lines
from tgsbench.results import rows
from tgsbench.results.compare import compare
from tgsbench.schema.events import Phase, Step
from tgsbench.schema.run import Manifest, VirtualGpu
from tgsbench.units import GIB
from tgsbench.virtual_gpu import build, installation, settings
from tgsbench.virtual_gpu.account import account
from tgsbench.virtual_gpu.log import RECORD, Kind, log_path, read_log

H100 = "H100-SXM5-80GB"


class Log:
    """Writes records as the device does; a call takes 1 ms, half of it processor time."""

    def __init__(self, path: Path) -> None:
        self.path, self.names, self.t_ms, self.data = path, {}, 0, b""

    def add(self, kind: Kind, name: str = "", *args: int, stream: int = 0) -> None:
        self.t_ms += 1
        number = self._number(name) if name else 0
        self._put(kind, number, stream, *args)

    def _number(self, name: str) -> int:
        if name not in self.names:
            self.names[name] = len(self.names) + 1
            text = name.encode()
            self._put(Kind.NAME, 0, 0, self.names[name], len(text))
            self.data += text.ljust(-(-len(text) // RECORD.size) * RECORD.size, b"\0")
        return self.names[name]

    def _put(self, kind: Kind, name: int, stream: int, *args: int) -> None:
        padded = (*args, 0, 0, 0, 0)[:4]
        self.data += RECORD.pack(kind, 0, 1, name, self.t_ms * 10**6, self.t_ms * 500_000, stream, *padded)

    def write(self) -> None:
        self.path.write_bytes(self.data)


def _a_run(tmp_path, preset, rank=3):
    """A rank's log and events of one warm-up and one measured step."""
    log = Log(log_path(tmp_path, rank))
    log.add(Kind.MEMORY, "", 2 * GIB, 0, GIB)
    log.add(Kind.COMMUNICATOR, "", 77, 8, rank)
    log.add(Kind.SYNCHRONIZE, "")
    log.add(Kind.KERNEL, "of the warm-up", 1, 1)
    log.add(Kind.SYNCHRONIZE, "")  # at 5 ms: the measured step begins
    for _ in range(3):
        log.add(Kind.KERNEL, "add", 1, 1)
    log.add(Kind.GEMM, "gemm bf16", 10, 20, 30, 2)
    log.add(Kind.COPY, "Memcpy DtoH", GIB, 2, 1)
    for peer in range(8):
        log.add(Kind.COLLECTIVE, "send", GIB // 8, 77, 5, peer + 1)
    log.add(Kind.COLLECTIVE, "all_gather", GIB, 77, 6)
    log.add(Kind.UNKNOWN, "cufftExecC2C")
    log.add(Kind.MEMORY, "", 4 * GIB, 0, 2 * GIB)
    log.add(Kind.SYNCHRONIZE, "")  # at 22 ms
    log.add(Kind.KERNEL, "after the step", 1, 1)
    log.write()
    step = Step(step=1, rank=rank, t=0.024, step_s=0.0165, mem_peak=3 * GIB, mem_reserved=3 * GIB)
    events = [Phase(phase="build", t=0.0, rank=rank), Phase(phase="measure", t=0.005, rank=rank), step]
    manifest = Manifest(
        run_id="x", preset=preset.name, engine="fsdp2", created_unix=0.0, world_size=8, device="cuda",
        virtual=VirtualGpu(gpu=H100, rank=rank), forecast=a_forecast(tensors_gib=3.0),
    )  # fmt: skip
    return account(tmp_path, manifest, preset, events)


def test_a_rank_is_accounted_for_by_the_calls_inside_its_measured_step(tmp_path):
    found = _a_run(tmp_path, a_preset("llama2_7b_128k", "training.accumulation=1"))
    assert [(k.name, k.calls) for k in found.kernels] == [("add", 3)]
    assert (found.gemms, found.gemm_tflop) == (1, 2 * 10 * 20 * 30 * 2 / 1e12)
    by_name = {count.name: count for count in found.collectives}
    assert (by_name["all_to_all"].calls, by_name["all_to_all"].gib) == (1, 1.0)
    assert by_name["all_to_all"].group == "8 ranks"
    assert by_name["all_gather"].gib == 8.0  # whole tensor
    assert found.unknown_calls == {"cufftExecC2C": 1}
    assert found.host_s == pytest.approx(0.008)  # 16 calls at half a millisecond
    assert found.launches == 3 + 1 + 1 + 9
    measured = next(peak for peak in found.peaks if peak.phase == "measure")
    assert (measured.allocated_gib, measured.reserved_gib) == (3.0, 3.5)  # 4 GiB less the context
    assert [text for text in found.problems if "all_to_all" in text]  # one where 192 must be


def test_a_log_that_was_cut_off_is_read_to_its_last_whole_record(tmp_path):
    log = Log(tmp_path / "cut")
    log.add(Kind.KERNEL, "a name that is longer than the sixty-four bytes of one record, by far", 1)
    log.add(Kind.KERNEL, "lost", 1)
    log.write()
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-10])
    assert [record.name[:6] for record in read_log(log.path)] == ["a name"]
    assert list(read_log(tmp_path / "none")) == []
    assert struct.calcsize(RECORD.format) == 64


def test_a_virtual_result_is_compared_with_nothing():
    preset = a_preset()
    virtual = a_result(preset, "v", samples=[], status="virtual")
    both = [rows.from_result(virtual), rows.from_result(a_result(preset, "m"))]
    assert compare(*both).verdict == "not comparable"
    assert "virtual" in " ".join(summary_lines(virtual))


@pytest.mark.parametrize(
    ("sets", "rank", "code"),
    [((), "8", ExitCode.USAGE), ((), "-1", ExitCode.USAGE), ((), "x", ExitCode.USAGE),
     (("hardware.num_gpus=64", "parallel.sp=8"), "all", ExitCode.DOES_NOT_FIT),
     (("profile=hotspots",), "0", ExitCode.UNSUPPORTED),
     (("engine.name=deepspeed",), "5", ExitCode.UNSUPPORTED),
     (("engine.name=xtuner",), "3", ExitCode.UNSUPPORTED),
     (("engine.name=xtuner",), "all", ExitCode.UNSUPPORTED),
     (("engine.name=megatron_bridge",), "0", ExitCode.UNSUPPORTED)],
)  # fmt: skip
def test_what_no_virtual_gpu_can_do_is_refused(sets, rank, code):
    with pytest.raises(TgsError) as raised:
        settings.virtual_gpu(a_preset("llama2_7b_128k", *sets), find_gpu(H100), rank)
    assert raised.value.exit_code == code


def test_a_gpu_is_one_of_the_tables_that_says_what_cuda_asks():
    with pytest.raises(TgsError, match="unknown GPU 'H101'"):
        settings.find_virtual_gpu("H101")
    assert all(settings.find_virtual_gpu(name) for name in (H100, "A100-SXM4-80GB", "NVIDIA B200"))


def test_a_gpu_without_compute_capability_is_not_guessed(monkeypatch):
    plain = replace(find_gpu(H100), compute_capability="")
    monkeypatch.setattr(settings, "find_gpu", lambda name: plain)
    with pytest.raises(TgsError, match="compute_capability"):
        settings.find_virtual_gpu(H100)


def test_a_virtual_run_is_short_unless_told_otherwise():
    short = api.load_preset("llama2_70b_1M", virtual_gpu=H100)
    assert (short.accumulation, short.measure.steps, short.hardware.gpu) == (2, 2, H100)
    told = api.load_preset("llama2_70b_1M", ["measure.steps=5", "training.accumulation=7"], virtual_gpu=H100)
    assert (told.accumulation, told.measure.steps) == (7, 5)


def test_one_process_is_started_for_a_lone_rank():
    preset = a_preset("llama2_70b_1M")
    argv = agent_argv(Path("run"), preset, python="python", virtual=VirtualGpu(gpu=H100, rank=7))
    assert argv[argv.index("--nproc-per-node") + 1] == "1"
    assert argv[argv.index("--lone-rank") + 1] == "7"
    together = agent_argv(Path("run"), preset, python="python", virtual=VirtualGpu(gpu=H100))
    assert "--lone-rank" not in together
    assert together[together.index("--nproc-per-node") + 1] == "64"


def test_a_lone_ranks_steps_are_complete_in_the_live_view():
    manifest = Manifest(
        run_id="x", preset="p", engine="fsdp2", created_unix=0.0, world_size=64, device="cuda",
        virtual=VirtualGpu(gpu=H100, rank=7),
    )  # fmt: skip
    live = live_run(manifest)
    closed = live.add_events([Step(step=0, rank=7, step_s=1.0), Step(step=0, rank=6, step_s=1.0)])
    assert [step.is_complete for step in closed] == [True]
    assert live.num_foreign == 1


def test_stubs_tell_their_names_and_the_drivers_refuse():
    source = build.stub_source(["cufftExecC2C", "cuMulticastCreate"])
    assert "STUB(cufftExecC2C, 0)" in source
    assert "STUB(cuMulticastCreate, 801)" in source


@pytest.mark.parametrize(
    ("versions", "words"),
    [({"torch": "2.13.0+cpu"}, "CPU build"),
     ({"torch": "2.10.0", "nvidia-cuda-runtime": "13.0"}, "torch 2.11 to 2.15"),
     ({}, "package torch")],
)  # fmt: skip
def test_an_environment_that_lacks_something_is_refused_with_how_to_make_one(monkeypatch, versions, words):
    known = {"transformers": "5", "msgspec": "1", "psutil": "1", "numpy": "1", **versions}
    monkeypatch.setattr(
        installation, "installed_versions", lambda python, names: {n: known.get(n, "") for n in names}
    )
    monkeypatch.setattr(installation.shutil, "which", lambda tool: tool)
    with pytest.raises(TgsError, match=words) as raised:
        installation.require()
    assert raised.value.exit_code == ExitCode.MISSING_DEPENDENCY
    assert installation.MAKE in raised.value.hint


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = installation.Installation(python="p", torch="2.13.0", cuda_runtime="13", site_packages="/none")
    with pytest.raises(TgsError, match=r"cannot be built: g\+\+ says .*cuda") as raised:
        build.ensure_built(found)
    assert raised.value.exit_code == ExitCode.MISSING_DEPENDENCY
    assert not list((tmp_path / "tgsbench/virtual-gpu/built").iterdir())


def test_options_that_do_not_go_together_are_refused():
    run = CliRunner()
    both = run.invoke(cli, ["run", "--preset", "llama2_7b_128k", "--virtual-gpu", H100, "--emulate-rank"])
    assert "goes with neither" in str(both.exception)
    alone = run.invoke(cli, ["run", "--preset", "llama2_7b_128k", "--rank", "3"])
    assert "--virtual-gpu" in str(alone.exception)


def test_a_rank_that_ended_before_its_first_phase_has_an_account_without_steps(tmp_path):
    manifest = Manifest(
        run_id="x", preset="p", engine="fsdp2", created_unix=0.0, world_size=8, device="cuda",
        virtual=VirtualGpu(gpu=H100, rank=3),
    )  # fmt: skip
    found = account(tmp_path, manifest, a_preset("llama2_7b_128k"), [])
    assert (found.peaks, found.launches, found.clock) == ([], 0, None)


@pytest.mark.parametrize(("rank", "seen"), [(0, "0"), (None, "0,1,2,3,4,5,6,7")])
def test_what_hides_this_machines_gpus_hides_no_virtual_one(monkeypatch, tmp_path, rank, seen):
    monkeypatch.setattr(build, "ensure_built", lambda _: tmp_path)
    found = installation.Installation(python="python3")
    virtual = VirtualGpu(gpu="H100-SXM5-80GB", rank=rank)
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    env = settings.device_environment(hidden, a_preset("llama3_8b_8k"), virtual, found, tmp_path)
    assert env["CUDA_VISIBLE_DEVICES"] == seen
