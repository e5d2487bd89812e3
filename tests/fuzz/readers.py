"""Everything here that reads bytes of strangers, with samples of what is meant and a way to damage them.

A reader returns or raises TgsError; any other exception, a hang or gigabytes are defects. `python -m
tests.fuzz` feeds 10^5 inputs to each; tests/fuzz/test_readers.py a seeded few.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec

from tests.fuzz import mutate
from tests.fuzz.mutate import Mutator
from tgsbench.errors import TgsError

DATA = Path(__file__).resolve().parents[1] / "data"


class Reader(NamedTuple):
    """One kind of input."""

    samples: Callable[[], list[bytes]]
    damage: Mutator
    read: Callable[[Path, bytes], None]
    """Gets an empty or reused folder of its own, and the bytes."""


READERS: dict[str, Reader] = {}


def _reader(
    samples: Callable[[], list[bytes]], damage: Mutator
) -> Callable[[Callable[[Path, bytes], None]], Callable[[Path, bytes], None]]:
    def add(read: Callable[[Path, bytes], None]) -> Callable[[Path, bytes], None]:
        READERS[read.__name__] = Reader(cache(samples), damage, read)
        return read

    return add


def _put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


# Numbers, words and options


def _words() -> list[bytes]:
    return [
        b"8k",
        b"1M",
        b"131072",
        b"30d",
        b"12h",
        b"2-00:30:00",
        b"host1,host2",
        b"host1:29500",
        b"[::1]:29400",
    ]


def _word_changed(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    text = rng.choice(mutate.TEXTS).encode("utf-8", "replace")
    return (
        data[:at] + text + data[at + rng.randrange(3) :]
        if rng.random() < 0.5
        else mutate.text_lines(rng, data)
    )


@_reader(_words, _word_changed)
def numbers(folder: Path, data: bytes) -> None:
    from tgsbench import units
    from tgsbench.launch import nodes, slurm
    from tgsbench.results import prune

    text = _text(data)
    for parse in (
        units.parse_length,
        prune.parse_age,
        nodes.parse_nodes,
        slurm._checked_time,
        lambda word: nodes.parse_rendezvous(word, ["a"]),
    ):
        try:
            parse(text)
        except TgsError:
            pass
        except ValueError:
            if parse is not units.parse_length:
                raise


KEYS = (
    "workload.seq_len",
    "measure.steps",
    "training.lr",
    "parallel.sp",
    "engine.name",
    "hardware.num_gpus",
    "notes",
    "training.accumulation",
    "model.num_layers",
    "model.vocab_size",
    "workload.document_mask",
    "engine.kernel",
    "workload.lengths",
    "measure.stall_s",
    "parallel.ring",
    "model",
    "training.clip_norm",
    "engine.zero_stage",
    "x.y",
)


def _assigned(rng: Random, data: bytes) -> bytes:
    key = rng.choice(KEYS) if rng.random() < 0.9 else rng.choice(mutate.TEXTS)
    value = mutate.hostile(rng)
    text = value if isinstance(value, str) else mutate.dumped(value).decode("utf-8", "replace")
    line = f"{key}={text}".encode("utf-8", "replace")
    return mutate.bytes_of(rng, line) if rng.random() < 0.1 else line


@_reader(lambda: [b"workload.seq_len=4k"], _assigned)
def assignments(folder: Path, data: bytes) -> None:
    from tgsbench import presets

    presets.resolve("tiny_cpu", [_text(data)])


# Files of the user's: presets, hardware, models, grids, settings


@cache
def _preset_toml() -> bytes:
    from tgsbench import presets

    return presets.to_toml(presets.resolve("tiny_cpu").preset).encode()


@_reader(lambda: [_preset_toml(), b'extends = "tiny_cpu"\nmeasure.steps = 6\n'], mutate.toml)
def preset(folder: Path, data: bytes) -> None:
    from tgsbench import presets

    presets.resolve(_put(folder, "x.toml", data))


@_reader(lambda: [_preset_toml()], mutate.toml)
def planned_preset(folder: Path, data: bytes) -> None:
    """A preset that is accepted has a plan, finite and printable, or a refusal."""
    import tgsbench
    from tgsbench.report.plan import plan_lines

    found = tgsbench.plan(_put(folder, "x.toml", data))
    assert plan_lines(found)


def _shipped(kind: str) -> list[bytes]:
    from tgsbench.presets import catalog

    return [path.read_bytes() for path in sorted(catalog.shipped("presets").joinpath(kind).glob("*.toml"))]


@_reader(lambda: _shipped("hardware"), mutate.toml)
def hardware(folder: Path, data: bytes) -> None:
    from tgsbench.presets import catalog
    from tgsbench.safe_files import read_toml
    from tgsbench.schema.hardware import GpuSpec

    catalog._convert(read_toml(_put(folder, "x.toml", data)), GpuSpec, folder)


@_reader(lambda: _shipped("constants"), mutate.toml)
def constants(folder: Path, data: bytes) -> None:
    from tgsbench.presets import catalog
    from tgsbench.safe_files import read_toml
    from tgsbench.schema.hardware import Constants

    catalog._convert(read_toml(_put(folder, "x.toml", data)), Constants, folder)


@_reader(
    lambda: [path.read_bytes() for path in sorted((DATA / "configs").glob("*.json"))], mutate.json_document
)
def config_json(folder: Path, data: bytes) -> None:
    from tgsbench.presets.config_file import as_table, read_model

    as_table(read_model(str(_put(folder, "config.json", data))).shape)


def _specs() -> list[bytes]:
    return [
        b'preset = "tiny_cpu"\nset = { "measure.steps" = 6 }\ngrid = { sp = [1, 2] }\n',
        b'name = "a"\npreset = "llama2_7b_32k"\nrehearse = true\n[grid]\n"workload.seq_len" = ["4k", 8192]\n',
    ]


@_reader(_specs, mutate.toml)
def grid(folder: Path, data: bytes) -> None:
    from tgsbench.launch import sweep

    for point in sweep.points(sweep.read_spec(_put(folder, "spec.toml", data))):
        assert point.label
        assert point.skipped or point.preset is not None


@_reader(lambda: [b'theme = "nord"\nwelcomed = true\n[keys]\n"live.stop" = "ctrl+k"\n'], mutate.toml)
def ui_settings(folder: Path, data: bytes) -> None:
    from tgsbench.tui import config

    os.environ["XDG_CONFIG_HOME"] = str(folder)
    _put(folder, "tgsbench/tui.toml", data)
    found = config.load_config()
    if not found.problems:
        config.save_config(found)


def _recipes() -> list[bytes]:
    from tgsbench.presets import catalog

    return [path.read_bytes() for path in sorted(catalog.shipped("profiles").glob("*.toml"))]


@_reader(_recipes, mutate.toml)
def recipe(folder: Path, data: bytes) -> None:
    from tgsbench.presets import recipes

    os.environ["XDG_CONFIG_HOME"] = str(folder)
    _put(folder, "tgsbench/profiles/x.toml", data)
    recipes.num_profile_steps(recipes.load_recipe("x"))


# Run folders


@cache
def _run_documents() -> dict[str, bytes]:
    from tests.fuzz import test_run_folders as told

    named = {
        "run.json": told.MANIFEST,
        "result.json": told.RESULT,
        "outcome.json": told.OUTCOME,
        "launcher.json": told.LAUNCHER,
        "env.json": {"packages": {"torch": "2"}},
    }
    return {name: mutate.dumped(document) for name, document in named.items()}


def _step(n: int) -> object:
    from tgsbench.schema import events as ev

    said = {"tokens": 1024, "labels": 900, "step_s": 0.5, "data_s": 0.01, "loss_sum": 3.0, "grad_norm": 1.0}
    named = {**said, "phase": "measure", "rank": 0, "seq": 2 + n, "t": 3.0 + n / 2}
    return ev.Step(step=n, mem_peak=1 << 28, **named)  # type: ignore[arg-type]


def _run_events() -> list[bytes]:
    from tgsbench.schema import events as ev

    rank: list[object] = [ev.Hello(world=2, host="a", device="cpu", pid=1, unix_t=1.0, rank=0, seq=0, t=1.0)]
    rank += [ev.Phase(phase="measure", rank=0, seq=1, t=2.0)]
    rank += [_step(n) for n in range(6)]
    rank += [ev.FirstStep(num_labels=900, updates=[1e-5], added=[1.0], moments_squared=0.01, rank=0, seq=11)]
    rank += [ev.Trace(path="profile/x.json.gz", steps=[1], rank=0, seq=8, t=7.0)]
    rank += [ev.Warn(code="c", msg="m", rank=0, seq=9, t=7.0), ev.Bye(status="ok", rank=0, seq=10, t=7.0)]
    return [b"\n".join(map(msgspec.json.encode, rank)) + b"\n"]


@_reader(_run_events, mutate.json_lines)
def events(folder: Path, data: bytes) -> None:
    from tgsbench.events.tail import FileTail
    from tgsbench.live.fold import LiveRun
    from tgsbench.metrics.observe import fold_events

    tail = FileTail(_put(folder, "rank00000.jsonl", data))
    found = [event for piece in tail.read_to_end() for event in piece]
    fold_events(found, 2)
    LiveRun(2).add_events(found, 1.0)


@contextlib.contextmanager
def _attribute(owner: Any, name: str, value: object) -> Iterator[None]:
    """Another value for the time of a block; unittest.mock takes a millisecond for it."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def sound_files_read_once() -> Iterator[None]:
    """What lies beside a damaged file is the same for every input: the sound preset is parsed once.

    Without it nine tenths of a run folder's time go into preset.toml and into what an out-of-memory
    error is told of it.
    """
    from tgsbench.planner import shortfall
    from tgsbench.store.run_dir import RunDir

    read, estimates, told = RunDir.preset, shortfall.changed_estimates, {}

    def read_once(run: RunDir) -> Any:
        is_sound = (run.path / "preset.toml").read_bytes() == _preset_toml()
        return _sound_preset() if is_sound else read(run)

    def estimate_once(preset: Any, base: Any) -> Any:
        if preset != _sound_preset():
            return estimates(preset, base)
        if base.machine.gpu.name not in told:
            told[base.machine.gpu.name] = estimates(preset, base)
        return told[base.machine.gpu.name]

    with (
        _attribute(RunDir, "preset", read_once),
        _attribute(shortfall, "changed_estimates", estimate_once),
    ):
        yield


