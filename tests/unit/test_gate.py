"""The gate finds a loss as often as was asked, fails seldom without one, and says what it cannot say."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from functools import partial
from math import exp

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.stored import a_result
from tgsbench import presets
from tgsbench.cli.gate import gate as command
from tgsbench.errors import ExitCode, TgsError
from tgsbench.launch import gate as gating
from tgsbench.metrics.gate import Wish, decide, runs_needed
from tgsbench.report import gate as text
from tgsbench.results import baselines
from tgsbench.results.gated import Gated, exit_code
from tgsbench.results.repeats import row_of
from tgsbench.schema.run import Failure

PRESET = presets.resolve("llama2_7b_32k").preset
WISH = Wish(margin=0.05, power=0.9)
BEGAN = datetime(2026, 11, 29, 13, tzinfo=UTC)
FAILURE = Failure(kind="exception", reason="boom")


def runs(rng, ratio, spread, n):
    return [1000 * ratio * exp(rng.gauss(0, spread)) for _ in range(n)]


def gated_by(rng, ratio, spread, wish=WISH):
    """What the gate says of one machine, going on as long as it asks for runs."""
    baseline, new = runs(rng, 1, spread, 8), runs(rng, ratio, spread, 3)
    while (needed := runs_needed(baseline, new, wish)) and len(new) < min(needed, wish.most_runs):
        new += runs(rng, ratio, spread, 1)
    return decide(baseline, new, wish).finding


@pytest.mark.parametrize("spread", [0.005, 0.02])
def test_a_loss_of_the_margin_is_found_as_often_as_asked_and_no_loss_seldom_fails(spread):
    rng, num = random.Random(7), 600
    lost = [gated_by(rng, 1 - WISH.margin, spread) for _ in range(num)]
    same = [gated_by(rng, 1.0, spread) for _ in range(num)]
    assert lost.count("pass") / num < 1 - WISH.power and lost.count("slower") / num > WISH.power
    assert same.count("slower") / num < 0.035, "2.5 % are meant; 600 gates scatter by 0.6 %"


def test_a_machine_whose_runs_spread_wide_is_undecided_and_not_failed():
    rng = random.Random(3)
    found = [gated_by(rng, 1.0, 0.15) for _ in range(100)]
    assert found.count("undecided") > 60 and found.count("slower") < 6


@given(st.lists(st.floats(900, 1100), min_size=3, max_size=8), st.floats(0.01, 0.2), st.floats(0.5, 0.99))
def test_a_smaller_margin_and_more_power_never_need_fewer_runs(baseline, margin, power):
    wish = Wish(margin=margin, power=power)
    needed = runs_needed(baseline, [], wish)
    for harder in (Wish(margin=margin / 2, power=power), Wish(margin=margin, power=(1 + power) / 2)):
        more = runs_needed(baseline, [], harder)
        assert more is None or (needed is not None and more >= needed)


def a_run(tgs, **changes):
    samples = [tgs * f for f in (0.99, 1.0, 1.01, 1.0, 0.99, 1.01)]
    return a_result(PRESET, f"r{tgs}", samples=samples, **changes)


def baseline(tgs=(1000.0, 1004.0, 998.0, 1002.0, 996.0)):
    return row_of("base", [a_run(x) for x in tgs])


def gate_with(figures, base=None, wish=WISH, budget_s=1e9, **changes):
    left = iter(figures)
    each = Gated(preset=PRESET, baseline=base or baseline())
    gating.run_all([each], None, wish, budget_s, lambda _: None, run=lambda *_: a_run(next(left), **changes))
    return each


def test_three_runs_of_a_quiet_machine_decide():
    each = gate_with([1001.0, 999.0, 1003.0])
    assert (text.word(each), each.exit_code, len(each.results)) == ("PASS", ExitCode.OK, 3)
    slower = gate_with([901.0, 899.0, 903.0])
    assert (text.word(slower), slower.exit_code) == ("FAIL", ExitCode.WORSE)
    assert "0.901x" in text.line(slower, WISH) and "margin 5 %" in text.line(slower, WISH)


def test_disturbed_runs_are_made_again_and_then_nothing_is_said():
    each = gate_with([1000.0] * 9, disturbances=["ffmpeg (pid 7) 1.9"])
    assert each.exit_code == ExitCode.DISTURBED and len(each.results) == 4
    assert text.word(each) == "UNDECIDED" and "ffmpeg" in text.line(each, WISH)


def test_a_machine_that_gets_slower_run_by_run_decides_nothing():
    wide = baseline((1000.0, 1025.0, 976.0, 1020.0, 980.0, 1010.0, 990.0, 1015.0, 985.0, 1000.0))
    each = gate_with([1020.0 - 5 * i for i in range(20)], base=wide, wish=Wish(margin=0.02))
    assert each.exit_code == ExitCode.DISTURBED and "first to last" in each.why


def test_a_failed_run_and_other_work_are_no_regression():
    failed = gate_with([1000.0], status="oom", failure=Failure(kind="oom", reason="out of memory"))
    assert failed.exit_code == ExitCode.OOM and text.word(failed) == "ERROR"
    other = gate_with([1000.0], device="NVIDIA H100 80GB HBM3")
    assert other.exit_code == ExitCode.NOT_COMPARABLE and "GPU" in other.why
    assert exit_code([other, gate_with([900.0] * 3), failed]) == ExitCode.OOM
    assert exit_code([other, gate_with([900.0, 901.0, 899.0])]) == ExitCode.WORSE


def test_the_budget_is_kept_and_what_was_measured_counts():
    each = gate_with([1001.0] * 3, budget_s=0.0)
    assert len(each.results) <= 1 and each.exit_code == ExitCode.DISTURBED and "budget" in each.why


def test_junit_and_summary_say_the_same():
    found = [gate_with([1001.0, 999.0, 1003.0]), gate_with([901.0, 899.0, 903.0])]
    suite = ET.fromstring(text.junit(found, WISH, BEGAN, "ci-7"))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("2", "1", "0")
    assert "0.901x" in suite.find(".//failure").get("message")
    table = text.markdown(found, WISH)
    assert table.count("PASS") == 1 and table.count("FAIL") == 1 and "0.901x" in table


def test_a_junit_file_has_what_the_schemas_of_ant_and_of_jenkins_ask_for():
    """Ant's wants a time, a host, properties and both streams, the streams of the suite alone and last."""
    lost, failed = gate_with([901.0, 899.0, 903.0]), gate_with([1.0], status="crashed", failure=FAILURE)
    suite = ET.fromstring(text.junit([lost, failed], WISH, BEGAN, "ci-7"))
    assert [child.tag for child in suite] == ["properties", *["testcase"] * 2, "system-out", "system-err"]
    assert (suite.get("timestamp"), suite.get("hostname")) == ("2026-11-29T13:00:00", "ci-7")
    assert all(float(each.get("time")) >= 0 for each in (suite, *suite.iter("testcase")))
    ends = [next(iter(case)) for case in suite.iter("testcase")]
    assert [(end.tag, end.get("type")) for end in ends] == [
        ("failure", "exit code 15"),
        ("error", "exit code 8"),
    ]
    assert suite.find("system-out").text.splitlines()[0].startswith("FAIL llama2_7b_32k: 0.901x")


