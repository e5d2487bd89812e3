"""What the DeepSpeed engine decides before any rank runs: configuration, tiles, guards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.cpp_extension import _get_build_directory

from tgsbench import presets
from tgsbench.errors import ExitCode, TgsError
from tgsbench.training.engines.deepspeed import ops, setup
from tgsbench.training.engines.deepspeed.config import deepspeed_config
from tgsbench.training.engines.deepspeed.tiles import num_tiles


def _preset(*sets: str):
    return presets.resolve("tiny_cpu", ["engine.name=deepspeed", *sets]).preset


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_zero_stage_comes_from_the_preset(stage):
    assert deepspeed_config(_preset(f"engine.zero_stage={stage}"))["zero_optimization"]["stage"] == stage


@pytest.mark.parametrize(
    ("offload", "sections"),
    [
        ("none", set()),
        ("optimizer", {"offload_optimizer"}),
        ("all", {"offload_optimizer", "offload_param"}),
    ],
)
def test_offload_names_what_leaves_the_device(offload, sections):
    zero = deepspeed_config(_preset(f"engine.offload={offload}"))["zero_optimization"]
    assert {key for key in zero if key.startswith("offload")} == sections


def test_deepspeed_is_told_of_the_batch_it_checks_and_not_of_sequence_parallelism():
    config = deepspeed_config(_preset("training.accumulation=3", "training.micro_batch=2"))
    assert config["train_batch_size"] == 2 * 3 * 2
    assert "sequence_parallel_size" not in config


@given(st.integers(1, 5000), st.integers(1, 700))
def test_torch_cuts_as_many_tiles_as_alst_is_told_and_none_above_the_size(tokens, tile):
    pieces = torch.empty(tokens).chunk(num_tiles(tokens, tile))
    assert len(pieces) == num_tiles(tokens, tile)
    assert max(len(piece) for piece in pieces) <= tile


def test_a_process_holds_one_engine(monkeypatch):
    monkeypatch.setattr(setup, "_built", False)
    setup.claim_process()
    with pytest.raises(TgsError, match="one DeepSpeed engine") as caught:
        setup.claim_process()
    assert caught.value.exit_code == ExitCode.UNSUPPORTED


@pytest.fixture
def op(tmp_path, monkeypatch):
    """A builder of op "cpu_adam" whose build folder is empty, as on a fresh machine."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    built: list[str] = []

    class Builder:
        name = "cpu_adam"

        def jit_load(self, verbose=True):
            built.append(self.name)

        def deepspeed_src_path(self, part):
            return f"/env/deepspeed/ops/{part}"

    folder = Path(_get_build_directory("cpu_adam", verbose=False))
    return SimpleNamespace(builder=Builder, built=built, folder=folder)


def _load(op) -> list[str]:
    notes: list[str] = []
    ops.announce_builds(op.builder, notes.append)
    op.builder().jit_load()
    return notes


def _build(op, sources="/env/deepspeed/ops/csrc"):
    (op.folder / "build.ninja").write_text(f"build cpu_adam.o: compile {sources}/adam/cpu_adam.cpp\n")
    (op.folder / "cpu_adam.so").write_bytes(b"")


def test_the_first_build_of_an_op_is_announced_with_how_long_it_takes(op):
    notes = _load(op)
    assert len(notes) == 1 and "compiling" in notes[0] and "minutes" in notes[0]
    assert op.built == ["cpu_adam"]


def test_an_op_built_before_is_loaded_and_the_note_says_so(op):
    _build(op)
    assert _load(op) == ["loading DeepSpeed's cpu_adam op"]


def test_an_op_of_another_environment_or_of_a_build_that_was_broken_off_is_compiled_again(op):
    _build(op, "/other/deepspeed/ops/csrc")
    assert "compiling" in _load(op)[0]
    _build(op)
    os.utime(op.folder / "cpu_adam.so", (1, 1))
    assert "compiling" in _load(op)[0]


def test_a_lock_that_somebody_left_is_named_and_removed(op):
    (op.folder / "lock").touch()
    assert str(op.folder / "lock") in _load(op)[0]
    assert not (op.folder / "lock").exists()


def test_a_lock_that_somebody_holds_is_waited_for(op):
    (op.folder / "lock").touch()
    with (op.folder / "lock").open():
        assert "waiting for another process" in _load(op)[0]
        assert (op.folder / "lock").exists()


def test_only_one_rank_of_a_machine_removes_locks(op, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    (op.folder / "lock").touch()
    assert "waiting for another process" in _load(op)[0]
    assert (op.folder / "lock").exists()


@pytest.mark.parametrize("at_work", [True, False])
def test_a_long_build_is_told_while_its_compiler_lives_and_a_wait_is_not(op, monkeypatch, at_work):
    monkeypatch.setattr(ops, "_TELL_S", 0.01)
    told = threading.Event()
    notes: list[str] = []

    def note(text):
        notes.append(text)
        if "so far" in text:
            told.set()

    def compile_it(self, verbose=True):
        with subprocess.Popen(["sleep", "60"]) if at_work else nullcontext() as compiler:
            told.wait(30 if at_work else 0.2)
            if compiler:
                compiler.kill()

    op.builder.jit_load = compile_it
    ops.announce_builds(op.builder, note)
    op.builder().jit_load()
    assert told.is_set() == at_work, notes


def test_without_a_compiler_the_error_names_it_and_the_way_out(op, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(TgsError, match=r"g\+\+ and no ninja") as caught:
        _load(op)
    assert "engine.offload=none" in caught.value.hint
    assert not op.built


_CANARY = """
import os; os.environ["DS_ACCELERATOR"] = "cpu"
import torch
from deepspeed.runtime.sequence_parallel.ulysses_sp import TiledMLP
mlp = torch.nn.Linear(2, 2)
x = torch.ones(1, 4, 2, requires_grad=True)
try:
    TiledMLP.apply(lambda m, part: m(part), mlp, x, 2, None)
except TypeError:
    raise SystemExit(7)
"""


def test_alst_still_breaks_without_compute_params_so_the_weights_must_be_named():
    """Once this fails, DeepSpeed has mended it and the note in alst.py can go."""
    pytest.importorskip("deepspeed")
    done = subprocess.run([sys.executable, "-c", _CANARY], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["engine.name=deepspeed", "engine.compile=true"], "engine.compile"),
        (["engine.data_adapter=true"], "engine.data_adapter"),
        (["engine.tiled_loss=true"], "engine.tiled_loss"),
        (["engine.name=deepspeed", "engine.tiled_loss=true", "engine.liger=true"], "engine.liger"),
    ],
)
def test_options_that_an_engine_lacks_are_refused_by_name(sets, said):
    with pytest.raises(TgsError, match=said):
        presets.resolve("tiny_cpu", sets)
