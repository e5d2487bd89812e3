"""`tgsbench convention` and `import` as commands: the answer, and what is refused."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tgsbench.cli.convention import convention
from tgsbench.cli.import_ import import_
from tgsbench.errors import ExitCode, TgsError

SHAPE = ("--model", "llama2_7b", "--seq-len", "8k")


def ask(command, *words):
    done = CliRunner().invoke(command, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def test_a_published_figure_names_its_convention():
    assert ask(convention, *SHAPE, "--tgs", "3028.3", "--tflops", "185.3").splitlines()[0] == "xtuner"


@pytest.mark.parametrize(
    "figures",
    [("nan", "--tflops", "185"), ("3028", "--tflops", "inf"), ("0", "--tflops", "1"), ("3028",)],
)
def test_figures_that_are_none_are_refused(figures):
    with pytest.raises(TgsError, match="above 0 and finite"):
        ask(convention, *SHAPE, "--tgs", *figures)


def test_a_log_that_is_not_there_is_the_first_thing_said(tmp_path):
    with pytest.raises(TgsError, match="No such file") as error:
        ask(import_, str(tmp_path / "gone.csv"))
    assert error.value.exit_code == ExitCode.BAD_INPUT
