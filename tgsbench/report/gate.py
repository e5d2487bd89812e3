"""What a gate found: one line a preset, a JUnit file, a summary for a pull request."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import datetime

from tgsbench import units
from tgsbench.errors import ExitCode
from tgsbench.metrics.gate import Wish, spread
from tgsbench.report.plain import markdown_row
from tgsbench.results.gated import Gated
from tgsbench.safe_files import printable

_WORDS = {"pass": "PASS", "slower": "FAIL", "undecided": "UNDECIDED"}


def word(each: Gated) -> str:
    """PASS, FAIL or UNDECIDED; ERROR for a run that failed or measures something else."""
    if each.decision is not None:
        return _WORDS[each.decision.finding]
    return "UNDECIDED" if each.exit_code == ExitCode.DISTURBED else "ERROR"


def line(each: Gated, wish: Wish) -> str:
    """The verdict on one preset."""
    return f"{word(each)} {each.preset.name}: {detail(each, wish)}"


def detail(each: Gated, wish: Wish) -> str:
    """The ratio with its interval, or why there is none."""
    if each.decision is None or each.baseline is None:
        return printable(each.why)
    found = f"{_ratio(each)} of the baseline's {units.rate(each.baseline.tgs or 0.0)} TGS"
    runs = f"{units.counted(len(each.quiet), 'run')} against {len(each.baseline.samples)}"
    why = f": {printable(each.why)}" if each.why else ""
    return f"{found}, {runs}, margin {units.percent(wish.margin)}{why}"


def measured(each: Gated) -> str:
    """A baseline as it was measured: its TGS, the spread between its runs, how many there are."""
    tgs = each.row.tgs or 0.0
    share = spread((), each.quiet)
    return f"TGS {units.rate(tgs)}, runs spread by {units.percent(share)}, n = {len(each.quiet)}"


def _ratio(each: Gated) -> str:
    assert each.decision is not None
    assert each.decision.ratio.ci95 is not None
    low, high = each.decision.ratio.ci95
    return f"{each.decision.ratio.value:.3f}x ({low:.3f} to {high:.3f})"


def junit(found: Sequence[Gated], wish: Wish, began: datetime, host: str) -> str:
    """A JUnit file: a regression is a failure, a failed run an error, what is undecided is skipped.

    `began`: when the gate was started, on `host`. No standard says what such a file holds: this one is what
    both Ant's schema (windyroad/JUnit-Schema) and Jenkins' (xunit-plugin, junit-10.xsd) allow.
    """
    words = [word(each) for each in found]
    suite = ET.Element(
        "testsuite",
        name="tgsbench gate",
        timestamp=began.strftime("%Y-%m-%dT%H:%M:%S"),
        hostname=printable(host) or "localhost",
        tests=str(len(found)),
        failures=str(words.count("FAIL")),
        errors=str(words.count("ERROR")),
        skipped=str(words.count("UNDECIDED")),
        time=_seconds(sum(each.took_s for each in found)),
    )
    ET.SubElement(suite, "properties")
    for each, said in zip(found, words, strict=True):
        _testcase(suite, each, said, wish)
    ET.SubElement(suite, "system-out").text = "\n".join(line(each, wish) for each in found)
    ET.SubElement(suite, "system-err")
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


_KINDS = {"FAIL": "failure", "ERROR": "error", "UNDECIDED": "skipped"}
"""What JUnit calls a verdict; it has no word for PASS."""


def _testcase(suite: ET.Element, each: Gated, said: str, wish: Wish) -> None:
    case = ET.SubElement(
        suite, "testcase", classname="tgsbench", name=each.preset.name, time=_seconds(each.took_s)
    )
    if said in _KINDS:
        end = ET.SubElement(case, _KINDS[said], message=detail(each, wish))
        if said != "UNDECIDED":  # Ant's schema has a type for what failed alone
            end.set("type", f"exit code {each.exit_code}")


def _seconds(took_s: float) -> str:
    return f"{took_s:.3f}"


def markdown(found: Sequence[Gated], wish: Wish) -> str:
    """A table for a pull request."""
    lines = ["| preset | verdict | TGS | baseline | ratio (95 %) | runs | |", "|---|---|--:|--:|---|--:|---|"]
    for each in found:
        new = units.rate(each.row.tgs) if each.quiet and each.row.tgs else "-"
        old = units.rate(each.baseline.tgs) if each.baseline and each.baseline.tgs else "-"
        ratio = _ratio(each) if each.decision else "-"
        cells = (each.preset.name, word(each), new, old, ratio, str(len(each.quiet)), printable(each.why))
        lines.append(markdown_row(cells))
    power = f"a loss of {units.percent(wish.margin)} is found in {units.percent(wish.power)} of cases"
    return "\n".join(["### tgsbench gate", "", *lines, "", f"TGS: tokens per GPU per second; {power}.", ""])