@cache
def _sound_preset() -> object:
    from tgsbench import presets

    return presets.resolve("tiny_cpu").preset


def _run_of(folder: Path, files: dict[str, bytes]) -> Path:
    run = folder / "runs" / "r"
    for name, data in {
        **_run_documents(),
        "preset.toml": _preset_toml(),
        "events/rank00000.jsonl": _run_events()[0],
        "log/rank00000.log": b"",
        **files,
    }.items():
        if name == "result.json" and name not in files:
            (run / name).unlink(missing_ok=True)
            continue
        _put(run, name, data)
    return run


def _look(folder: Path, files: dict[str, bytes]) -> None:
    """A folder with these files is listed, shown and, where it has a result, summed up."""
    from tgsbench.report.summary import summary_lines
    from tgsbench.results import index, results
    from tgsbench.store.run_dir import RunDir

    run = RunDir(_run_of(folder, files))
    found = results.load_result(run)
    with _attribute(results, "load_or_describe", lambda _: found):  # the list's way to the same
        index.summarize(run)
    assert summary_lines(found)
    msgspec.json.encode(found)


@_reader(_run_events, mutate.json_lines)
def rebuilt_run(folder: Path, data: bytes) -> None:
    _look(folder, {"events/rank00000.jsonl": data})


def _document_reader(name: str) -> None:
    def read(folder: Path, data: bytes) -> None:
        _look(folder, {name: data})

    read.__name__ = name.replace(".", "_")
    _reader(lambda: [_run_documents()[name]], mutate.json_document)(read)


