"""The doctor's lines on machines that are not this one, and what each advises."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path

import msgspec
import pytest

from tgsbench.schema.environment import Environment
from tgsbench.schema.torch_answers import TorchFacts
from tgsbench.system import doctor, gpus
from tgsbench.system.doctor import DoctorCheck, iter_checks, worst
from tgsbench.system.isolation import Load

CPU_FACTS = {
    "torch": "2.13.0+cpu", "cuda_build": "", "cuda_available": False, "cuda_problem": "built for CPUs only",
    "nccl": "", "devices": [], "peer_access": True, "kernels": {"sdpa": "2.13.0"},
}  # fmt: skip
CUDA_FACTS = {
    **CPU_FACTS, "torch": "2.13.0", "cuda_build": "13.0", "cuda_available": True, "cuda_problem": "",
    "nccl": "2.28.3", "devices": ["NVIDIA H100"] * 2, "kernels": {"sdpa": "2.13.0", "flash2": "2.8.3"},
}  # fmt: skip
TALK = {"backend": "gloo", "num_bytes": 2_000_000_000, "seconds": 2.0, "problem": ""}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Nobody else is here."""
    monkeypatch.setattr(doctor, "look_around", lambda: Load(0.0, 0.5, []))
    monkeypatch.setattr(doctor, "describe_environment", lambda *_: Environment(
        packages=dict.fromkeys(("torch", "transformers", "datasets", "deepspeed"), "1"),
        num_cores=2, memory_gib=8, cpu="x",
    ))  # fmt: skip


def checks(tmp_path, facts=CPU_FACTS, talk=TALK, hub=None) -> dict[str, DoctorCheck]:
    answers = {"facts": facts, "talk": talk, "hub": hub or {"problem": ""}}

    def probe(question, kind):
        return msgspec.convert(answers[question], kind)

    found = sorted(iter_checks(tmp_path / "runs", probe, {"deepspeed": "deepspeed"}), key=lambda g: g[0])
    return {check.what: check for _, group in found for check in group}


def fake_gpus(monkeypatch, names=("NVIDIA H100", "NVIDIA H100"), level=10, nvlinks=18) -> None:
    """A pynvml that tells of these GPUs."""

    class NVMLError(Exception):
        pass

    def nvlink(_handle, link):
        if link >= nvlinks:
            raise NVMLError
        return 1

    module = types.SimpleNamespace(
        NVMLError=NVMLError,
        NVML_NVLINK_MAX_LINKS=18,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(names),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: names[handle],
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(total=80 << 30),
        nvmlSystemGetDriverVersion=lambda: "580.82",
        nvmlSystemGetCudaDriverVersion_v2=lambda: 13010,
        nvmlDeviceGetTopologyCommonAncestor=lambda a, b: level,
        nvmlDeviceGetNvLinkState=nvlink,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)


def test_a_machine_without_gpus_is_well(tmp_path):
    found = checks(tmp_path)
    assert worst(list(found.values())) == "ok"
    assert found["ranks talk"].found == "2 ranks over gloo: 0.50 GB/s each way, all-to-all"
    assert "NCCL" not in found


def test_a_machine_with_gpus_tells_driver_nccl_and_topology(tmp_path, monkeypatch):
    fake_gpus(monkeypatch)
    found = checks(tmp_path, CUDA_FACTS)
    assert found["GPUs"].found == "2 x NVIDIA H100"
    assert found["driver"].found == "580.82, up to CUDA 13.1"
    assert found["NCCL"].found == "2.28.3"
    assert found["topology"].found == "18 NVLinks a GPU; one PCIe switch"
    assert worst(list(found.values())) == "ok"


def test_gpus_that_torch_cannot_use_are_a_failure_with_the_remedy(tmp_path, monkeypatch):
    fake_gpus(monkeypatch)
    found = checks(tmp_path, CPU_FACTS)
    assert (found["CUDA"].level, found["NCCL"].level) == ("failure", "failure")
    assert "CUDA build of torch" in found["CUDA"].remedy