def interval_of(low, high):
    return msgspec.structs.replace(baseline(), ci95=(low, high))


def test_baselines_are_kept_whole_and_refused_when_they_cannot_be_used(tmp_path):
    path = tmp_path / "deep" / "base.json"
    known = baselines.Baselines(rows={PRESET.name: baselines.as_baseline(baseline())})
    baselines.store(known, path)
    again = baselines.load(path)
    assert baselines.baseline_of(again, PRESET.name, path).samples == baseline().samples
    few = msgspec.structs.replace(baseline(), samples=[1.0])
    for found, words in (
        (baselines.Baselines(rows={"llama2_7b_8k": baseline()}), "nearest"),
        (baselines.Baselines(rows={PRESET.name: few}), "1 usable runs"),
        (baselines.Baselines(rows={PRESET.name: interval_of(-1.0, 2e6)}), "outside its own interval"),
        (baselines.Baselines(rows={PRESET.name: interval_of(1e-300, 1e300)}), "outside its own interval"),
    ):
        with pytest.raises(TgsError, match="baseline") as refused:
            baselines.baseline_of(found, PRESET.name, path)
        assert words in refused.value.msg or words == "nearest"
        assert refused.value.exit_code == ExitCode.BAD_INPUT
    nested = b'{"rows": {"x": {"note": ' + b"[" * 100_000
    for damage in (b"{", b"[]", b'{"schema": 99, "rows": {}}', b"\xff", nested):
        path.write_bytes(damage)
        with pytest.raises(TgsError):
            baselines.load(path)
    with pytest.raises(TgsError, match="no baselines"):
        baselines.load(tmp_path / "none.json")