for _name in ("run.json", "result.json", "outcome.json", "launcher.json", "env.json"):
    _document_reader(_name)


@_reader(lambda: [_preset_toml()], mutate.toml)
def preset_of_run(folder: Path, data: bytes) -> None:
    _look(folder, {"preset.toml": data})


def _logs_of_ranks() -> list[bytes]:
    return [
        b'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: CUDA out of memory\n' * 3
    ]


@_reader(_logs_of_ranks, mutate.text_lines)
def rank_log(folder: Path, data: bytes) -> None:
    from tgsbench.events.logs import LogTail

    log = LogTail(_put(folder, "rank00000.log", data))
    while log.poll():
        pass
    _look(folder, {"log/rank00000.log": data, "events/rank00000.jsonl": b""})


STACKS = (
    b"Thread 0x00007f12 (most recent call first):\n"
    b'  File "/x/torch/distributed/distributed_c10d.py", line 4 in wait\n'
    b'  File "/x/tgsbench/training/__main__.py", line 12 in main\n\n'
    b"Current thread 0x00007f13 (most recent call first):\n"
    b'  File "/x/tgsbench/training/loop.py", line 40 in step\n'
)


@_reader(lambda: [STACKS], mutate.text_lines)
def stacks(folder: Path, data: bytes) -> None:
    stalled = {"status": "stalled", "reason": "no progress", "exit_code": 10}
    _look(folder, {"stacks/rank00000.txt": data, "outcome.json": mutate.dumped(stalled)})


