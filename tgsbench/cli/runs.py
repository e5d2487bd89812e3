"""`tgsbench runs`: list, tag, prune, archive and restore stored runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from tgsbench import units
from tgsbench.cli import complete, diagnostics, output
from tgsbench.cli.effect import refuse_before_subcommand
from tgsbench.cli.groups import ListGroup
from tgsbench.errors import ExitCode, TgsError
from tgsbench.results import choose, index, prune, run_columns
from tgsbench.results.choose import Filter
from tgsbench.results.index import Summary
from tgsbench.safe_files import one_line, utf8
from tgsbench.store import run_dir
from tgsbench.store.run_dir import RunDir
from tgsbench.store.tags import change_tags, check_tags

_FOLDER = click.option(
    "--output", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder of runs (./runs)."
)


@click.group(cls=ListGroup, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.option("--tag", help="Only runs with this tag.")
@click.option("--status", help="Only runs that ended so: ok, oom, crashed, …")
@click.option(
    "--preset", shell_complete=complete.presets, help="Only runs of presets with this in their name."
)
@click.option("--engine", shell_complete=complete.engines, help="Only runs of this engine.")
@click.option("--newer-than", metavar="7d", help="Only runs younger than this.")
@click.option(
    "--sort",
    "column",
    shell_complete=complete.columns,
    metavar="COLUMN",
    help="By tgs, when, preset, status, run, … (when).",
)
@click.option("--limit", type=click.IntRange(min=1), help="So many at most.")
@_FOLDER
@click.pass_context
def runs(
    ctx: click.Context,
    as_json: bool,
    tag: str | None,
    status: str | None,
    preset: str | None,
    engine: str | None,
    newer_than: str | None,
    column: str | None,
    limit: int | None,
    folder: Path | None,
) -> None:
    """List stored runs, newest first; subcommands look after them.

    A preset with * was changed by --set; `show RUN` says how.
    """
    ctx.obj = folder
    refuse_before_subcommand(kept=("folder",))
    if ctx.invoked_subcommand is not None:
        return
    root = run_dir.runs_root(folder)
    age_s = prune.parse_age(newer_than) if newer_than else None
    wanted = Filter(tag=tag, status=status, preset=preset, engine=engine, newer_than_s=age_s)
    now_unix = time.time()
    listed = index.newest_first([*index.list_summaries(root), *_imported(root)])
    found = [s for s in listed if wanted.takes(s, now_unix)]
    found = (choose.in_order(found, column) if column else found)[:limit]
    if as_json:
        output.json([_row(root, summary) for summary in found])
    elif not found and str(wanted):
        output.line(f"no run in {root} with {wanted}")
    elif not found:
        output.line(f"no runs in {root} yet; start one: tgsbench run --preset tiny_cpu --headless")
    else:
        output.line("\n".join(_table(found)))


@runs.command("tag")
@click.argument("run", shell_complete=complete.runs)
@click.argument("tags", nargs=-1, required=True, metavar="TAG… or ^TAG…")
@_FOLDER
@click.pass_context
def tag_run(ctx: click.Context, run: str, tags: tuple[str, ...], folder: Path | None) -> None:
    """Add tags to a run; a tag written ^NAME is removed."""
    check_tags(tags)
    found = run_dir.find(_root(ctx, folder), run)
    output.line(f"{found.run_id}: {', '.join(change_tags(found, tags)) or 'no tags'}")


@runs.command("prune", short_help="Delete old or failed runs.")
@click.option("--keep", type=click.IntRange(min=0), help="Spare the newest so many.")
@click.option("--older-than", metavar="30d", help="Only runs older than this.")
@click.option("--status", "statuses", multiple=True, help="Only runs that ended so; may be repeated.")
@click.option("--tagged", is_flag=True, help="Tagged runs too.")
@click.option("--yes", is_flag=True, help="Delete; without it the list is printed only.")
@_FOLDER
@click.pass_context
def prune_runs(
    ctx: click.Context,
    keep: int | None,
    older_than: str | None,
    statuses: tuple[str, ...],
    tagged: bool,
    yes: bool,
    folder: Path | None,
) -> None:
    """Delete runs that all given conditions let go; tagged and running ones stay."""
    age_s = prune.parse_age(older_than) if older_than else None
    if keep is None and age_s is None and not statuses:
        raise TgsError("prune needs a condition", hint="--keep 100, --older-than 30d or --status crashed")
    root = _root(ctx, folder)
    chosen = prune.choose(
        index.list_summaries(root),
        keep=keep,
        older_than_s=age_s,
        statuses=statuses,
        tagged=tagged,
        now_unix=time.time(),
    )
    from tgsbench.launch import detached

    kept = 0
    for summary in chosen:
        try:
            if yes:
                detached.discard(RunDir(root / summary.run_id))
        except TgsError as error:
            kept += 1
            diagnostics.warn(f"kept {summary.run_id}: {error.msg}", error.hint)
        else:
            output.line(
                f"{'deleted' if yes else 'would delete'}  {one_line(summary.run_id)}  {summary.status}"
            )
    if not chosen:
        diagnostics.note("no run meets these conditions: nothing to delete")
    if chosen and not yes:
        diagnostics.note(f"{units.counted(len(chosen), 'run')}; --yes deletes them")
    if kept:
        raise TgsError(
            f"{units.counted(kept, 'run')} of {len(chosen):,} could not be deleted", exit_code=ExitCode.STORE
        )


@runs.command("archive", short_help="Write runs into one file (.tar.gz).")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("names", nargs=-1, shell_complete=complete.runs, metavar="RUN…")
@click.option("--tag", "wanted", help="All runs with this tag.")
@_FOLDER
@click.pass_context
def archive_runs(
    ctx: click.Context, file: Path, names: tuple[str, ...], wanted: str | None, folder: Path | None
) -> None:
    """Write runs into one file (.tar.gz) with a checksum for every file of them."""
    root = _root(ctx, folder)
    store = run_dir.Store(root)
    found = {run.run_id: run for run in map(store.find, names)}
    if wanted:
        tagged = [s.run_id for s in index.list_summaries(root) if wanted in s.tags]
        found |= {run_id: RunDir(root / run_id) for run_id in tagged}
    if not found:
        raise TgsError("no run to archive", hint="tgsbench runs archive FILE.tar.gz latest")
    from tgsbench.store import archive as archives

    sums = archives.pack(list(found.values()), file)
    output.line(f"{file}: {len(found)} runs, {len(sums.members)} files, {units.size(file.stat().st_size)}")


@runs.command("restore", short_help="Bring the runs of an archive back.")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--max-size", metavar="10G", help="What its files may hold in all (100 times the archive).")
@_FOLDER
@click.pass_context
def restore_runs(ctx: click.Context, file: Path, max_size: str | None, folder: Path | None) -> None:
    """Bring the runs of an archive back; nothing appears unless every checksum holds."""
    from tgsbench.store import archive as archives

    try:
        max_bytes = None if max_size is None else units.parse_length(max_size)
    except ValueError as error:
        raise TgsError(f"--max-size {max_size} is no size", hint="--max-size 10G, or 500M") from error
    for name in archives.unpack(file, _root(ctx, folder), max_bytes):
        output.line(name)


def _root(ctx: click.Context, folder: Path | None) -> Path:
    return run_dir.runs_root(folder or ctx.obj)


def _imported(root: Path) -> list[Summary]:
    """Rows of other tools' logs; nothing is imported for folders without any."""
    if not (root / "foreign").is_dir():
        return []
    from tgsbench.results import imported

    return imported.summaries(root)


def _row(root: Path, summary: Summary) -> dict[str, object]:
    if summary.status == "damaged":
        return {"run_id": summary.run_id, "status": "damaged", "reason": summary.reason}
    folder = (
        root / "foreign" / f"{summary.run_id}.json" if summary.status == "imported" else root / summary.run_id
    )
    return {**msgspec.structs.asdict(summary), "run_dir": utf8(folder)}


def _table(found: Sequence[Summary]) -> list[str]:
    """Aligned lines; rich takes 3 s for a table of 10,000 rows."""
    columns = run_columns.columns(run_columns.TABLE)
    cells = [[column.title, *map(column.text, found)] for column in columns]
    widths = [max(map(len, column)) for column in cells][:-1]
    forms = [f"{{:{'>' if c.right else '<'}{w}}}" for c, w in zip(columns, [*widths, 0], strict=True)]
    line = "  ".join(forms).format
    return [line(*row).rstrip() for row in zip(*cells, strict=True)]
