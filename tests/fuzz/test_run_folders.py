"""Event files and run folders that strangers wrote: every reader tells or refuses, none falls over."""

from __future__ import annotations

import json
import os
import resource

import msgspec
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.hostile import bounded, broken, documents, dumped, mutated
from tgsbench import presets
from tgsbench.errors import TgsError
from tgsbench.events.logs import LogTail
from tgsbench.events.replay import Replay
from tgsbench.events.tail import FileTail, RunTail
from tgsbench.live.fold import LiveRun
from tgsbench.live.follow import FollowFeed, poll
from tgsbench.live.stragglers import suspects
from tgsbench.metrics.observe import fold_events
from tgsbench.report.summary import summary_lines
from tgsbench.results import results
from tgsbench.schema import events as ev
from tgsbench.schema.run import LauncherReport, Manifest, Outcome, RankExit, Result
from tgsbench.store.run_dir import RunDir, list_runs

PRESET = presets.resolve("tiny_cpu").preset
SAMPLES = [
    msgspec.to_builtins(event)
    for event in (
        ev.Hello(world=2, host="a", device="cpu", pid=1, unix_t=1.0),
        ev.Phase(phase="measure", note="x"),
        ev.Step(step=3, tokens=512, labels=500, step_s=0.5, loss_sum=3.0, mem_peak=1),
        ev.Gpu(util=1, throttled="x"),
        ev.Heartbeat(step=1),
        ev.Trace(path="profile/x.json.gz", steps=[1]),
        ev.Warn(code="c", msg="m"),
        ev.Error(kind="oom", msg="m", bytes_requested=3),
        ev.Bye(status="ok"),
    )
]
lines = st.sampled_from(SAMPLES).flatmap(mutated).map(dumped)
any_lines = st.one_of(lines, lines, documents.map(dumped), st.binary(max_size=60))
event_files = broken(st.lists(any_lines, max_size=20).map(b"\n".join))

WHOLE_PRESET = presets.to_toml(PRESET).encode()
MANIFEST = msgspec.to_builtins(
    Manifest(run_id="r", preset="tiny_cpu", engine="fsdp2", created_unix=1.0, world_size=2, device="cpu")
)
RESULT = msgspec.to_builtins(
    Result(
        run_id="r", status="ok", preset="tiny_cpu", engine="fsdp2", device="cpu", world_size=2, dp=1, sp=2,
        seq_len=1024, document_mask=False, attention="native/sdpa", checkpointing="full", corpus="pydoc",
    )
)  # fmt: skip
OUTCOME = msgspec.to_builtins(Outcome(reason="x", oom_kills=1))
LAUNCHER = msgspec.to_builtins(LauncherReport(exits=[RankExit(rank=1, exit_code=-9, signal="SIGKILL")]))


def document(template: dict) -> st.SearchStrategy[bytes | None]:
    """A JSON file of this kind, damaged or not, or no file."""
    whole, odd = st.just(dumped(template)), mutated(template).map(dumped)
    return st.one_of(whole, odd, odd, st.none(), broken(odd), documents.map(dumped))


@bounded
@given(event_files)
def test_an_event_file_is_read_to_its_end_whatever_is_in_it(tmp_path, data):
    path = tmp_path / "rank00000.jsonl"
    path.write_bytes(data)
    tail = FileTail(path)
    try:
        events = [event for piece in tail.read_to_end() for event in piece]
    except TgsError as error:
        assert "upgrade" in error.hint
        return
    assert len(events) + tail.skipped <= data.count(b"\n") + 1
    observed = fold_events(events, 2)
    assert all(total.num_ranks <= 2 for total in observed.steps.values())
    live = LiveRun(2)
    live.add_events(events, 1.0)


@bounded
@given(st.lists(event_files, min_size=1, max_size=3))
def test_many_event_files_are_merged_and_replayed_whatever_is_in_them(tmp_path, files):
    for old in tmp_path.iterdir():
        old.unlink()
    for rank, data in enumerate(files):
        (tmp_path / f"rank{rank:05d}.jsonl").write_bytes(data)
    try:
        live, feed = LiveRun(len(files)), FollowFeed(tmp_path)
        for _ in range(3):
            poll(feed, live, now_s=1.0)
        suspects(live, 100.0, heartbeat_s=2.0)
        replay = Replay(tmp_path)
        replay.advance_to(1e12)
    except TgsError as error:
        assert error.msg