@_reader(lambda: [_index_bytes()], mutate.json_document)
def store_index(folder: Path, data: bytes) -> None:
    from tgsbench.results import index

    _run_of(folder, {})
    _put(folder / "runs", ".index.json", data)
    for found in index.list_summaries(folder / "runs"):
        assert found.run_id


def _index_bytes() -> bytes:
    from tgsbench.results.index import VERSION, Summary, _Entry, _Index

    summary = Summary(
        run_id="r", status="ok", preset="tiny_cpu", engine="fsdp2", tgs=3.5, n=6, created_unix=1.0
    )
    return msgspec.json.encode(_Index(version=VERSION, entries=[_Entry((1, 2, 3, 4), summary)]))


# Archives


def _packed(files: dict[str, bytes]) -> bytes:
    import hashlib

    members = [
        {"path": name, "num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in files.items()
    ]
    sums = json.dumps({"schema_version": 1, "members": members}).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in {"tgsbench-archive.json": sums, **files}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(out.getvalue(), 1)


FIELDS = ((0, 100), (100, 8), (124, 12), (148, 8), (156, 1), (157, 100), (257, 6), (345, 155))
"""Of a tar header: where each begins, and its bytes."""
IN_FIELDS = (b"../x", b"/etc/x", b"77777777777", b"\x80" + b"\xff" * 11, b"x", b"L", b"S", b"g", b"K", b"2")


def _tar_changed(rng: Random, data: bytes) -> bytes:
    """Blocks of a tar changed in their fields, then packed; one in ten damaged as a packed file."""
    blocks = bytearray(gzip.decompress(data))
    for _ in range(rng.randint(1, 3)):
        at = 512 * rng.randrange(len(blocks) // 512)
        field, size = rng.choice(FIELDS)
        junk = rng.choice([*IN_FIELDS, rng.randbytes(size)])[:size]
        blocks[at + field : at + field + len(junk)] = junk
        if rng.random() < 0.8:
            blocks[at + 148 : at + 156] = b"        "
            blocks[at + 148 : at + 156] = b"%06o\x00 " % sum(blocks[at : at + 512])
    packed = gzip.compress(bytes(blocks), 1)
    return mutate.bytes_of(rng, packed) if rng.random() < 0.1 else packed


@_reader(lambda: [_packed({"r/run.json": b"{}", "r/events/rank00000.jsonl": b"x" * 900})], _tar_changed)
def archive(folder: Path, data: bytes) -> None:
    import shutil

    from tgsbench.store.archive import unpack

    root = folder / "runs"
    for name in unpack(_put(folder, "x.tgz", data), root):
        shutil.rmtree(root / name)


# Logs, tables and rows of other tools


@cache
def _context() -> object:
    from tgsbench import presets
    from tgsbench.results.imported import Context

    return Context(
        name="x", model=presets.load_model("llama2_7b"), seq_len=32768, gpu="A100-SXM4-80GB", num_gpus=8
    )


@_reader(lambda: [path.read_bytes()[:6000] for path in sorted((DATA / "logs").iterdir())], mutate.text_lines)
def foreign_log(folder: Path, data: bytes) -> None:
    from tgsbench.results import imported
    from tgsbench.systems import logs

    text = imported._decoded(data, folder)
    if logs.is_table(text):
        imported.from_csv(text, _context(), {})
    imported.from_log(text, _context())


def _json_logs() -> list[bytes]:
    return [path.read_bytes()[:3000].rpartition(b"\n")[0] for path in sorted((DATA / "logs").glob("*.jsonl"))]


@_reader(_json_logs, mutate.json_lines)
def foreign_json_log(folder: Path, data: bytes) -> None:
    from tgsbench.results import imported

    imported.from_log(_text(data), _context())


CSV = (
    b"tgs,tflops,mfu,model,seq_len,gpu,num_gpus,sp,mem_gib\n3000,180,0.5,llama2_7b,32k,A100-SXM4-80GB,8,1,60\n"
    b"1200,170,,llama2_7b,128k,A100-SXM4-80GB,8,8,\n"
)


@_reader(lambda: [CSV, CSV.replace(b",", b";"), CSV.replace(b",", b"\t")], mutate.text_lines)
def foreign_table(folder: Path, data: bytes) -> None:
    from tgsbench.results import imported

    for row in imported.from_csv(_text(data), _context(), {"llama2_7b": _context().model}):  # type: ignore[attr-defined]
        msgspec.json.encode(row)


def _imported_rows() -> list[bytes]:
    from tgsbench.results import imported

    rows = imported.from_csv(CSV.decode(), _context(), {"llama2_7b": _context().model})  # type: ignore[attr-defined,arg-type]
    return [msgspec.json.encode(row) for row in rows]


@_reader(_imported_rows, mutate.json_document)
def stored_row(folder: Path, data: bytes) -> None:
    """A row that is loaded is compared with one as it was, and printed."""
    from tgsbench.results import compare, imported

    sane = imported.load(_put(folder, "sane.json", _imported_rows()[0])).row
    imported.summaries(folder)
    found = imported.load(_put(folder, "foreign/x.json", data)).row
    compare.compare(sane, found)
    compare.compare(found, sane)


# Traces


def _traces() -> list[bytes]:
    found = [path.read_bytes() for path in sorted((DATA / "traces_of_others").glob("*.json"))]
    from tests.traces.made import Made

    made = Made()
    for n in range(4):
        made.op("aten::mm", 100.0 * n, 50, **{"External id": n})
        made.kernel("ampere_gemm", 100.0 * n + 10, 30, launch=100.0 * n + 1)
        made.kernel("ncclDevKernel_SendRecv", 100.0 * n + 45, 20, launch=100.0 * n + 3, stream=20)
    return [*(data for data in found if len(data) < 60_000), json.dumps(made.document()).encode()]


def _analyse(path: Path) -> None:
    from tgsbench.report.profile import profile_lines
    from tgsbench.traces import sources

    found = sources.load_profile([str(path)], path.parent, 1)
    assert profile_lines(found)
    msgspec.json.encode(found)


@_reader(_traces, mutate.json_document)
def trace(folder: Path, data: bytes) -> None:
    _analyse(_put(folder, "x.pt.trace.json", data))


def _packed_trace(rng: Random, data: bytes) -> bytes:
    """The trace packed in some way, and the packed bytes damaged."""
    how = rng.randrange(4)
    if how == 0:
        return mutate.bytes_of(rng, gzip.compress(data, 1))
    out = io.BytesIO()
    if how == 1:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.writestr("a/rank0.pt.trace.json", data)
        return mutate.bytes_of(rng, out.getvalue())
    with tarfile.open(fileobj=out, mode="w:gz" if how == 2 else "w") as tar:
        info = tarfile.TarInfo("rank0.pt.trace.json")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return mutate.bytes_of(rng, out.getvalue())


@_reader(lambda: _traces()[-1:], _packed_trace)
def packed_trace(folder: Path, data: bytes) -> None:
    import shutil

    named = {b"\x1f\x8b": "x.json.gz", b"PK": "x.zip", b'{"': "x.json"}
    path = _put(folder, named.get(data[:2], "x.tar"), data)
    try:
        _analyse(path)
    finally:
        for other in folder.iterdir():
            shutil.rmtree(other) if other.is_dir() else other.unlink()


@cache
def _profiles() -> list[bytes]:
    import tempfile

    from tgsbench.traces import sources

    with tempfile.TemporaryDirectory() as folder:
        path = _put(Path(folder), "x.pt.trace.json", _traces()[-1])
        return [msgspec.json.encode(sources.load_profile([str(path)], Path(folder), 1))]


@_reader(_profiles, mutate.json_document)
def stored_profile(folder: Path, data: bytes) -> None:
    from tgsbench.report.profile import profile_lines
    from tgsbench.store.profiles import stored_profile as load
    from tgsbench.store.run_dir import RunDir

    _put(folder, "r/profile/hotspots.json", data)
    found = load(RunDir(folder / "r"))
    assert found is None or profile_lines(found)


def _records() -> list[bytes]:
    from tgsbench.virtual_gpu.log import RECORD

    named = RECORD.pack(1, 0, 0, 0, 0, 0, 0, 7, 5, 0, 0) + b"matmul".ljust(RECORD.size, b"\0")
    kernels = [RECORD.pack(kind, 0, 1, 7, 1000 * kind, 10, 3, 8, 8, 128, 64) for kind in range(2, 13)]
    return [named + b"".join(kernels)]


def _record_changed(rng: Random, data: bytes) -> bytes:
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = 8 * rng.randrange(len(data) // 8)
        data[at : at + 8] = struct.pack(
            "<Q", rng.choice([0, 1, 2**32, 2**63, 2**64 - 1, rng.getrandbits(64)])
        )
    return bytes(data) if rng.random() < 0.7 else mutate.bytes_of(rng, bytes(data))


@_reader(_records, _record_changed)
def virtual_gpu_log(folder: Path, data: bytes) -> None:
    from tgsbench.virtual_gpu import log

    for record in log.read_log(_put(folder, "rank00000.vgpu", data)):
        assert isinstance(record.name, str)


# Tunes and gates


def _journals() -> list[bytes]:
    from tgsbench.tune.halving import TrialOutcome
    from tgsbench.tune.journal import Asked

    lines = [Asked(base="tiny_cpu", assignments=["measure.steps=6"])]
    rest = [
        TrialOutcome(
            key=f"k{n}",
            rung="short",
            status="ok",
            tgs=100.0 + n,
            spread=0.02,
            seconds=9.0,
            mem_gib=1.0,
            run_id=f"r{n}",
        )
        for n in range(3)
    ]
    return [b"\n".join(map(msgspec.json.encode, [*lines, *rest])) + b"\n"]


@_reader(_journals, mutate.json_lines)
def tune_journal(folder: Path, data: bytes) -> None:
    from tgsbench.tune.journal import Asked, Journal

    _put(folder, "tune/x.jsonl", data)
    for outcome in Journal(folder, "x").open(Asked(base="tiny_cpu", assignments=["measure.steps=6"])):
        assert outcome.tgs is None or 0 < outcome.tgs < 1e12, outcome
        assert outcome.key.isprintable()


def _baselines() -> list[bytes]:
    from tgsbench.results.baselines import Baselines

    row = msgspec.json.decode(_imported_rows()[0])["row"] | {
        "samples": [100.0, 101.0, 99.0, 100.5, 100.2, 99.9]
    }
    return [mutate.dumped({**msgspec.to_builtins(Baselines()), "rows": {"tiny_cpu": row}})]


@_reader(_baselines, mutate.json_document)
def gate_baselines(folder: Path, data: bytes) -> None:
    from tgsbench.results import baselines, compare

    path = _put(folder, "b.json", data)
    row = baselines.baseline_of(baselines.load(path), "tiny_cpu", path)
    sane = baselines.load(_put(folder, "sane.json", _baselines()[0])).rows["tiny_cpu"]
    compare.compare(row, sane)
    msgspec.json.encode(row)


# Data to train on


@_reader(lambda: [b"length,count\n100,3\n2000,1\n", b"12\n700\n700\n"], mutate.text_lines)
def lengths(folder: Path, data: bytes) -> None:
    from tgsbench.workload.histogram import draw_histogram, read_histogram

    found = read_histogram(_put(folder, "l.csv", data))
    assert found.mean > 0
    if found.lengths.max() < 100_000:
        draw_histogram(found, 16, 1000, 0)


ROWS = (
    b'{"instruction": "Add 1 and 2.", "input": "", "output": "3"}\n'
    b'{"instruction": "Name a colour.", "input": "warm", "output": "Red \\u00e9"}\n'
)
MESSAGES = (
    b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"text": "o"}]}]}\n'
    b'{"messages": [{"role": "system", "content": "x"}, {"role": "assistant", "content": "Yes"}]}\n'
)
SHARED = (
    b'{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}\n'
    b'{"conversations": [{"from": "gpt", "value": ""}]}\n'
)


