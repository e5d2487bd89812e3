"""What `tgsbench verify` found, as a table for people."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from tgsbench.confined import printable
from tgsbench.schema.verify import Check, CheckName, Verification
from tgsbench.units import duration

TITLES: dict[CheckName, str] = {
    "parity": "loss and gradients, mesh against one rank",
    "engines": "losses, engine against engine",
    "labels": "labels, at shard borders above all",
    "tokens": "distinct tokens",
    "all_to_all": "all-to-alls against the shapes",
    "mask": "document mask: change one, watch the others",
    "determinism": "two runs, bit for bit",
}
_MARKS = {"passed": ("✓ pass", "green"), "failed": ("✗ FAIL", "bold red"), "skipped": ("- skip", "yellow")}


def table(found: Verification) -> Table:
    """One row a check: verdict, figure, bound, and where it is worst or what else must be said."""
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    view.add_column("check", overflow="fold")
    view.add_column("engine", overflow="fold")
    view.add_column("verdict", no_wrap=True)
    view.add_column("measured", justify="right")
    view.add_column("bound", justify="right")
    view.add_column("worst; notes", overflow="fold")
    for check in found.checks:
        mark, style = _MARKS[check.status]
        cells = (TITLES[check.name], check.engine, check.measured, check.bound, _remarks(check))
        title, engine, measured, bound, remarks = (Text(printable(cell)) for cell in cells)
        view.add_row(title, engine, Text(mark, style), measured, bound, remarks)
    return view


def verdict(found: Verification) -> str:
    """How many checks passed, failed and were skipped, and on what."""
    counts = [f"{found.num_passed} of {len(found.checks)} checks passed"]
    counts += [f"{found.num_failed} failed"] if found.num_failed else []
    counts += [f"{found.num_skipped} skipped (no proof either way)"] if found.num_skipped else []
    return (
        f"{found.preset}: {', '.join(counts)} in {duration(found.wall_s)}\n"
        f"on a shrunken model: {found.what}, {found.num_steps} steps of random tokens"
    )


def _remarks(check: Check) -> str:
    return "; ".join(filter(None, (check.worst, check.note)))