@pytest.mark.parametrize(
    ("what", "level", "words", "change"),
    [
        ("GPUs", "warning", "equal GPUs", {"names": ("NVIDIA H100", "NVIDIA A100")}),
        ("attention", "warning", "flash-attn", {"facts": {**CUDA_FACTS, "kernels": {"sdpa": "2"}}}),
        ("topology", "warning", "host memory", {"facts": {**CUDA_FACTS, "peer_access": False}, "nvlinks": 0}),
        ("ranks talk", "failure", "SOCKET_IFNAME", {"talk": {"problem": "no answer within 90 s"}}),
        ("hub", "warning", "random tokens", {"hub": {"problem": "no name"}}),
        ("torch", "failure", "reinstall", {"facts": {"problem": "ImportError: libcudart"}}),
    ],
)
def test_what_is_wrong_comes_with_its_remedy(tmp_path, monkeypatch, what, level, words, change):
    fake_gpus(monkeypatch, change.get("names", ("NVIDIA H100",) * 2), nvlinks=change.get("nvlinks", 18))
    found = checks(tmp_path, change.get("facts", CUDA_FACTS), change.get("talk", TALK), change.get("hub"))
    assert found[what].level == level
    assert words in found[what].remedy


def test_an_nvml_that_breaks_off_is_not_told_rather_than_raised(tmp_path, monkeypatch):
    fake_gpus(monkeypatch)
    broken = sys.modules["pynvml"]

    def fails(*_):
        raise broken.NVMLError

    for name in ("nvmlDeviceGetName", "nvmlSystemGetDriverVersion", "nvmlDeviceGetTopologyCommonAncestor"):
        monkeypatch.setattr(broken, name, fails)
    assert (gpus.driver(), gpus.links()) == (("", ""), "")
    assert gpus.list_gpus() == []


def test_a_disk_that_takes_nothing_and_a_small_shm_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    assert doctor.disk(tmp_path / "file").level == "failure"
    assert doctor.disk(tmp_path / "not" / "yet").found.endswith(str(tmp_path))
    assert doctor.shared_memory(tmp_path / "missing").level == "warning"


def test_a_busy_machine_and_few_files_are_warnings(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "look_around", lambda: Load(1.5, 0.5, ["python (pid 7) 1.5"]))
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda which: (1024, 4096))
    found = checks(tmp_path)
    assert "python (pid 7)" in found["idle"].found
    assert (found["open files"].level, found["open files"].remedy) == ("warning", "ulimit -n 4096")


@pytest.mark.parametrize(
    ("code", "problem"),
    [("print(1/0)", "ZeroDivisionError"), ("print('no json')", "cannot be read"), ("", "cannot be read")],
)
def test_a_probe_that_fails_is_a_problem_not_a_traceback(monkeypatch, tmp_path, code, problem):
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(doctor.sys, "executable", str(script))
    assert problem in doctor.ask_torch("facts", TorchFacts).problem
    assert Path(script).exists()


NO_TORCH = {"problem": "ModuleNotFoundError: No module named 'torch'"}


def test_without_torch_every_remedy_leads_to_torch(tmp_path, monkeypatch):
    fake_gpus(monkeypatch)
    monkeypatch.setattr(doctor, "describe_environment", lambda *_: Environment(packages={}))
    found = checks(tmp_path, facts=NO_TORCH, talk=NO_TORCH, hub={"problem": "No module named 'datasets'"})
    assert "[train]" in found["torch"].remedy
    for name in ("ranks talk", "attention", "CUDA", "NCCL"):
        assert found[name].remedy == "see torch", name
    assert found["hub"].remedy == "see datasets"


def test_checks_that_need_no_torch_are_told_before_it_has_answered(tmp_path):
    def probe(question, kind):
        gate.wait(60)
        answers = {"facts": CPU_FACTS, "talk": TALK, "hub": {"problem": ""}}
        return msgspec.convert(answers[question], kind)

    gate = threading.Event()
    told = iter_checks(tmp_path, probe)
    early = [check.what for _ in range(3) for check in next(told)[1]]
    assert {"python", "transformers", "CPU", "disk"} <= set(early) and "torch" not in early
    gate.set()
    late = [check.what for _, group in told for check in group]
    assert late == ["torch", "GPUs", "attention", "ranks talk", "hub"]
