"""`tgsbench compare` as a command: exit codes for CI, the base, what is forced."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tests.unit.stored import FAST, a_preset, store_run
from tgsbench.cli.compare import compare
from tgsbench.errors import ExitCode, TgsError

SLOW = [x * 0.9 for x in FAST]
SLIGHTLY = [x * 0.97 for x in FAST]


@pytest.fixture
def root(tmp_path):
    store_run(tmp_path, "fast")
    store_run(tmp_path, "slow", samples=SLOW)
    store_run(tmp_path, "slightly", samples=SLIGHTLY)
    store_run(tmp_path, "other", a_preset("llama2_7b_8k"))
    return tmp_path


def ask(root, *words):
    done = CliRunner().invoke(compare, [*words, "--output", str(root)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_a_regression_fails_and_a_smaller_one_does_not(root):
    assert ask(root, "slow", "--baseline", "fast", "--fail-on", "worse:5%").exit_code == ExitCode.WORSE
    assert ask(root, "slightly", "--baseline", "fast", "--fail-on", "worse:5%").exit_code == 0
    assert ask(root, "slightly", "--baseline", "fast", "--fail-on", "worse").exit_code == ExitCode.WORSE
    assert ask(root, "fast", "--baseline", "slow", "--fail-on", "worse:5%").exit_code == 0


def test_the_first_word_is_the_base_without_baseline(root):
    found = json.loads(ask(root, "fast", "slow", "--json").stdout)
    assert found["comparisons"][0]["verdict"] == "worse"
    assert found["comparisons"][0]["ratio"]["value"] == pytest.approx(0.9)
    assert found["comparisons"][0]["ratio"]["p_value"] < 0.05


def test_rows_that_are_not_comparable_have_no_ratio_unless_forced(root):
    refused = ask(root, "fast", "other")
    assert refused.exit_code == ExitCode.NOT_COMPARABLE
    assert "sequence length: 8k | 32k" in refused.stdout
    assert "x (95" not in refused.stdout
    forced = ask(root, "fast", "other", "--force")
    assert forced.exit_code == 0
    assert "FORCED" in forced.stdout and "not comparable" in forced.stdout


def test_what_differs_is_listed_before_the_ratio(root):
    lines = ask(root, "fast", "slow").stdout.splitlines()
    differs = next(i for i, line in enumerate(lines) if "nothing known differs" in line)
    assert differs < next(i for i, line in enumerate(lines) if "worse:" in line)


@pytest.mark.parametrize("words", ["fast slow --fail-on bad", "fast", "fast slow --set a=1"])
def test_wrong_words_are_refused(root, words):
    with pytest.raises(TgsError):
        ask(root, *words.split())


def test_engines_need_a_preset_two_engines_and_known_names(root):
    for words in ("--engines a,b", "tiny_cpu --engines fsdp2", "tiny_cpu --engines fsdp2,fsdp"):
        with pytest.raises(TgsError):
            ask(root, *words.split())


def test_engines_that_cannot_run_are_told_before_anything_starts(root):
    with pytest.raises(TgsError, match="fewer than two") as raised:
        ask(root, "tiny_cpu", "--engines", "fsdp2,llamafactory")
    assert raised.value.exit_code == ExitCode.UNSUPPORTED
    assert len(list(root.glob("*tiny_cpu*"))) == 0


def test_a_row_without_a_tgs_shows_no_status_in_its_place(root):
    (line,) = [
        x
        for x in ask(root, "predicted:tiny_cpu", "fast", "--force").stdout.splitlines()
        if x.startswith("predicted:")
    ]
    assert "planner" in line and "  ok " not in line and "  - " in line
