"""A group of runs that repeat one measurement, as it is printed."""

from __future__ import annotations

from tgsbench.cli import output
from tgsbench.report.summary import repeats_lines
from tgsbench.results.repeats import RepeatedRuns


def print_repeats(found: RepeatedRuns, as_json: bool) -> None:
    """Print the group's row and its runs for people, or as one JSON document."""
    if as_json:
        output.json(found)
        return
    for line in repeats_lines(found.row, found.runs):
        output.line(line)
