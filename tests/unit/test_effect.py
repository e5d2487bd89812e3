"""What would do nothing is refused: values of a preset, options of a command."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.unit.stored import a_preset, store_run
from tgsbench import presets
from tgsbench.cli.main import cli
from tgsbench.errors import ExitCode, TgsError
from tgsbench.presets.resolve import check
from tgsbench.systems import support


@pytest.mark.parametrize(
    ("sets", "remedy"),
    [
        (["workload.file=x.json"], "workload.corpus=file"),
        (["workload.map_batch_size=4"], "workload.packing=xtuner_stock"),
        (["workload.map_num_proc=4"], "workload.packing=xtuner_stock"),
        (["engine.loss_chunk_tokens=64", "engine.liger=true"], "engine.liger=false"),
        (["engine.loss_chunk_tokens=64", "engine.name=llamafactory"], "tgsbench's own ranks"),
    ],
)
def test_a_value_that_has_no_effect_is_refused_with_what_gives_it_one(sets, remedy):
    with pytest.raises(TgsError, match="has no effect here") as raised:
        presets.resolve("tiny_cpu", sets)
    assert remedy in raised.value.msg
    assert sets[0].partition("=")[0] in raised.value.msg
    assert raised.value.exit_code == ExitCode.BAD_PRESET


@pytest.mark.parametrize(
    "sets",
    [
        ["workload.file=x.json", "workload.corpus=file"],
        ["workload.map_batch_size=4", "workload.packing=xtuner_stock"],
        ["workload.map_batch_size=1000"],
        ["engine.loss_chunk_tokens=64"],
    ],
)
def test_a_value_that_has_one_is_taken(sets):
    presets.resolve("tiny_cpu", sets)


def test_a_file_may_lose_its_purpose_to_an_override_or_to_a_preset_that_extends_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "presets").mkdir()
    mine, child = tmp_path / "presets" / "mine.toml", tmp_path / "presets" / "child.toml"
    mine.write_text('extends = "tiny_cpu"\n[workload]\ncorpus = "file"\nfile = "x.json"\n')
    child.write_text('extends = "mine"\n[workload]\ncorpus = "pydoc"\n')
    assert presets.resolve(mine, ["workload.corpus=pydoc"]).preset.workload.file == "x.json"
    assert check(mine) == check(child) == []
    child.write_text('extends = "tiny_cpu"\n[workload]\nfile = "x.json"\n')
    (problem,) = check(child)
    assert "workload.file has no effect here" in problem and str(child) in problem


def test_a_stored_run_is_read_whatever_idles_in_its_preset(tmp_path):
    preset = a_preset("tiny_cpu", "workload.corpus=file", "workload.file=x.json")
    text = presets.to_toml(preset).replace('corpus = "file"', 'corpus = "pydoc"')
    run = store_run(tmp_path, "old", preset)
    (run.path / "preset.toml").write_text(text)
    assert run.preset().workload.file == "x.json"


@pytest.mark.parametrize("engine", ["llamafactory", "xtuner"])
def test_a_kernel_that_another_system_does_not_take_is_refused(engine):
    sets = ["parallel.sp=1", "training.compute_dtype=float32", "training.checkpointing=full"]
    preset = a_preset("tiny_cpu", *sets, f"engine.name={engine}", "engine.kernel=flash3")
    assert any("kernel" in gap.what for gap in support.gaps(preset))


@pytest.mark.parametrize(
    "words",
    [
        "compare a b --within 5",
        "compare a b --budget 5",
        "compare a b --repeats 5",
        "compare a b --set x=1",
        "compare a b --rehearse",
        "compare tiny_cpu --engines a,b --within 5 --repeats 5",
        "run --preset tiny_cpu --headless --ascii",
        "run --preset tiny_cpu --headless --rendezvous a:1",
        "run --preset tiny_cpu --headless --node-rank 0",
        "run --preset tiny_cpu --headless --node-rank 1",
        "run --preset tiny_cpu --emulate-rank --profile hotspots",
        "plan --preset tiny_cpu --top 3",
        "plan --preset tiny_cpu --search --max-seq-len",
        "plan --preset tiny_cpu --search --chrome x.json",
        "plan --preset tiny_cpu --search --system xtuner",
        "plan --preset tiny_cpu --scale 1,2 --num-gpus 4",
        "plan --preset tiny_cpu --output x",
        "sweep SPEC --limit 4k",
        "report --published --title x",
        "report --csv --json latest",
        "tui --port 5000",
        "profile latest --perfetto x.json --json",
        "runs --status crashed prune --keep 0",
        "runs --tag x archive f.tar.gz",
        "presets --json show tiny_cpu",
        "engines --json setup xtuner",
        "export latest --all --format jsonl --to x",
        "slurm --preset tiny_cpu --detach",
        "slurm --follow 1 --cancel 1",
        "slurm --preset tiny_cpu --follow 1",
    ],
)
def test_an_option_that_would_be_passed_over_is_refused(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SPEC").write_text('preset = "tiny_cpu"\n')
    done = CliRunner().invoke(cli, words.split())
    assert isinstance(done.exception, TgsError), done.output
    assert done.exception.exit_code == ExitCode.USAGE
    assert "--" in done.exception.msg
    assert "is for" in done.exception.msg or "no effect" in done.exception.msg
    assert [path.name for path in tmp_path.iterdir()] == ["SPEC"], "nothing was started or written"