def _read_rows(path: Path) -> None:
    from tgsbench.workload import rows

    for row in rows.read_file(path):
        (row.instruction + row.output).encode()


@_reader(lambda: [ROWS, MESSAGES, SHARED, b'{"text": "a b"}\n{"text": "c"}\n'], mutate.json_lines)
def data_lines(folder: Path, data: bytes) -> None:
    _read_rows(_put(folder, "x.jsonl", data))


@_reader(
    lambda: [b"[" + lines.strip().replace(b"\n", b", ") + b"]" for lines in (ROWS, MESSAGES, SHARED)],
    mutate.json_document,
)
def data_array(folder: Path, data: bytes) -> None:
    _read_rows(_put(folder, "x.json", data))


@_reader(lambda: [b'instruction,input,output\nAdd,"1, 2",3\n"x\ny",,z\n', b"text\nabc\n"], mutate.text_lines)
def data_table(folder: Path, data: bytes) -> None:
    _read_rows(_put(folder, "x.csv", data))
    _read_rows(_put(folder, "x.txt", data))


@cache
def _parquets() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pa.table({"instruction": ["a", "b"], "output": ["c", "d"], "more": [1.5, None]})]
    tables += [pa.table({"messages": [[{"role": "assistant", "content": "x"}]]})]
    written = [io.BytesIO() for _ in tables]
    for table, out in zip(tables, written, strict=True):
        pq.write_table(table, out, compression="NONE")
    return [out.getvalue() for out in written]