@bounded
@given(
    run=document(MANIFEST),
    result=document(RESULT),
    outcome=document(OUTCOME),
    launcher=document(LAUNCHER),
    environment=document({"packages": {"torch": "2"}}),
    preset=st.one_of(*[st.just(WHOLE_PRESET)] * 4, st.none(), broken(st.just(WHOLE_PRESET))),
    events=st.lists(event_files, max_size=2),
    stacks=st.binary(max_size=200),
)
def test_a_run_folder_is_listed_and_shown_or_called_damaged(
    tmp_path, run, result, outcome, launcher, environment, preset, events, stacks
):
    folder = tmp_path / "run"
    for sub in ("events", "log", "stacks"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    files = {
        "run.json": run, "result.json": result, "outcome.json": outcome, "outcome1.json": outcome,
        "launcher.json": launcher, "env.json": environment, "preset.toml": preset,
        "stacks/rank00000.txt": stacks,
        "log/rank00000.log": stacks, **{f"events/rank0000{i}.jsonl": None for i in range(2)},
        **{f"events/rank0000{i}.jsonl": data for i, data in enumerate(events)},
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).unlink(missing_ok=True)
        if data is not None:
            (folder / name).write_bytes(data)
    for found in list_runs(tmp_path):
        item = results.load_or_describe(found)
        if isinstance(item, Result):
            assert summary_lines(item)
    LogTail(folder / "log" / "rank00000.log").poll()
    for command in (["runs"], ["runs", "--json"], ["show", str(folder)], ["show", str(folder), "--json"]):
        _command_line(tmp_path, command)


odd_events = st.lists(
    st.tuples(
        st.integers(-2, 3), st.integers(0, 4), st.sampled_from(SAMPLES).flatmap(lambda s: mutated(s, 1))
    ),
    max_size=25,
)


@bounded
@given(
    manifest=mutated(MANIFEST, 2), told=odd_events, outcome=mutated(OUTCOME, 1), launcher=mutated(LAUNCHER, 1)
)
def test_a_result_is_derived_from_events_that_make_no_sense_or_refused(
    tmp_path, manifest, told, outcome, launcher
):
    folder = tmp_path / "run"
    for sub in ("events", "log"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for old in (folder / "events").iterdir():
        old.unlink()
    files: dict[str, list[bytes]] = {}
    for rank, seq, event in told:
        name = f"rank{rank:05d}.jsonl" if rank >= 0 else f"node{-1 - rank:05d}.jsonl"
        numbered = {**event, "rank": rank, "seq": len(files.get(name, [])) if seq else 0}
        files.setdefault(name, []).append(dumped(numbered))
    for name, data in files.items():
        (folder / "events" / name).write_bytes(b"\n".join(data) + b"\n")
    (folder / "run.json").write_bytes(dumped(manifest))
    (folder / "outcome.json").write_bytes(dumped(outcome))
    (folder / "launcher.json").write_bytes(dumped(launcher))
    (folder / "preset.toml").write_bytes(WHOLE_PRESET)
    item = results.load_or_describe(RunDir(folder))
    if isinstance(item, Result):
        assert summary_lines(item)
        assert msgspec.json.decode(msgspec.json.encode(item), type=Result).status == item.status
    for command in (["runs"], ["show", str(folder)]):
        _command_line(tmp_path, command)


def _command_line(root, args: list[str]) -> None:
    """Run a command in this process: it ends well or with a TgsError, and escapes nothing to the terminal."""
    from tgsbench.cli.main import cli

    done = CliRunner().invoke(cli, [*args, "--output", str(root)], standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, TgsError):
        raise done.exception
    assert "\x1b[2J" not in done.output


def _folder(tmp_path):
    folder = tmp_path / "runs" / "r"
    (folder / "events").mkdir(parents=True)
    (folder / "log").mkdir()
    return folder


def test_links_fifos_and_devices_in_a_run_folder_neither_leave_it_nor_block(tmp_path):
    folder = _folder(tmp_path)
    secret = tmp_path / "secret.json"
    secret.write_bytes(dumped(MANIFEST | {"preset": "SECRET"}))
    (folder / "run.json").symlink_to(secret)
    (folder / "preset.toml").symlink_to("/dev/zero")
    os.mkfifo(folder / "result.json")
    os.mkfifo(folder / "log" / "rank00000.log")
    (folder / "log" / "rank00001.log").symlink_to("/etc/passwd")
    (folder / "stacks").symlink_to("/etc")
    (found,) = list_runs(tmp_path / "runs")
    item = results.load_or_describe(found)
    assert not isinstance(item, Result)
    assert found.stack_texts() == {}
    assert found.collected() == []
    for rank in (0, 1):
        log = LogTail(folder / "log" / f"rank0000{rank}.log")
        assert log.poll() == 0
        assert log.lines == []


def test_nothing_in_a_run_folder_is_executed(tmp_path):
    folder = _folder(tmp_path)
    evil = tmp_path / "evil"
    command = f"#!/bin/sh\ntouch {evil}\n"
    for name in ("command.sh", "preset.toml", "conftest.py", "sitecustomize.py", "stacks.pickle"):
        (folder / name).write_text(
            command if name.endswith(".sh") else f"__import__('os').system('touch {evil}')"
        )
        (folder / name).chmod(0o755)
    manifest = MANIFEST | {"argv": ["/bin/sh", "-c", f"touch {evil}"], "run_id": f"$(touch {evil})"}
    (folder / "run.json").write_bytes(dumped(manifest))
    trace = ev.Trace(path="../../../evil", rank=0, seq=0)
    (folder / "events" / "rank00000.jsonl").write_bytes(msgspec.json.encode(trace) + b"\n")
    for command in (["runs"], ["show", str(folder)]):
        _command_line(tmp_path / "runs", command)
    assert not evil.exists()


def test_a_huge_file_is_read_in_pieces_or_refused(tmp_path):
    folder = _folder(tmp_path)
    with (folder / "run.json").open("wb") as file:
        file.truncate(1 << 33)
    with (folder / "events" / "rank00000.jsonl").open("wb") as file:
        file.truncate(200 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not isinstance(results.load_or_describe(RunDir(folder)), Result)
    assert list(RunTail(folder / "events").read_all()) == []
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 200


def test_ranks_beyond_the_world_count_nothing(tmp_path):
    folder = _folder(tmp_path)
    (folder / "run.json").write_bytes(dumped(MANIFEST))
    (folder / "preset.toml").write_text(presets.to_toml(PRESET))
    for rank in (0, 1, 7, 999_999):
        step = ev.Step(step=0, tokens=1024, step_s=1.0, rank=rank, phase="measure")
        (folder / "events" / f"rank{rank:05d}.jsonl").write_bytes(msgspec.json.encode(step) + b"\n")
    result = results.load_result(RunDir(folder))
    assert result.tgs.median == 1024.0
    assert json.loads(msgspec.json.encode(result))
