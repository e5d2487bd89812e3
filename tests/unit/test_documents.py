"""Run folders that other versions wrote: what does not fit counts as absent with a note, the rest is read."""

from __future__ import annotations

import json

import msgspec
import pytest
from click.testing import CliRunner

from tests.unit.stored import a_forecast, a_preset, a_result, store_run
from tgsbench.cli.main import cli
from tgsbench.errors import TgsError
from tgsbench.results import results
from tgsbench.schema.environment import Environment
from tgsbench.schema.forecast import TgsRange
from tgsbench.schema.run import Result
from tgsbench.store.run_dir import RunDir

WHOLE = a_forecast(tgs=TgsRange(estimate=2000.0, low=1800.0, high=2200.0), total_gib=50.3)


def change(run, name, **values) -> None:
    """Write other values into a document of a run, as another version may have."""
    path = run.path / name
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**document, **values}))


@pytest.fixture
def run(tmp_path) -> RunDir:
    stored = store_run(tmp_path, "mine", forecast=WHOLE)
    change(stored, "run.json", prediction=msgspec.to_builtins(WHOLE))
    return stored


def test_the_forecast_is_called_prediction_on_disk():
    document = json.loads(msgspec.json.encode(a_result(a_preset(), "x", forecast=WHOLE)))
    assert document["prediction"]["tgs"] == {"predicted": 2000.0, "low": 1800.0, "high": 2200.0}
    assert "forecast" not in document
    assert msgspec.convert(document, Result).forecast == WHOLE


def test_a_newer_forecast_with_more_fields_is_read(run):
    newer = msgspec.to_builtins(WHOLE) | {"confidence": [1, 2], "schema_version": 1}
    change(run, "result.json", prediction=newer, colour="red")
    result = results.load_result(run)
    assert (result.forecast, result.warnings) == (WHOLE, [])


@pytest.mark.parametrize("odd", [{}, {"tgs": 5}, "fast", [], {**msgspec.to_builtins(WHOLE), "memory": None}])
def test_a_forecast_that_does_not_decode_counts_as_absent_with_a_note(run, odd):
    change(run, "result.json", prediction=odd)
    result = results.load_result(run)
    assert (result.forecast, result.tgs.median) == (None, 2302.0)
    (warning,) = result.warnings
    assert warning.startswith("result.json: prediction counts as absent, for it cannot be read: ")
    shown = CliRunner().invoke(cli, ["show", "mine", "--output", str(run.path.parent)])
    assert "prediction counts as absent" in shown.output
    assert results.load_result(run).warnings == [warning], "reading twice does not note it twice"


def test_a_run_whose_manifest_holds_an_odd_forecast_is_derived_with_a_note(run):
    (run.path / "result.json").unlink()
    change(run, "run.json", prediction={"tgs": "fast"})
    change(run, "env.json", gpus=["A"], num_cores="many")
    result = results.load_result(run)
    assert result.forecast is None
    assert result.environment.gpus == ["A"]
    assert [text.partition(",")[0] for text in result.warnings] == [
        "run.json: prediction counts as absent", "env.json: num_cores counts as absent",
    ]  # fmt: skip


def test_odd_captures_and_claims_are_noted_and_environments_keep_what_fits(run):
    environment = {"cpu": "EPYC", "gpus": "two", "versions": {"torch": 2}, "colour": "red"}
    change(run, "result.json", profile={"traces": 3}, claimed=["much"], environment=environment)
    result = results.load_result(run)
    assert (result.profile, result.claimed) == (None, None)
    assert result.environment == Environment(cpu="EPYC")
    noted = [text.removeprefix("result.json: ").partition(" ")[0] for text in result.warnings]
    assert sorted(noted) == ["claimed", "environment.gpus", "environment.versions", "profile"]


def test_the_rest_of_a_result_is_not_dropped_for_a_figure_that_does_not_fit(run):
    change(run, "result.json", tgs="fast", prediction={})
    with pytest.raises(TgsError, match="cannot be read"):
        results.load_result(run)


@pytest.mark.parametrize("text", ["{}", '{"cpu": "x", "memory_gib": 15.6}', '{"python": "3.11"}'])
def test_an_older_environment_is_read_and_written_as_it_is(run, text):
    (run.path / "env.json").write_text(text)
    assert json.loads(msgspec.json.encode(run.environment())) == json.loads(text)
    assert run.notes("env.json") == []


def test_an_environment_says_that_there_are_no_gpus_but_not_what_is_unknown():
    assert json.loads(msgspec.json.encode(Environment(gpus=[]))) == {"gpus": []}


def test_a_tag_leaves_what_another_version_wrote_in_the_manifest(run):
    odd = {"prediction": {"tgs": "fast"}, "colour": "red"}
    change(run, "run.json", **odd)
    done = CliRunner().invoke(cli, ["runs", "tag", "mine", "good", "--output", str(run.path.parent)])
    assert done.exit_code == 0, done.output
    document = json.loads((run.path / "run.json").read_text())
    assert {**document, **odd, "tags": ["good"]} == document
    assert run.manifest().forecast is None