class Machine:
    """Runs of a machine that is this fast now; nothing is started."""

    def __init__(self):
        self.tgs, self.noise, self.disturbances, self._rng = 1000.0, 0.004, [], random.Random(5)

    def __call__(self, preset, root, tag, say):
        tgs = self.tgs * exp(self._rng.gauss(0, self.noise))
        samples = [tgs * f for f in (0.99, 1.0, 1.01, 1.0, 0.99, 1.01)]
        told = {"samples": samples, "disturbances": list(self.disturbances)}
        return a_result(preset, f"r{tgs}", device="cpu", **told)


def test_a_walk_through_the_command(tmp_path, monkeypatch):
    """A baseline, the same build, a slowed one, a busy machine, another machine: each ends in its own way."""
    machine = Machine()
    monkeypatch.setattr(gating, "run_all", partial(gating.run_all, run=machine))
    monkeypatch.chdir(tmp_path)

    def gate(*words):
        return CliRunner().invoke(command, ["base.json", "tiny_cpu", "--output", "runs", *words])

    done = gate()
    assert isinstance(done.exception, TgsError) and "no baselines" in done.exception.msg + done.exception.hint
    done = gate("--update")
    assert (done.exit_code, (tmp_path / "base.json").exists()) == (0, True), done.output
    assert done.stdout.startswith("tiny_cpu: TGS ") and "n = 5" in done.stdout
    told = ("--junit", "ci/gate.xml", "--summary", "ci/summary.md")
    same = gate(*told)
    assert (same.exit_code, same.stdout.split()[0]) == (0, "PASS"), same.output
    machine.tgs *= 0.9
    slowed = gate(*told)
    assert (slowed.exit_code, slowed.stdout.split()[0]) == (ExitCode.WORSE, "FAIL")
    assert "0.9" in slowed.stdout and len(slowed.stdout.splitlines()) == 1
    suite = ET.parse(tmp_path / "ci" / "gate.xml").getroot()
    assert (suite.get("failures"), suite.find(".//testcase").get("name")) == ("1", "tiny_cpu")
    summary = (tmp_path / "ci" / "summary.md").read_text()
    assert summary.count("### tgsbench gate") == 2 and "| PASS |" in summary and "| FAIL |" in summary
    assert gate("--margin", "30").exit_code == 0, "a loss of less than half of the margin"
    before = (tmp_path / "base.json").read_bytes()
    machine.disturbances = ["ffmpeg (pid 7) used 1.9 cores"]
    busy = gate(*told)
    assert (busy.exit_code, busy.stdout.split()[0]) == (ExitCode.DISTURBED, "UNDECIDED")
    assert "ffmpeg" in busy.stdout
    assert ET.parse(tmp_path / "ci" / "gate.xml").getroot().get("skipped") == "1"
    spoiled = gate("--update")
    assert spoiled.exit_code == ExitCode.DISTURBED and "the file keeps what it had" in spoiled.output
    assert (tmp_path / "base.json").read_bytes() == before