@_reader(_parquets, mutate.bytes_of)
def data_parquet(folder: Path, data: bytes) -> None:
    _read_rows(_put(folder, "x.parquet", data))


@cache
def _arrow_stream() -> bytes:
    import pyarrow as pa

    table, out = pa.table({"text": ["a", "b"]}), io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as to:
        to.write_table(table)
    return out.getvalue()


STATE = b'{"_data_files": [{"filename": "data-0.arrow"}], "_split": null}'


@_reader(lambda: [STATE, b'{"splits": ["train", "test"]}'], mutate.json_document)
def data_folder(folder: Path, data: bytes) -> None:
    name = "dataset_dict.json" if b"splits" in data else "state.json"
    for other in ("dataset_dict.json", "state.json"):
        (folder / "d" / other).unlink(missing_ok=True)
    _put(folder, f"d/{name}", data)
    for at in ("d", "d/train"):
        _put(folder, f"{at}/data-0.arrow", _arrow_stream())
    _put(folder, "d/train/state.json", b'{"_data_files": [{"filename": "data-0.arrow"}]}')
    _read_rows(folder / "d")


TOKENIZER = {
    "version": "1.0",
    "added_tokens": [{"id": 3, "content": "<s>", "special": True}],
    "normalizer": None,
    "pre_tokenizer": {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    },
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
}
TOKENIZER_SETTINGS = {
    "bos_token": {"content": "<s>"},
    "eos_token": "</s>",
    "chat_template": "{{ messages[0].content }}",
}


