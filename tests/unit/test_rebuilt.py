"""Results rebuilt from event files that were copied, cut off, doubled or edited: nothing goes unseen."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.test_results import events
from tgsbench import api, presets
from tgsbench.report.columns import _run
from tgsbench.report.summary import summary_lines
from tgsbench.results.results import doubt_by_profile, load_result, store_result
from tgsbench.results.rows import from_result
from tgsbench.schema.events import Hello, Step
from tgsbench.schema.hotspots import HotOp, Profile
from tgsbench.schema.run import Manifest, Outcome
from tgsbench.store import run_dir
from tgsbench.traces import run_profile
from tgsbench.traces.findings import findings

EIGHT = presets.resolve("tiny_cpu", ["measure.steps=8"]).preset


@pytest.fixture
def run(tmp_path):
    made = run_dir.create(tmp_path, EIGHT, "copied")
    made.write(
        "run.json",
        Manifest(
            run_id="copied", preset="tiny_cpu", engine="fsdp2", created_unix=1, world_size=2, device="cpu"
        ),
    )
    made.write("outcome.json", Outcome())
    return made


def write(run, change=lambda event: [event], damage=lambda lines: lines):
    """The clean run's events as their ranks write them; `change` makes several or none of one."""
    for rank in (0, 1):
        kept = [new for old in events() if old.rank == rank for new in change(old)]
        for seq, event in enumerate(kept):
            event.seq = seq
            if isinstance(event, Hello) and not event.preset_digest:
                event.preset_digest = run.preset_digest()
        lines = damage([msgspec.json.encode(event) for event in kept])
        (run.events_dir / f"rank{rank:05d}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def named(result):
    assert (result.status == "invalid") == bool(result.integrity.problems)
    return {problem.split(":")[0] for problem in result.integrity.problems}


def test_a_whole_copy_is_ok_and_unmarked(run):
    write(run)
    found = load_result(run)
    assert (found.status, found.integrity.files_ok, found.integrity.damaged) == ("ok", True, "")
    assert found.tgs.n == 8


def test_steps_that_stand_twice_count_once_and_mark_the_figure(run):
    write(run, lambda e: [e, msgspec.structs.replace(e)] if isinstance(e, Step) else [e])
    found = load_result(run)
    assert (found.status, found.tgs.n) == ("ok", 8)
    assert found.integrity.damaged == "passed over in the event files: 18 reports of a step that had one"
    assert any(found.integrity.damaged in line for line in summary_lines(found))
    assert _run(from_result(found)) == "copied (damaged event files)"


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (lambda e: [] if isinstance(e, Step) and e.step > 1 else [e], "steps", "1 of the 8 measured steps"),
        (
            lambda e: [msgspec.structs.replace(e, labels=0)] if isinstance(e, Step) else [e],
            "loss",
            "no label was trained in 9 steps",
        ),
        (
            lambda e: [msgspec.structs.replace(e, device=f"GPU {e.rank}")] if isinstance(e, Hello) else [e],
            "ranks",
            "2 kinds of device: GPU 0, GPU 1",
        ),
        (
            lambda e: [msgspec.structs.replace(e, world=4)] if isinstance(e, Hello) else [e],
            "ranks",
            "4 where run.json says 2",
        ),
        (
            lambda e: (
                [msgspec.structs.replace(e, preset_digest="of another")] if isinstance(e, Hello) else [e]
            ),
            "preset",
            "is not the one that the ranks read",
        ),
        (
            lambda e: [msgspec.structs.replace(e, step_s=e.step_s / 2)] if isinstance(e, Step) else [e],
            "clock",
            "rank 0 tells of",
        ),
        (
            lambda e: (
                [
                    msgspec.structs.replace(
                        e, tokens=1024 + (100 if e.step == 3 else -100 if e.step == 4 else 0)
                    )
                ]
                if isinstance(e, Step)
                else [e]
            ),
            "tokens",
            "(2 steps, the first is step 3)",
        ),
    ],
    ids=[
        "steps missing",
        "no labels",
        "two devices",
        "world",
        "preset",
        "half the time",
        "tokens that cancel",
    ],
)
def test_what_is_missing_or_disagrees_is_named_and_makes_the_run_invalid(run, change, name, words):
    write(run, change)
    found = load_result(run)
    assert name in named(found)
    assert words in "; ".join(found.integrity.problems)


def test_a_loss_that_is_no_number_is_missed_as_a_step(run):
    write(run, damage=lambda lines: [line.replace(b'"loss_sum":700.0', b'"loss_sum":NaN') for line in lines])
    found = load_result(run)
    assert "steps" in named(found)
    assert "8 lines of no known kind, damaged or doubled" in found.integrity.damaged


@pytest.mark.parametrize(
    "damage",
    [lambda lines: lines[1:], lambda lines: lines[:2] + lines[3:]],
    ids=["no first line", "no third line"],
)
def test_files_that_lack_lines_are_named_beside_the_figure(run, damage):
    write(run, damage=damage)
    found = load_result(run)
    assert "lines are missing, or cut off, in rank00000.jsonl, rank00001.jsonl" in found.integrity.damaged
    assert found.integrity.damaged in found.warnings


@pytest.mark.parametrize("end", [b'{"type":"heartb', b"\0" * (1 << 20)], ids=["half a line", "no bytes"])
def test_an_end_that_is_no_line_is_told(run, end):
    write(run)
    with (run.events_dir / "rank00001.jsonl").open("ab") as file:
        if end.strip(b"\0"):
            file.write(end)
        else:
            file.truncate(file.tell() + len(end))  # a hole: nothing is written
    assert "in rank00001.jsonl" in load_result(run).integrity.damaged


def test_versions_that_differ_between_ranks_are_a_warning(run):
    def change(event):
        return (
            [msgspec.structs.replace(event, versions={"torch": f"2.{event.rank}"})]
            if isinstance(event, Hello)
            else [event]
        )

    write(run, change)
    found = load_result(run)
    assert found.status == "ok"
    assert "rank 1 ran torch 2.1, others 2.0" in found.warnings


def test_a_stored_result_is_held_against_its_event_files(run, tmp_path):
    write(run, lambda e: [msgspec.structs.replace(e, host="h0")] if isinstance(e, Hello) else [e])
    stored = store_result(run)
    assert api.load_run("copied", root=tmp_path).warnings == []
    stored.tgs.median *= 2
    run.write("result.json", stored)
    (warning,) = api.load_run("copied", root=tmp_path).warnings
    assert warning == "result.json says TGS 4015.69, the event files 2007.84"
    for path in run.events_dir.iterdir():
        path.unlink()
    assert api.load_run("copied", root=tmp_path).warnings == []


def test_a_kernel_above_its_peak_makes_the_run_invalid_stored_or_rebuilt(run):
    write(run)
    store_result(run)
    fast = HotOp(name="gemm", kind="gemm", tflops=900.0, peak_tflops=312.0, share=0.3)
    profile = Profile(source="copied", top=[fast], step_ms=1.0)
    profile.findings = findings(profile)
    (run.path / "profile").mkdir()
    doubt_by_profile(run, Profile(source="copied"))
    assert load_result(run).status == "ok"
    run_profile._store(run, profile)
    run_profile._store(run, profile)
    problems = ["rate: gemm: 900.0 TFLOPs, more than the 312 that the hardware can do"]
    assert (load_result(run).status, load_result(run).integrity.problems) == ("invalid", problems)
    (run.path / "result.json").unlink()
    assert (load_result(run).status, load_result(run).integrity.problems) == ("invalid", problems)
