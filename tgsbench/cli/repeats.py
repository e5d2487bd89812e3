"""A group of runs that repeat one measurement, as it is printed."""

from __future__ import annotations

from collections.abc import Sequence

from tgsbench.cli import output
from tgsbench.report.summary import repeats_lines
from tgsbench.results.repeats import row_of
from tgsbench.schema.run import Result


def print_repeats(group: str, found: Sequence[Result], as_json: bool) -> None:
    """Print the group's row and its runs for people, or as one JSON document."""
    row = row_of(group, found)
    if as_json:
        output.json({"group": group, "row": row, "runs": found})
        return
    for line in repeats_lines(row, found):
        output.line(line)