@_reader(lambda: [mutate.dumped([TOKENIZER, TOKENIZER_SETTINGS])], mutate.json_document)
def tokenizer(folder: Path, data: bytes) -> None:
    from tgsbench.workload.tokenizer_files import find_tokenizer

    try:
        both = json.loads(data)
    except (ValueError, RecursionError):
        both = None
    parts = both if isinstance(both, list) and len(both) == 2 else [both, {}]
    _put(folder, "tokenizer.json", mutate.dumped(parts[0]))
    _put(folder, "tokenizer_config.json", mutate.dumped(parts[1]))
    assert find_tokenizer(str(folder)).vocab_size > 0


TEMPLATE = (
    b"{% for m in messages %}{% if m.role == 'assistant' %}>"
    b"{% generation %}{{ m.content }}{% endgeneration %}"
    b"{% else %}<{{ m['role'] }}>{{ m.content[:9] }}{% endif %}{{ eos_token }}{% endfor %}"
    b"{% if add_generation_prompt %}>{% endif %}{{ raise_exception('x') if messages | length > 9 }}"
)


@_reader(lambda: [TEMPLATE], mutate.bytes_of)
def chat_template(folder: Path, data: bytes) -> None:
    from tgsbench.workload.chat_template import ChatTemplate
    from tgsbench.workload.rows import Turn

    found = ChatTemplate(_text(data), {"eos_token": "</s>"}, "x")
    found.pieces([Turn("user", "Hi"), Turn("assistant", "Hello")])
