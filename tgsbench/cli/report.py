"""`tgsbench report`: runs and published rows as a page, a table or a document."""

from __future__ import annotations

import itertools
from pathlib import Path

import click

from tgsbench import units
from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_together
from tgsbench.errors import ExitCode, TgsError
from tgsbench.report import collect, page, plain
from tgsbench.report.document import Report
from tgsbench.store import run_dir


@click.command()
@click.argument("words", shell_complete=complete.rows, nargs=-1, metavar="[RUN ...]")
@click.option("--published", is_flag=True, help="The published rows alone: XTuner against LLaMA-Factory.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="Write one self-contained page.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown (what is printed by default).")
@click.option("--csv", "as_csv", is_flag=True, help="Print one CSV line a row, unrounded.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--price", type=click.FloatRange(min=0), help="USD for an hour of one GPU.")
@click.option("--title", default="", help="Title of the report.")
@click.option("--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs.")
def report(
    words: tuple[str, ...],
    published: bool,
    html_file: Path | None,
    as_markdown: bool,
    as_csv: bool,
    as_json: bool,
    price: float | None,
    title: str,
    folder: Path | None,
) -> None:
    """Report on runs beside published and predicted figures.

    RUN is a run (name, part of it, folder, latest), a preset, published:PRESET or an imported row.
    """
    refuse_together(
        ("title", "published"),
        ("price", "published"),
        ("folder", "published"),
        *itertools.combinations(("as_markdown", "as_csv", "as_json"), 2),
    )
    if published == bool(words):
        raise TgsError(
            "name the runs to report on, or --published",
            hint="tgsbench report latest --html report.html",
        )
    found = (
        collect.published() if published else collect.of_words(run_dir.runs_root(folder), words, title, price)
    )
    if html_file is not None:
        write_page(html_file, page.render(found))
    if as_json:
        output.line(collect.as_json(found).decode())
    elif as_csv:
        output.line(plain.csv_text(found).rstrip("\n"))
    elif as_markdown or html_file is None:
        _markdown(found)


def _markdown(found: Report) -> None:
    for line in plain.markdown(found).splitlines():
        output.line(line)


def write_page(path: Path, text: str) -> None:
    """Write a page and say so; raises TgsError where the file cannot be written."""
    data = text.encode("utf-8", "replace")
    try:
        run_dir.write_atomic(path, data)
    except OSError as error:
        raise TgsError(f"{path}: {error.strerror}", exit_code=ExitCode.STORE) from error
    diagnostics.note(f"wrote {path} ({units.size(len(data))})")
