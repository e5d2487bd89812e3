"""What a report says, before it has a format: tables by model, series for charts, one section a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct, field

from tgsbench.models.flops import FORMULAS
from tgsbench.models.spec import num_parameters
from tgsbench.report.comparison import verdict_text
from tgsbench.results.compare import Comparison, compare
from tgsbench.results.rows import Row
from tgsbench.schema.preset import ModelShape
from tgsbench.schema.run import SCHEMA_VERSION
from tgsbench.systems.registry import title_of

TGS = "real tokens / (GPUs x wall seconds), over whole optimizer steps, median, warm-up excluded"
MFU = "model TFLOPs / dense bf16 peak of the GPU"


class ReportEntry(Struct, kw_only=True):
    """One row of a table: a preset, what was published for it, forecast, and measured."""

    config: str
    """Name of the preset."""
    model: ModelShape
    gpu: str
    num_gpus: int
    seq_len: int
    sp: int
    rehearsal_of: str = ""
    published: dict[str, Row] = {}
    """By system."""
    forecast: Row | None = field(default=None, name="predicted")
    measured: Row | None = None
    against: list[Comparison] = []
    """The measured row against each published one."""

    @property
    def label(self) -> str:
        """What charts call it: the length, and the run where it is one of several."""
        return self.measured.label if self.measured else self.config


class ReportTable(Struct, kw_only=True):
    """All rows of one model, shortest sequence first."""

    model: str
    num_parameters: int
    entries: list[ReportEntry]
    systems: list[str]
    """Systems with a published row in it."""
    compared: list[Comparison] = []
    """Measured rows against the first of them."""


class RunSection(Struct, kw_only=True):
    """What is said of one run alone."""

    name: str
    status: str
    lines: list[str]
    """The summary, as `tgsbench show` prints it."""
    environment: dict[str, str]
    step_tgs: list[float] = []
    mem_by_rank_gib: list[float] = []
    mem_kind: str = ""
    tflops: dict[str, float] = {}
    claimed: dict[str, str] = {}
    """An external system's own figures."""
    hotspots: dict[str, float] = {}
    """Share of the step by part, largest first; empty without a profile."""
    findings: list[str] = []


class Report(Struct, kw_only=True):
    """Everything that a report shows, in any format."""

    schema_version: int = SCHEMA_VERSION
    title: str
    made_unix: float = 0.0
    """When it was made."""
    tables: list[ReportTable]
    runs: list[RunSection] = []
    conventions: dict[str, str] = {}
    """Figure -> how it is defined."""
    sources: list[str] = []
    notes: list[str] = []


def date_text(unix: float) -> str:
    """A point in time, the same wherever the report is read."""
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC") if unix else ""


def findings(report: Report) -> list[tuple[str, list[Comparison]]]:
    """What was compared, by heading."""
    entries = [entry for table in report.tables for entry in table.entries]
    published = [item for entry in entries for item in entry.against]
    others = [item for table in report.tables for item in table.compared]
    headed = (("Against the published rows", published), ("Against each other", others))
    return [(title, items) for title, items in headed if items]


def finding_text(found: Comparison) -> str:
    """One comparison in a sentence."""
    because = f" ({'; '.join(found.reasons[:3])})" if found.reasons else ""
    return f"{found.a.label} against {found.b.label}: {verdict_text(found)}{because}"


def brand(system: str) -> str:
    """A system's name as its makers write it."""
    return title_of(system)


def tables_of(entries: Sequence[ReportEntry]) -> list[ReportTable]:
    """Group entries by model, smallest first; shrunken models of rehearsals stand apart."""
    groups: dict[tuple[int, str], list[ReportEntry]] = {}
    for entry in entries:
        title = f"{entry.model.name} (rehearsal)" if entry.rehearsal_of else entry.model.name
        groups.setdefault((num_parameters(entry.model), title), []).append(entry)
    tables = []
    for (count, title), members in sorted(groups.items()):
        members.sort(key=lambda e: (e.seq_len, e.num_gpus, e.label))
        systems = list(dict.fromkeys(name for entry in members for name in entry.published))
        measured = [entry.measured for entry in members if entry.measured is not None]
        compared = [compare(row, measured[0]) for row in measured[1:]]
        tables.append(
            ReportTable(
                model=title, num_parameters=count, entries=members, systems=systems, compared=compared
            )
        )
    return tables


def with_comparisons(entry: ReportEntry) -> ReportEntry:
    """The entry with its measured row compared with every published one."""
    if entry.measured is not None:
        entry.against = [compare(entry.measured, row) for row in entry.published.values()]
    return entry


def conventions() -> dict[str, str]:
    """Definition of every figure that a report may show."""
    shown = {"TGS": TGS, "MFU": MFU}
    return shown | {f"TFLOPs ({name})": formula for name, formula in FORMULAS.items()}
